"""The claims stage: what a committed file of claims comes to in the evaluations of a recipe."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from lfjax.errors import UserError
from lfjax.evaluation.claims import VERDICTS, differences, read_claims, verdicts
from lfjax.stages.artifacts import Result, Stage, provenance
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
    gate = _gate(stage)
    table = verdicts(found, values, testable=gate.get("passed", True))
    stage.begin()
    write_atomic(stage.folder / "claims.json", json.dumps(table, indent=2) + "\n")
    if c.publish:
        cells = {name: cells_of(own) for name, own in rows.items()}
        about = {"gate": gate, "claims": table, "cells": cells, "provenance": provenance()}
        write_atomic(Path(f"{c.publish}.json"), json.dumps(about, indent=1) + "\n")
        write_atomic(Path(f"{c.publish}.md"), as_markdown(about))
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


def _gate(stage: Stage) -> dict[str, Any]:
    """What came of the world's gate, if the recipe has one."""
    if "gate" not in stage.inputs:
        return {}
    return json.loads(Path(stage.inputs["gate"]).read_text(encoding="utf-8"))


def cells_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """By group of prompts and system, the mean of every score for each seed."""
    found = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = str(row["id"]).partition("-")[0]
        for name, answer in row["answers"].items():
            for score, value in answer.items():
                if isinstance(value, int | float):
                    found[group, name][row["seed"], score].append(value)
    out = defaultdict(dict)
    for (group, name), scores in found.items():
        seeds = sorted({seed for seed, _ in scores})
        out[group][name] = [
            {s: round(float(np.mean(v)), 4) for (k, s), v in scores.items() if k == seed}
            for seed in seeds
        ]
    return dict(out)


def as_markdown(about: dict[str, Any]) -> str:
    """The claims as one table, and the means of all cells as others."""
    gate = about["gate"]
    lines = []
    if gate:
        passed = "passed" if gate["passed"] else "failed: no claim is testable"
        lines = [f"Gate: {gate['gate']:.3f}, at least {gate['at_least']}: {passed}.", ""]
    lines += [
        "| claim | source | margin | difference | verdict |",
        "|---|---|---|---|---|",
    ]
    for row in about["claims"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['claim']} | {row['source']} | {row['margin']:g} | "
            f"{row['estimate']:+.3f} [{low:+.3f}, {high:+.3f}] | {row['verdict']} |"
        )
    for evaluation, groups in about["cells"].items():
        systems = list(next(iter(groups.values())))
        scores = list(next(iter(groups[next(iter(groups))].values()))[0])
        lines += ["", f"{evaluation}: mean over seeds of {' / '.join(scores)}", ""]
        lines += [f"| | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
        for name in systems:
            cells = (
                " / ".join(f"{np.mean([c[s] for c in seeds]):.3f}" for s in scores)
                for seeds in (own[name] for own in groups.values())
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
