"""How well token blame finds what is wrong: average precision on DeFacto.

    python benchmarks/blame.py MODEL_DIRECTORY train.jsonl val.jsonl test.jsonl

A flawed summary is scored with its judgment in the prompt and without; a token's score is the
difference of its log-probabilities, and it is wrong if the corrected summary drops its word. Beside
the average precision stand that of a random order, which is the share of wrong tokens, and that of
the same judgments dealt out to other summaries. Intervals (95 %) are of records drawn anew.

All 1,806 records of the three files take stories260k three to six minutes on two CPU cores. What
a model of stories says of news checks that the numbers are computed, and nothing of the method.
"""

import argparse
import random
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from lfjax.data.filters import shuffled
from lfjax.data.load import told
from lfjax.data.plan import make_plan
from lfjax.data.records import Record
from lfjax.data.rows import encode_records
from lfjax.data.sources import load
from lfjax.data.templates import template_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.methods.cut import METHOD, OPTIONS
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder, logprob_fn
from lfjax.models.hf import load_frozen
from lfjax.sharding import make_mesh
from lfjax.stages.blame import (
    RULE,
    average_precision,
    blame_columns,
    dropped_tokens,
    score_units,
    text_columns,
)

BATCH_ROWS, DRAWS, SEED = 4, 500, 0
Tokens = tuple[np.ndarray, np.ndarray]  # of one response: scores, and whether each is wrong


def corrected(path: str, at_most: int) -> list[Record]:
    """Flawed records with a corrected response, drawn where there are more than `at_most`."""
    records = [r for r in load(path, "defacto").records if not r.satisfactory and r.refinement]
    if at_most and at_most < len(records):
        records = random.Random(SEED).sample(records, at_most)
    return records


def make_blamer(folder: str, template: str, max_tokens: int):
    """records -> (scored tokens by record, what became of the records), with one model."""
    config = ModelConfig.from_hf(read_hf_config(folder), folder)
    tokenizer, template = load_tokenizer(folder), template_text(template, folder)
    mesh = make_mesh({"data": jax.device_count()})
    params = load_frozen(folder, config, mesh, "float32")
    logprobs = jax.jit(logprob_fn(Decoder(config)))
    length = max_tokens or config.max_positions

    def blamer(records: list[Record]) -> tuple[dict[int, Tokens], str]:
        sizes = dict(max_tokens=length, row_tokens=2 * length)
        views = METHOD.views_of(OPTIONS)
        encoded = encode_records(records, views, tokenizer, template, **sizes)
        units = encoded.units
        plan = make_plan(
            encoded.lengths,
            row_tokens=2 * length,
            seed=SEED,
            batch_rows=-(-BATCH_ROWS // mesh.size) * mesh.size,
            multiple=mesh.size,
        )
        logp = score_units(partial(logprobs, params), plan, units, mesh)
        rule = {name: OPTIONS[name] for name in RULE}
        out = {}
        for unit, views_logp in zip(units, logp):
            record = records[unit.record]
            shown = text_columns(record, unit, tokenizer)
            wrong = dropped_tokens(
                shown["response"], record.refinement, shown["start"], shown["end"]
            )
            ratio = np.array(blame_columns(views_logp, **rule)["log_ratio"])
            out[unit.record] = ratio[:-1], wrong[:-1]  # EOS has no word to be dropped
        return out, f"{len(units)} of {len(records)} used ({told(encoded.counts)})"

    return blamer


def precision(parts: list[Tokens]) -> float:
    """Average precision over the tokens of all responses."""
    scores, wrong = (np.concatenate(column) for column in zip(*parts))
    return average_precision(scores, wrong)


def report(split: str, records: list[Record], blamer) -> None:
    """Print what blame finds in the records, and what it finds with judgments of others."""
    start = time.perf_counter()
    own, story = blamer(records)
    others, _ = blamer(shuffled(records, SEED)[0])
    both = sorted(own.keys() & others.keys())
    wrong = np.concatenate([own[i][1] for i in both])
    print(f"{split}: flawed and corrected records: {story}")
    print(f"{split}: {len(wrong):,} tokens, {wrong.mean():.4f} of them wrong: AP of a random order")

    def precisions(drawn) -> tuple[float, float, float]:
        ap, ap_others = (precision([parts[i] for i in drawn]) for parts in (own, others))
        return ap, ap_others, ap - ap_others

    rng = np.random.default_rng(SEED)
    draws = [precisions(rng.choice(both, len(both))) for _ in range(DRAWS)]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    names = ("AP", "AP, judgments shuffled", "difference")
    for name, value, *ends in zip(names, precisions(both), low, high):
        print(f"{split}: {name} {value:.4f} [{ends[0]:.4f}, {ends[1]:.4f}]")
    print(f"{split}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a model directory")
    parser.add_argument("files", nargs="+", help="of DeFacto")
    parser.add_argument("--records", type=int, default=0, help="at most so many of a file; 0: all")
    parser.add_argument("--template", default="alpaca")
    parser.add_argument("--max_tokens", type=int, default=0, help="0: the model's positions")
    args = parser.parse_args()
    blamer = make_blamer(args.model, args.template, args.max_tokens)
    for path in args.files:
        report(Path(path).stem, corrected(path, args.records), blamer)


if __name__ == "__main__":
    main()
