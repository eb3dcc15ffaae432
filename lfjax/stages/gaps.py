"""The gaps stage: what a gap reward says of improved responses, and whether it is to be trusted.

Nothing is evaluated with the reward that was learned from (`evaluate` does that); here the reward
itself is looked at: on pairs that are new to it, and that may be better than all that it has seen.
n improved responses.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lfjax.data.records import Feedback, Record, to_jsonl
from lfjax.data.sources import load
from lfjax.errors import UserError
from lfjax.evaluation.correlation import correlation
from lfjax.lab.oracle import parts_of, right_share
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.monitors import bands, similarity
from lfjax.stages.rollouts import turned
from lfjax.stages.scoring import load_scorer
from lfjax.training.logs import write_atomic


def inputs(config) -> dict[str, str]:
    """What the stage reads: the systems' improved records, and the gap reward."""
    if not config.gap or not config.systems:
        raise UserError("gaps: give a gap reward and at least one system of improved records.")
    return {
        "init": config.gap,
        **{f"systems/{name}": system.path for name, system in config.systems.items()},
    }


def gaps(stage: Stage) -> Result:
    """Measure every system, and write `results.json`, and of every system its Records, with the gap
    in standard deviations as what is said of them.

    Raises: UserError for a reward that scores single texts, and records that nobody improved.
    """
    c = stage.config
    scorer = load_scorer(stage.inputs["init"], stage.mesh, dtype=c.dtype)
    if not scorer.compares:
        raise UserError(f"gaps: {stage.inputs['init']} scores responses one by one, not a gap.")
    systems = {name: _improved(stage, name) for name in c.systems}
    stage.begin()
    bounds = scorer.bands
    results = {"bands": {"worse": bounds[0], "better": bounds[1]}, "systems": {}}
    for name, records in systems.items():
        found = np.asarray(scorer(records), float)
        results["systems"][name] = measured(records, found, scorer, bounds, truth=c.truth)
        said = [_said(r, float(value)) for r, value in zip(records, found / scorer.spread)]
        write_atomic(stage.folder / f"{name}.jsonl", to_jsonl(said))
    write_atomic(stage.folder / "results.json", json.dumps(results, indent=2) + "\n")
    for name, found in results["systems"].items():
        told = ", ".join(f"{k} {v:.3g}" for k, v in found.items())
        print(f"  {name}: {told}", flush=True)
    shown = ("gap", "gap_better", "copied", "length_correlation", "antisymmetry", "agreement")
    headline = {
        f"{name}/{key}": found[key]
        for name, found in results["systems"].items()
        for key in shown
        if key in found
    }
    return Result({"results": "results.json", **{n: f"{n}.jsonl" for n in systems}}, headline, {})


def _said(record: Record, value: float) -> Record:
    """The record with a gap as the only judgment of it."""
    polarity = "positive" if value > 0 else "negative"
    return replace(record, feedback=(Feedback("", polarity, author="gap", score=value),))


def measured(
    records: Sequence[Record],
    found: Float[np.ndarray, "n"],
    scorer: Callable[[Sequence[Record]], Float[np.ndarray, "n"]],
    bounds: tuple[float, float],
    *,
    truth: bool = False,
) -> dict[str, float]:
    """Numbers of one system.

    Args:
      found: its gaps.
      scorer: records -> centred gaps of refinements over responses.
      bounds: of the bands (`monitors.bands`).
      truth: compare with the oracle of the lab.

    Returns: `gap`, the shares of `monitors.bands`, by `meta.origin` too where there is one,
    `copied` and `similarity` to the response, `length_ratio` and `length_correlation` of the gap
    with the difference of lengths in words, `antisymmetry`, the correlation of g(a, b) with
    −g(b, a), `self`, the mean of g(a, a), which should be 0; and with `truth`, of pairs that the
    oracle tells apart, the share `agreement` on which the sign of the gap is right.
    """
    back = np.asarray(scorer([turned(r) for r in records]), float)
    same = np.asarray(scorer([replace(r, refinement=r.response) for r in records]), float)
    new, old = ([text(r).split() for r in records] for text in (_new, _old))
    longer = np.array([len(a) - len(b) for a, b in zip(new, old)], float)
    origins = np.array([r.meta.get("origin", "") for r in records])
    groups = {origin: origins == origin for origin in sorted(set(origins)) if origin}
    out = {
        "records": len(records),
        "gap": found.mean(),
        **bands(found, bounds, groups),
        "copied": np.mean([a == b for a, b in zip(new, old)]),
        "similarity": np.mean([similarity(_new(r), _old(r)) for r in records]),
        "length_ratio": sum(map(len, new)) / max(sum(map(len, old)), 1),
        "length_correlation": correlation(found, longer),
        "antisymmetry": correlation(found, -back),
        "self": same.mean(),
    }
    if truth:
        out |= agreement(records, found)
    return {name: float(value) for name, value in out.items()}


def agreement(records: Sequence[Record], found: Float[np.ndarray, "n"]) -> dict[str, Any]:
    """Of pairs that differ in their share of right parts, the share on which the gap's sign is
    right, and their number."""
    gain = np.array(
        [right_share(parts_of(r, _new(r))) - right_share(parts_of(r, _old(r))) for r in records]
    )
    told = gain != 0
    right = np.sign(found[told]) == np.sign(gain[told])
    return {
        "truth_gain": gain.mean(),
        "agreement": right.mean() if told.any() else float("nan"),
        "told_apart": told.sum(),
    }


def _improved(stage: Stage, name: str) -> list[Record]:
    path = stage.inputs[f"systems/{name}"]
    records = [r for r in load(path, "records").records if r.response and r.refinement]
    if not records:
        raise UserError(
            f"gaps: system '{name}' ({path}): no record has a response and a refinement."
        )
    return records


def _new(record: Record) -> str:
    return record.refinement or ""


def _old(record: Record) -> str:
    return record.response or ""
