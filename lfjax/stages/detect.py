"""The detect stage: which tokens of flawed responses a model blames when it is shown their
judgments, and whether these are the wrong ones. It tells before any training what CUT would learn
from."""

import json
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool

from lfjax.data.load import encode, load_records
from lfjax.data.mixture import data_inputs
from lfjax.data.plan import make_plan
from lfjax.data.records import Record
from lfjax.data.templates import speaking, template_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.lab.metrics import blame_scores, tokens_at
from lfjax.lab.oracle import parts_of
from lfjax.lab.world import faults
from lfjax.methods import get_method
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder, logprob_fn
from lfjax.sharding import BATCH, axis_size
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.blame import (
    RULE,
    blame_columns,
    dropped_tokens,
    score_units,
    text_columns,
    to_table,
    write,
)
from lfjax.stages.trainable import initial_params
from lfjax.training.logs import progress, write_atomic


def inputs(config) -> dict[str, str]:
    """What the stage reads: judged records, and a model."""
    init = config.init if isinstance(config.init, str) else config.init.path
    if init is None:
        raise UserError("model.path is not set: give a model directory, --config.model.path=DIR.")
    return {**data_inputs(config.data), "init": init}


def detect(stage: Stage) -> Result:
    """Score flawed responses with their judgment and without; write the table and page of blame,
    and how it agrees with what is known to be wrong.

    Raises: UserError where no response is flawed.
    """
    c, source, method = stage.config, stage.inputs["init"], get_method("cut")
    options = method.checked(c.options.to_dict())
    rule = {name: options[name] for name in RULE}
    template = template_text(c.data.template, source)
    tokenizer = speaking(load_tokenizer(source), template)
    records = load_records(c.data, stage.inputs, stage.seed)[0].records
    flawed = [r for r in records if not r.satisfactory]
    if not flawed:
        raise UserError(f"stage '{stage.name}': none of {len(records)} responses is flawed.")
    encoded = encode(c, flawed, method.views_of(options), tokenizer, template)
    units, shards = encoded.units, axis_size(stage.mesh, BATCH)
    how = dict(row_tokens=c.row_tokens, seed=stage.seed, multiple=shards)
    plan = make_plan(encoded.lengths, batch_rows=max(c.batch_rows, shards), **how)
    config = ModelConfig.from_hf(read_hf_config(source), source)
    params = initial_params(stage, config)
    score = jax.jit(logprob_fn(Decoder(config, c.dtype)), out_shardings=P())
    stage.begin()
    with progress(stage.name, done=0, total=plan.steps) as bar:

        def forward(rows):
            bar.update(1)
            return score(params, rows)

        logp = score_units(forward, plan, units, stage.mesh)
    found = [
        text_columns(flawed[unit.record], unit, tokenizer) | blame_columns(parts, **rule)
        for unit, parts in zip(units, logp)
    ]
    about = {"stage": stage.name, "flawed": len(found), "heldout": False, "step": 0, **rule}
    write(stage.folder / "blame" / "step-0", to_table(found[: c.blame_records], about))
    scores = against_truth([flawed[u.record] for u in units], found, options["threshold"])
    results = {"responses": len(found), **rule, "scores": scores}
    write_atomic(stage.folder / "results.json", json.dumps(results, indent=2) + "\n")
    return Result({"results": "results.json"}, {"responses": len(found), **scores}, {})


def against_truth(
    records: Sequence[Record], rows: Sequence[dict], threshold: float
) -> dict[str, float | None]:
    """`blame_scores` over the tokens of all responses of which it is known what is wrong; and of
    the wrong tokens, `out_of_reach`: the share that is so likely, at least 1 / threshold, that no
    judgment could have it blamed (the ratio cannot exceed 1 / p). None where nothing is known."""
    ratios, plain, wrong = [], [], []
    for record, row in zip(records, rows, strict=True):
        text, ends = row["response"], (row["start"][:-1], row["end"][:-1])  # EOS has no word
        truth = wrong_tokens(record, text, *ends)
        if truth is not None:
            ratios.append(np.array(row["log_ratio"][:-1]))
            plain.append(np.array(row["logp_plain"][:-1]))
            wrong.append(truth)
    if not wrong:
        return {}
    found = blame_scores(ratios, wrong, threshold)
    likely = np.concatenate(plain)[np.concatenate(wrong)] >= -np.log(threshold)
    found["out_of_reach"] = float(likely.mean()) if likely.size else float("nan")
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def wrong_tokens(
    record: Record, text: str, start: Sequence[int], end: Sequence[int]
) -> Bool[np.ndarray, "n"] | None:
    """Which tokens of a response are wrong: those at the places that its judgment marks, and in the
    lab only if they are wrong indeed; else those that its correction drops. None where neither is
    known.

    Args:
      text: the response as its tokens spell it, perhaps with more space before it.
      start, end: the characters of each token in `text`.
    """
    spans = [s for f in record.feedback for s in f.spans or ()]
    if "world" in record.meta:
        real = {p.span for p in faults(parts_of(record, text.lstrip()))}
        spans = [s for s in spans if tuple(s) in real]
    elif not spans:
        return dropped_tokens(text, record.refinement, start, end) if record.refinement else None
    return tokens_at(spans, text, start, end)
