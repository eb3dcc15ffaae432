"""The gate stage: whether a world of the lab is one in which a claim can be tested at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfjax.errors import UserError, nearest
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic


def inputs(config) -> dict[str, str]:
    """What the stage reads: the results of an evaluation, or of one for every seed."""
    names = config.evaluation
    names = (names,) if isinstance(names, str) else names
    return {f"results/{k}": f"{name}/results" for k, name in enumerate(names)}


def gate(stage: Stage) -> Result:
    """Compare a number of an evaluation, perhaps less another, with a bound; of several
    evaluations their mean. A gate that fails stops nothing: claims that name it are then not
    testable.

    Raises: UserError for a number that an evaluation does not have.
    """
    c, values = stage.config, []
    for path in stage.inputs.values():
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        less = number_at(results, c.less, path) if c.less else 0.0
        values.append(number_at(results, c.value, path) - less)
    value = sum(values) / len(values)
    found = {"gate": value, "at_least": c.at_least, "passed": bool(value >= c.at_least)}
    stage.begin()
    write_atomic(stage.folder / "gate.json", json.dumps(found, indent=2) + "\n")
    return Result({"gate": "gate.json"}, found, {})


def number_at(results: Any, place: Sequence[str], path: str) -> float:
    """The number that these keys lead to in nested objects. Raises: UserError if there is none."""
    node = results
    for key in place:
        known = list(node) if isinstance(node, dict) else []
        if key not in known:
            raise UserError(f"{path}: nothing at '{key}' of {place}. {nearest(key, known)}")
        node = node[key]
    if not isinstance(node, int | float):
        raise UserError(f"{path}: {place} is {node!r}; expected a number.")
    return float(node)
