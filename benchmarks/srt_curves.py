"""The figures of docs/srt.md, from what the claims runs left.

    python -m lfjax.main --config configs/claims_srt.py --workdir runs/claims_srt
    python benchmarks/srt_curves.py docs/claims/srt.json docs/figures

Prints the numbers of each figure as well, and the slope of each curve with its 95 % interval over
repetitions.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
from figures import save

from lfjax.evaluation.bootstrap import interval

CURVES = {  # figure -> its axis, and curves of systems by their places on it
    "scaling": (
        "share of the examples",
        {
            "refined": {"few": 0.1, "half": 0.5, "stage1": 1.0},
            "first answer": {"few_first": 0.1, "half_first": 0.5, "stage1_first": 1.0},
            "after stage 2": {"stage2_few": 0.1, "stage2_half": 0.5, "stage2": 1.0},
        },
    ),
    "scores": (
        "score of the refinements learned from",
        {
            "refined": {"score7": 7, "score10": 10},
            "first answer": {"score7_first": 7, "score10_first": 10},
        },
    ),
    "again": (
        "refinements",
        {
            "by the model": {"stage1_first": 0, "stage1": 1, "again2": 2, "again3": 3, "again4": 4},
            "by the critic": {"critic_first": 0, **{f"by_critic{k}": k for k in range(1, 5)}},
        },
    ),
}


BESIDE = {
    "base": ("base", ":"),
    "refinements_only": ("plain SFT", "--"),
    "voted": ("commonest of 7", "-."),
    "best_known": ("best of 7, if known", "-"),
}


def values(cells: dict, system: str) -> np.ndarray:
    """Accounts right of a system, by repetition."""
    return np.array([seed["right"] for seed in cells[system]])


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Mean over repetitions (columns of y) of the least-squares slope, and its interval."""
    x = x - x.mean()
    each = x @ y / np.square(x).sum()
    return float(each.mean()), *interval([np.array([s]) for s in each])


def draw(name: str, cells: dict, axis) -> None:
    print(name)
    label, curves = CURVES[name]
    for color, (kind, systems) in enumerate(curves.items()):
        x = np.array(list(systems.values()), float)
        y = np.stack([values(cells, name) for name in systems])
        axis.plot(x, y, color=f"C{color}", linewidth=0.5, alpha=0.5)
        axis.plot(x, y.mean(axis=1), color=f"C{color}", marker="o", label=kind)
        told = ", ".join(f"{a:g} {b:.3f}" for a, b in zip(x, y.mean(axis=1)))
        mean, low, high = slope(x, y)
        print(f"  {kind}: {told}; slope {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    for system, (beside, style) in BESIDE.items():
        level = values(cells, system).mean()
        axis.axhline(level, color="grey", linestyle=style, linewidth=1, label=beside)
    axis.set(xlabel=label, ylabel="accounts right", ylim=(0, 1.05))
    axis.legend(ncols=2, fontsize="small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path, help="where the figures go")
    args = parser.parse_args()
    cells = json.loads(args.results.read_text())["cells"]["compared"]["test"]
    save(args.folder, {f"srt_{name}": partial(draw, name, cells) for name in CURVES})


if __name__ == "__main__":
    main()
