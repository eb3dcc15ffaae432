"""What each system of a run of claims took to learn and takes to answer, and what it comes to by
tier: means over repetitions, from what the run left.

    python -m lfjax.main --config configs/claims_srt.py --workdir runs/claims_srt
    python -m benchmarks.arms runs/claims_srt compared docs/claims/srt_arms.md

Counted from the base on, which all share. Tokens: learned by all train and RL stages that lead to
the system; generated for them to learn from; and generated for an answer. GFLOPs are those of
learning (forward and backward, attention included; in RL also of rollouts and their two forward
passes), a third of a step's more for the pass of DPO's reference and of RL's reward, and two a
parameter and token for what was generated besides, prompts included. An answer that was taken from
the store of answers counts as one that was generated. A critic's own words are not counted.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.flops import matmul_params
from lfjax.training.logs import write_atomic

REFERRING = ("dpo", "rl")  # one more pass over all tokens that are learned
COLUMNS = ("tokens learned", "GFLOPs", "generated to learn from", "generated for an answer")


@dataclass(frozen=True)
class Run:
    """A workdir's stages by their name, and those that are not counted."""

    workdir: Path
    apart: str

    def before(self, name: str) -> Iterator[tuple[str, str]]:
        """(role, stage) of what a stage read from others."""
        for role, given in read(self.workdir / name / "done.json")["inputs"].items():
            if found := self.stage(given["path"]):
                yield role, found[0]

    def stage(self, path: str) -> tuple[str, str] | None:
        """The stage that wrote a file, and its output; None for what no stage wrote. (A repetition
        may have been run in another workdir.)"""
        *folders, output = Path(path).parts
        for name in folders:
            if (self.workdir / name / "done.json").exists():
                return None if name.split("_", 1)[-1] == self.apart else (name, output)
        return None


@cache
def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def chain(run: Run, name: str) -> Iterator[str]:
    """The stages that an answer goes through, the last one first."""
    yield name
    for role, before in run.before(name):
        if role.startswith("data"):
            yield from chain(run, before)


def leading_to(run: Run, name: str) -> set[str]:
    """A stage and all that lead to it."""
    return {name}.union(*(leading_to(run, before) for _, before in run.before(name)))


def learned_from(run: Run, name: str) -> set[str]:
    """The stages that lead to a stage's models, and those themselves."""
    models = (before for role, before in run.before(name) if not role.startswith("data"))
    return set().union(*(leading_to(run, model) for model in models))


def cost(run: Run, name: str) -> tuple[float, float, float]:
    """(tokens learned, tokens generated, FLOPs) of a stage."""
    done = read(run.workdir / name / "done.json")
    c, config = done["cost"], read(run.workdir / name / "stage.json")["config"]
    if "model_flops" in c:
        more = c["model_flops"] / 3 if config.get("method", config["kind"]) in REFERRING else 0.0
        return c["tokens"], 0.0, c["model_flops"] + more
    if "asked" not in c or "init" not in done["inputs"]:
        return 0.0, 0.0, 0.0
    model = done["inputs"]["init"]["path"]
    weights = matmul_params(ModelConfig.from_hf(read_hf_config(model), model))
    tokens, prompts = generated(done["headline"], c)
    return 0.0, tokens, 2.0 * weights * (tokens + prompts)


def generated(headline: dict[str, float], c: dict[str, float]) -> tuple[float, float]:
    """Tokens of a stage's answers and of what they answer, as if none had been stored."""
    if not c["asked"]:  # all were: what cannot be known of a repetition is the others' mean
        known = "mean_tokens" in headline and "refined" not in headline
        return headline["records"] * headline["mean_tokens"] if known else np.nan, 0.0
    questions = headline["judged"] + headline["missing"] if "judged" in headline else c["asked"]
    if "answers" in headline:
        questions = headline["answers"] * (2 if "refined" in headline else 1)
    elif "unchanged" in headline:  # one question a step, or two by the model's own feedback
        questions = c["asked"] * headline["records"] * headline["mean_tokens"] / c["tokens"]
    return tuple(c[name] * questions / c["asked"] for name in ("tokens", "prompt_tokens"))


def spent(run: Run, answering: list[str], output: str, first: bool) -> float:
    """Tokens that are generated for an answer to every prompt, of stages from the last one back.

    Args:
      output: file of the last stage; of several steps as many as it is of are counted.
      first: of a model that refines its answers its first answers are meant.
    """
    total, samples = 0.0, 0
    for name in answering:
        done, config = (read(run.workdir / name / f"{f}.json") for f in ("done", "stage"))
        config, headline = config["config"], done["headline"]
        tokens = cost(run, name)[1]
        if first and "refined" in headline:
            tokens = headline["answers"] * headline["mean_tokens"]
        if samples and config.get("samples"):
            tokens *= samples / config["samples"]
        samples = samples or config.get("options", {}).get("samples", 0)
        steps = [o["path"] for o in done["outputs"].values()]
        if name == answering[0] and output in steps:
            tokens *= (steps.index(output) + 1) / len(steps)
        total += tokens
    return total


def row(run: Run, path: str, prompts: int, first: bool) -> tuple[float, ...]:
    """`COLUMNS` of one repetition's system."""
    name, output = run.stage(path)
    answering = list(chain(run, name))
    learning = set().union(*(learned_from(run, stage) for stage in answering))
    tokens, sampled, flops = np.sum([cost(run, n) for n in learning] or [(0, 0, 0)], axis=0)
    return tokens, flops / 1e9, sampled, spent(run, answering, output, first) / prompts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("evaluation", help="the stage that scored the systems")
    parser.add_argument("out", type=Path)
    parser.add_argument("--apart", default="base", help="stage that all share, not counted")
    args = parser.parse_args()
    run = Run(args.workdir.absolute(), args.apart)
    results = read(run.workdir / args.evaluation / "results.json")
    config = read(run.workdir / args.evaluation / "stage.json")["config"]
    prompts = results["prompts"] // results["seeds"]
    files = defaultdict(list)
    for role, given in read(run.workdir / args.evaluation / "done.json")["inputs"].items():
        if role.startswith("systems/"):
            files[role.split("/")[1]].append(given["path"])
    tiers = [k for k in next(iter(results["systems"].values()))["table"] if k.count("/") == 2]
    lines = [
        f"Means over {results['seeds']} repetitions; `benchmarks/arms.py` says what is counted.",
        "",
        f"| | {' | '.join((*COLUMNS, *tiers))} |",
        "|---" * (1 + len(COLUMNS) + len(tiers)) + "|",
    ]
    for name, own in results["systems"].items():
        field = config["systems"][name].get("field", config["field"])
        rows = [row(run, path, prompts, field == "response") for path in files[name]]
        numbers = np.nanmean(rows, axis=0)
        cells = [f"{n:,.0f}" for n in numbers] + [f"{own['table'][t]:.3f}" for t in tiers]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    write_atomic(args.out, "\n".join(lines) + "\n")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
