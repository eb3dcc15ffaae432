"""Does the online loop learn from what judgments say? The loop on stories, the same loop with the
judgments exchanged among flawed responses, and with satisfactory responses alone.

    python benchmarks/online.py MODEL_DIR --workdir runs/online --seeds 3

runs `configs/cut_online.py:stories260k` and its two control arms once a seed (runs that are
finished are not repeated) and prints the share of held-out prompts whose sampled answers the
rule finds satisfactory, before the first iteration and after each: means over seeds with 95 %
intervals (seeds resampled, then prompts). Files named after the arms and seeds stay in --workdir.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ARMS = {
    "cut": "stories260k",
    "shuffled": "stories260k_shuffled",
    "positives": "stories260k_positives",
}
DRAWS = 2000


def run(arm: str, seed: int, folder: Path, model: str) -> None:
    """One loop through the door."""
    flags = ("--config", f"configs/cut_online.py:{ARMS[arm]}", "--workdir", str(folder))
    flags += (f"--config.model.path={model}", f"--config.seed={seed}")
    subprocess.run(
        [sys.executable, "-m", "lfjax.main", *flags], check=True, stdout=subprocess.DEVNULL
    )


def satisfied(folder: Path) -> np.ndarray:
    """Per check and held-out prompt, whether the response is satisfactory."""
    out = []
    for stage in sorted(folder.glob("rate*"), key=lambda p: int(p.name[4:])):
        records = map(json.loads, (stage / "records.jsonl").read_text().splitlines())
        out.append([all(f["polarity"] == "positive" for f in r["feedback"]) for r in records])
    return np.array(out, float)


def interval(runs: list[np.ndarray], rng) -> tuple[np.ndarray, np.ndarray]:
    """95 % of the means of every check when seeds, then prompts, are drawn again."""
    means = []
    for _ in range(DRAWS):
        chosen = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        drawn = [x[:, rng.integers(x.shape[1], size=x.shape[1])] for x in chosen]
        means.append(np.mean([x.mean(axis=1) for x in drawn], axis=0))
    return tuple(np.quantile(means, (0.025, 0.975), axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="directory of stories260k")
    parser.add_argument("--workdir", default="runs/online")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for arm in ARMS:
        runs = []
        for seed in range(args.seeds):
            folder = Path(args.workdir) / f"{arm}-{seed}"
            run(arm, seed, folder, args.model)
            runs.append(satisfied(folder))
        mean = np.mean([x.mean(axis=1) for x in runs], axis=0)
        low, high = interval(runs, rng)
        cells = (f"{m:.3f} [{a:.3f}, {b:.3f}]" for m, a, b in zip(mean, low, high))
        print(f"{arm:10}", *cells, sep="  ", flush=True)


if __name__ == "__main__":
    main()
