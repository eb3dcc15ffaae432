"""The rank stage: of several responses to a prompt, the one that a reward model scores best, which
is best-of-n."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from lfjax.data.load import load_records
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Record, to_jsonl
from lfjax.errors import UserError
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.scoring import load_scorer
from lfjax.training.logs import write_atomic


def inputs(config) -> dict[str, str]:
    """What the stage reads: responses, and a reward model."""
    return {**data_inputs(config.data), "init": config.reward}


def rank(stage: Stage) -> Result:
    """Write the best response to each prompt, and what it scored.

    Raises: UserError for a model that compares two texts, and responses that there are not.
    """
    c = stage.config
    scorer = load_scorer(stage.inputs["init"], stage.mesh, dtype=c.dtype)
    if scorer.compares:
        raise UserError(
            f"stage '{stage.name}': {stage.inputs['init']} is a {scorer.kind} model, which "
            "compares a response with another; ranking needs a reward."
        )
    records = [r for r in load_records(c.data, stage.inputs, stage.seed)[0].records if r.response]
    if not records:
        raise UserError(f"stage '{stage.name}': there are no responses.")
    groups: dict[str, list[tuple[float, Record]]] = defaultdict(list)
    for record, score in zip(records, scorer(records)):
        groups[str(record.meta.get("prompt_id", record.id))].append((float(score), record))
    stage.begin()
    best = [max(group, key=_score) for group in groups.values()]
    made = [best_of(name, *chosen) for name, chosen in zip(groups, best)]
    write_atomic(stage.folder / "records.jsonl", to_jsonl(made))
    headline = {
        "records": len(made),
        "of_each": len(records) / len(made),
        "reward": float(np.mean([score for score, _ in best])),
    }
    return Result({"records": "records.jsonl"}, headline, {})


def best_of(name: str, score: float, record: Record) -> Record:
    """The record under its prompt's name, with its score."""
    return replace(record, id=name, meta={**record.meta, "reward": score})


def _score(scored: tuple[float, Record]) -> float:
    return scored[0]
