"""The figures of docs/pit.md and the gaps of held-out pairs, from a finished run of the claims.

    python -m lfjax.main --config configs/claims_pit.py --workdir runs/claims_pit
    python benchmarks/pit_claims.py runs/claims_pit docs/figures

Prints the numbers of each figure as well. Intervals of 95 % are over repetitions: Student's t.
"""

import argparse
import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
from figures import save
from scipy import stats

STEPS = {f"by_hard_{k}": k for k in range(1, 6)}, {f"self_refined_{k}": k for k in range(1, 6)}
TEMPERATURES = (
    {"at_020": 0.2, "by_hard_1": 0.4, "at_060": 0.6, "at_080": 0.8, "at_100": 1.0},
    {
        "self_at_020": 0.2,
        "self_at_040": 0.4,
        "self_at_060": 0.6,
        "self_refined_1": 0.8,
        "self_at_100": 1.0,
    },
)
CURRICULUM = {"easy": "the first half", "hard": "then the second", "hard_alone": "it alone"}
ORDER = (("wl", "ww"), ("wl", "ll"), ("wl", "lw"), ("ww", "lw"), ("ll", "lw"), ("ww", "ll"))


class Run:
    """What the repetitions of a run found."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        scores = defaultdict(lambda: defaultdict(list))
        for line in (workdir / "compare" / "per_prompt.jsonl").read_text().splitlines():
            row = json.loads(line)
            for name, answer in row["answers"].items():
                scores[name][row["seed"]].append(answer["right"])
        self.right = {
            name: np.array([np.mean(own[seed]) for seed in sorted(own)])
            for name, own in scores.items()
        }
        self.seeds = len(self.right["original"])

    def curves(self, stage: str, name: str) -> np.ndarray:
        """Seeds × steps of a logged metric."""
        found = []
        for k in range(self.seeds):
            lines = (self.workdir / f"s{k}_{stage}" / "metrics.jsonl").read_text().splitlines()
            found.append([json.loads(line)[name] for line in lines])
        return np.array(found)

    def gaps(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """By pairing the held-out mean in every repetition, and the standard deviation of gaps."""
        files = (self.workdir / f"s{k}_gap" / "hf" / "score.json" for k in range(self.seeds))
        told = [json.loads(path.read_text()) for path in files]
        means = {name: np.array([t["means"][name] for t in told]) for name in told[0]["means"]}
        return means, np.array([t["spread"] for t in told])


def about(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of the interval, over repetitions."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(half)


def along(run: Run, axis, systems: tuple[dict[str, float], ...], what: str) -> None:
    """Right beds along an axis, of PIT and of Self-Refine."""
    for label, own in zip(("PIT", "Self-Refine"), systems):
        found = [about(run.right[name]) for name in own]
        middle, half = (list(column) for column in zip(*found))
        axis.errorbar(list(own.values()), middle, half, marker="o", capsize=2, label=label)
        print(f"{what}, {label}:", *(f"{x:g} {m:.3f}" for x, m in zip(own.values(), middle)))
    first, _ = about(run.right["original"])
    axis.axhline(first, color="grey", linestyle=":", label="the policy")
    axis.set(xlabel=what, ylabel="beds right", ylim=(0.5, 1))
    axis.set_xticks(sorted(set().union(*(own.values() for own in systems))))
    axis.legend(loc="lower center", ncols=3)


def steps(run: Run, axis) -> None:
    """How right responses are after so many improvements."""
    along(run, axis, STEPS, "steps")


def temperature(run: Run, axis) -> None:
    """How right responses are after one improvement."""
    along(run, axis, TEMPERATURES, "temperature")


def bands(run: Run, axis) -> None:
    """Share of rollouts in the band of better responses, while improvers learn."""
    for stage, label in CURRICULUM.items():
        shares = run.curves(stage, "gap_better").mean(axis=0)
        axis.plot(range(1, len(shares) + 1), shares, label=label)
        last = slice(-max(1, len(shares) // 10), None)
        print(f"bands, {stage}: {shares[0]:.2f} at first, {shares[last].mean():.2f} at last")
    axis.set(xlabel="step of reinforcement learning", ylabel="in the better band", ylim=(0, 1))
    axis.legend()


def gaps(run: Run, axis) -> None:
    """What the gap reward gives to the four pairings of held-out pairs, in standard deviations."""
    means, spread = run.gaps()
    means = {name: values / spread for name, values in means.items()}
    for at, values in enumerate(means.values()):
        axis.plot([at] * len(values), values, "o", alpha=0.5)
    axis.set(xticks=range(len(means)), xticklabels=[f"g_{n}" for n in means], ylabel="mean gap")
    for a, b in ORDER:
        difference = means[a] - means[b]
        middle, half = about(difference)
        print(f"gaps, g_{a} - g_{b}: {middle:+.2f} ± {half:.2f}", end="")
        print(f", above 0 in {(difference > 0).sum()} of {len(difference)}")


FIGURES = (gaps, bands, steps, temperature)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("folder", type=Path, help="where the figures go")
    args = parser.parse_args()
    run = Run(args.workdir)
    save(args.folder, {f"pit_{draw.__name__}": partial(draw, run) for draw in FIGURES})


if __name__ == "__main__":
    main()
