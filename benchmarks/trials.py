"""The trials that chose the settings of a method's claims, from what its `tuning` variant left.

    python -m lfjax.main --config configs/claims_srt.py:tuning --workdir runs/tuning
    python -m benchmarks.trials claims_srt runs/tuning/greedy docs/claims/srt_tuning.json

and the same with `claims_pit`, whose evaluation is `trials`. Prints the best setting of each
method: by the mean over worlds of what is right, the first of the grid where that is the same.
"""

import argparse
import importlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from lfjax.recipe import trials
from lfjax.training.logs import write_atomic


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="file in configs/, without .py")
    parser.add_argument("evaluation", type=Path, help="folder of the stage that scored the trials")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    config = importlib.import_module(f"configs.{args.config}")
    rows = [json.loads(line) for line in (args.evaluation / "per_prompt.jsonl").open()]
    runs = []
    for method in config.GRID:
        tried = [
            {"method": method, **settings, **scored(rows, name)}
            for name, settings in trials(config.GRID, method)
        ]
        best = max(tried, key=lambda run: run["right"])
        print(best)
        runs += tried
    seeds = sorted({row["seed"] for row in rows})
    about = {
        "worlds": [config.TUNING_FIRST + seed for seed in seeds],
        "split": "validation",
        "prompts": len(rows) // len(seeds),
        "chosen_by": "right, the mean over worlds; the first of the grid where they are the same",
    }
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    head = json.dumps(about, indent=1)[:-2]
    write_atomic(args.out, f'{head},\n "runs": [\n{lines}\n ]\n}}\n')


def scored(rows, name: str) -> dict[str, float | list[float]]:
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
