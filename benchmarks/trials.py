"""The trials that chose the settings of a method's claims, from what its `tuning` variant left.

    python -m lfjax.main --config configs/claims_srt.py:tuning --workdir runs/tuning
    python -m benchmarks.trials claims_srt runs/tuning/greedy docs/claims/srt_tuning.json

and the same with `claims_pit`, whose evaluation is `trials`. (CUT's choice is by other means:
configs/claims_cut.py.) Prints the best setting of each method: by the mean over worlds of what is
right, the first of the grid where that is the same.
"""

import argparse
import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lfjax.recipe import trials
from lfjax.recipe.trials import Grid
from lfjax.training.logs import write_atomic

Run = dict[str, Any]  # of a trial: its method, settings, and what it came to


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file in configs/, without .py")
    parser.add_argument("evaluation", type=Path, help="folder of the stage that scored the trials")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    config = importlib.import_module(f"configs.{args.config}")
    lines = (args.evaluation / "per_prompt.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    runs, best = tried(config.GRID, rows)
    print(*best, sep="\n")
    seeds = sorted({row["seed"] for row in rows})
    about = {
        "worlds": [config.TUNING_FIRST + seed for seed in seeds],
        "split": "validation",
        "prompts": len(rows) // len(seeds),
        "chosen_by": "right, the mean over worlds; the first of the grid where they are the same",
    }
    write_atomic(args.out, table(about, runs))


def tried(grid: Grid, rows: Sequence[dict[str, Any]]) -> tuple[list[Run], list[Run]]:
    """(all trials, the best one of each method), by the rows of an evaluation."""
    runs = {
        method: [
            {"method": method, **settings, **scored(rows, name)}
            for name, settings in trials(grid, method)
        ]
        for method in grid
    }
    best = [max(own, key=lambda run: run["right"]) for own in runs.values()]
    return [run for own in runs.values() for run in own], best


def table(about: dict[str, Any], runs: list[Run]) -> str:
    """JSON with a line for each trial."""
    head = json.dumps(about, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    return f'{head},\n "runs": [\n{lines}\n ]\n}}\n'


def scored(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float | list[float]]:
    """Means of one trial over its worlds, and what is right in each."""
    worlds = defaultdict(list)
    for row in rows:
        answer = row["answers"][name]
        worlds[row["seed"]].append((answer["right"], answer["all_right"]))
    means = np.array([np.mean(worlds[seed], axis=0) for seed in sorted(worlds)])
    right, whole = means.mean(axis=0).round(4).tolist()
    return {"right": right, "all_right": whole, "by_world": means[:, 0].round(4).tolist()}


if __name__ == "__main__":
    main()
