"""The self-bias stage: whether a model's scores of its own refinements, or of preferred and
rejected responses, can be trusted."""

import json
from typing import Any

import numpy as np

from lfjax.data.load import load_records
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Feedback, Record, to_jsonl
from lfjax.data.sources import load
from lfjax.errors import UserError, nearest
from lfjax.evaluation.self_bias import notes, of_agreement, of_gains, of_scores, pairwise
from lfjax.lab.oracle import parts_of, right_share
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic

TRUTHS = ("", "oracle")
AGREES, DISAGREES = "The preferred response scores higher.", "It does not score higher."


def inputs(config) -> dict[str, str]:
    """What the stage reads: scored records, and all that were to be scored."""
    among = {"among": config.among} if config.among else {}
    return {**data_inputs(config.data), **among}


def self_bias(stage: Stage) -> Result:
    """Write `self_bias.json`: of records with a scored refinement how scores spread, and whether
    gains follow length or the truth; of the two sides of preferences, how often the preferred one
    scores higher, and in `records.jsonl` for each preference whether it does.

    Raises: UserError for records that are neither, or an unknown truth.
    """
    c = stage.config
    if c.truth not in TRUTHS:
        raise UserError(f"truth='{c.truth}'. {nearest(c.truth, filter(None, TRUTHS))}")
    records = load_records(c.data, stage.inputs, stage.seed)[0].records
    agreements, outputs = [], {"self_bias": "self_bias.json"}
    if any("side" in r.meta for r in records):
        among = load(stage.inputs["among"], "records").records if c.among else records
        found, agreements = of_sides(records, among)
    else:
        found = of_refinements(records, c.truth)
    for note in found["notes"]:
        print(f"  {note}", flush=True)
    stage.begin()
    write_atomic(stage.folder / "self_bias.json", json.dumps(found, indent=2) + "\n")
    if agreements:
        write_atomic(stage.folder / "records.jsonl", to_jsonl(agreements))
        outputs["records"] = "records.jsonl"
    spread = found.pop("scores")
    headline = {k: v for k, v in found.items() if isinstance(v, int | float)}
    for name, own in spread.items():
        headline |= {f"{name}/{k}": own[k] for k in ("mean", "entropy", "largest_share")}
    return Result(outputs, headline, {})


def of_refinements(records: list[Record], truth: str) -> dict[str, Any]:
    """Of responses and their refinements, each with a score. Raises: UserError where there is
    none."""
    pairs = [(r, *both) for r in records if (both := _scores(r))]
    if not pairs:
        raise UserError(
            "no record has a response and a refinement that are both scored; expected what "
            "judge(field='refinement') writes."
        )
    before, after = (np.array([p[i] for p in pairs], float) for i in (1, 2))
    sizes = (np.array([len(r.response) for r, *_ in pairs]),)
    sizes += (np.array([len(r.refinement) for r, *_ in pairs]),)
    scores = {"responses": of_scores(before), "refinements": of_scores(after)}
    found = {"records": len(pairs), "scores": scores, **of_gains(before, after, *sizes)}
    if truth == "oracle":
        right = [
            [right_share(parts_of(r, text)) for text in (r.response, r.refinement)]
            for r, *_ in pairs
        ]
        known = np.array([b - a for a, b in right])
        found |= of_agreement(after - before, known)
        found["true_gain"] = float(known.mean())
    return {**found, "notes": notes(scores)}


def of_sides(records: list[Record], among: list[Record]) -> tuple[dict[str, Any], list[Record]]:
    """Of preferences whose sides were scored apart (the filter `sides`); and each preference as a
    record that is satisfactory where its preferred side scores higher.

    Args:
      records: the scored sides.
      among: all sides that were to be scored.
    """
    given = [
        (str(r.meta["prompt_id"]), r.meta["side"], r.feedback[-1].score if r.feedback else None)
        for r in records
    ]
    known = {str(r.meta["prompt_id"]): r for r in among}
    opinion = pairwise(given, list(known))
    marks = np.array([s for *_, s in given if s is not None], float)
    scores = {"responses": of_scores(marks)}
    found = of_agreement(opinion, np.ones(len(known)))
    told = {**found, "records": len(records), "scores": scores, "notes": notes(scores)}
    return told, [_agreement(id, r, gap) for (id, r), gap in zip(known.items(), opinion)]


def _agreement(id: str, record: Record, gap: float) -> Record:
    """A preference, and whether its scores say the same.

    Args:
      gap: score of the preferred side less that of the other; NaN where one is missing.
    """
    words, polarity = (AGREES, "positive") if gap > 0 else (DISAGREES, "negative")
    return Record(
        id, record.source, record.prompt, record.response, feedback=(Feedback(words, polarity),)
    )


def _scores(r: Record) -> tuple[float, float] | None:
    """(of the response, of the refinement)."""
    by_text = {c.text: c.score for c in r.candidates}
    both = by_text.get(r.response), by_text.get(r.refinement)
    return None if None in both else both
