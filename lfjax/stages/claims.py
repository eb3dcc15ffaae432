"""The claims stage: what a committed file of claims comes to in the evaluations of a recipe."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lfjax.errors import UserError
from lfjax.evaluation.claims import VERDICTS, differences, read_claims, verdicts
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic


def inputs(config) -> dict[str, str]:
    """What the stage reads: the file, by whose content it is known, and the answers' scores."""
    gate = {"gate": f"{config.gate}/gate"} if config.gate else {}
    return {
        "claims": config.path,
        **{name: f"{name}/per_prompt" for name in config.evaluations},
        **gate,
    }


def claims(stage: Stage) -> Result:
    """Judge all claims of the file together, and print the table.

    Raises: UserError for a file that makes no sense, or a claim of what was not evaluated.
    """
    c = stage.config
    path = stage.inputs["claims"]
    try:
        found = read_claims(json.loads(Path(path).read_text(encoding="utf-8")), path)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    rows = {name: _rows(stage.inputs[name]) for name in c.evaluations}
    for claim in found:
        if claim.evaluation not in rows:
            raise UserError(
                f"claim '{claim.claim}': no evaluation '{claim.evaluation}' among "
                f"{', '.join(rows)}."
            )
    values = [differences(claim, rows[claim.evaluation]) for claim in found]
    passed = _passed(stage)
    table = verdicts(found, values, testable=passed)
    stage.begin()
    write_atomic(stage.folder / "claims.json", json.dumps(table, indent=2) + "\n")
    for row in table:
        low, high = row["interval"]
        print(
            f"  {row['verdict']:14} {row['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]  "
            f"{row['claim']}",
            flush=True,
        )
    counts = Counter(row["verdict"] for row in table)
    return Result({"claims": "claims.json"}, {v: counts[v] for v in VERDICTS}, {})


def _rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _passed(stage: Stage) -> bool:
    """Whether the world passed its gate."""
    if "gate" not in stage.inputs:
        return True
    return json.loads(Path(stage.inputs["gate"]).read_text(encoding="utf-8"))["passed"]
