"""The figures of docs/when_cut_fails.md, from a finished run of configs/lab.py:limits.

    python -m lfjax.main --config configs/lab.py:limits --workdir runs/limits
    python benchmarks/cut_limits.py runs/limits docs/figures

Prints the numbers of each figure as well.
"""

import argparse
import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from figures import save

from lfjax.data.sources import load
from lfjax.stages.blame import read_table
from lfjax.stages.detect import wrong_tokens

LINES = 8
SHOWN = ("seen", "unseen", "clean", "ignorance")
BINS = (0.0, 0.3, 0.5, 0.7, 0.8, 1 / 1.1, 1.0)


class Run:
    """What the stages of a run found."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.results = {
            how: json.loads((workdir / how / "results.json").read_text())["systems"]
            for how in ("greedy", "sampled")
        }

    def right(self, system: str, group: str, how: str) -> float:
        return self.results[how][system]["table"].get(f"{group}/right", float("nan"))

    def metrics(self, stage: str, name: str) -> np.ndarray:
        lines = (self.workdir / stage / "metrics.jsonl").read_text().splitlines()
        return np.array([json.loads(line)[name] for line in lines])


def bound(run: Run, axis) -> None:
    """Blamed share of named wrong tokens, by how sure the model is of them."""
    for stage, data in (("blame", "judged"), ("blame_some1", "some1")):  # all faults, or one
        path = run.workdir / data / "records.jsonl"
        records = {r.id: r for r in load(str(path), "records").records}
        p, blamed = [], []
        for row in read_table(run.workdir / stage / "blame" / "step-0.parquet").to_pylist():
            places = row["start"][:-1], row["end"][:-1]
            wrong = wrong_tokens(records[row["record"]], row["response"], *places)
            p += np.exp(np.array(row["logp_plain"][:-1])[wrong]).tolist()
            blamed += np.array(row["blamed"][:-1])[wrong].tolist()
        place = np.digitize(p, BINS[1:-1])
        shares = [np.mean(np.array(blamed)[place == k]) for k in range(len(BINS) - 1)]
        counts = np.bincount(place, minlength=len(BINS) - 1)
        middle = [(a + b) / 2 for a, b in pairwise(BINS)]
        axis.plot(
            middle, shares, marker="o", label="all faults named" if stage == "blame" else "one"
        )
        print(
            f"bound, {data}:",
            *(f"{m:.3f}: {s:.2f} of {n}" for m, s, n in zip(middle, shares, counts)),
        )
    axis.axvline(1 / 1.1, color="grey", linestyle=":")
    axis.set(xlabel="p of the wrong token without the judgment", ylabel="share blamed")
    axis.legend()


def share_named(run: Run, axis) -> None:
    """How many faults a judgment names, and random lines in their place."""
    kinds = ("1", "2", "3", "all")
    arms = {"CUT": ["cut_some1", "cut_some2", "cut_some3", "cut_judged"]}
    arms["placebo"] = [f"cut_random{k}" for k in ("1", "2", "3", "_all")]
    for color, (label, names) in zip(("C0", "C1"), arms.items()):
        for how, line in (("greedy", "-"), ("sampled", "--")):
            values = [run.right(n, "unseen", how) for n in names]
            axis.plot(kinds, values, line, color=color, marker="o", label=f"{label}, {how}")
            print(f"named, {label}, {how}:", *(f"{k} {v:.3f}" for k, v in zip(kinds, values)))
    axis.set(xlabel="lines called wrong", ylabel="unseen words right", ylim=(0, 1))
    axis.legend()


def praise(run: Run, axis) -> None:
    """What is blamed while CUT learns, with praise in the judgments and without."""
    for stage, label in (("cut_judged", "faults named"), ("cut_praise", "and praise")):
        axis.plot(run.metrics(stage, "blamed"), label=f"{label}: blamed")
        axis.plot(run.metrics(stage, "p_unblamed"), "--", label=f"{label}: p of the others")
    for name in ("cut_judged", "cut_praise", "cut_praise_lambda3"):
        shares = (f"{g} {run.right(name, g, how):.3f}" for how in run.results for g in SHOWN)
        print(f"praise, {name} (greedy, then sampled):", *shares)
    axis.set(xlabel="step", ylim=(0, 1))
    axis.legend()


def certainty(run: Run, axis) -> None:
    """Words by how often pretraining shows the habit."""
    tiers = {"unseen/habit55": 55, "unseen/habit65": 65, "unseen/habit80": 80}
    tiers["ignorance/ignorance"] = 98
    for name in ("base", "cut_some3", "cut_judged"):
        values = [run.right(name, tier, "sampled") for tier in tiers]
        axis.plot(list(tiers.values()), values, marker="o", label=name)
        print(f"certainty, {name}, sampled:", *(f"{t} {v:.3f}" for t, v in zip(tiers, values)))
    axis.set(xlabel="habit in pretraining, %", ylabel="right, sampled", ylim=(0, 1))
    axis.legend()


def worse(run: Run, axis) -> None:
    """A share of the judgments is bad."""
    for kind in ("random", "flawed", "misplaced"):
        names = ["cut_judged", f"cut_{kind}_in_25", f"cut_{kind}_in_50"]
        values = [run.right(n, "unseen", "sampled") for n in names]
        axis.plot((0, 25, 50), values, marker="o", label=kind)
        print(f"worse, {kind}, sampled, unseen:", *(f"{v:.3f}" for v in values))
    axis.set(xlabel="bad judgments, %", ylabel="unseen words right, sampled", ylim=(0, 1))
    axis.legend()


def threshold(run: Run, axis) -> None:
    """λ."""
    names = {1.01: "cut_lambda1p01", 1.1: "cut_judged", 1.5: "cut_lambda1p5"}
    names |= {2.0: "cut_lambda2", 3.0: "cut_lambda3"}
    for group in ("unseen", "clean"):
        values = [run.right(n, group, "sampled") for n in names.values()]
        axis.plot(list(names), values, marker="o", label=group)
        print(f"threshold, {group}, sampled:", *(f"{k} {v:.3f}" for k, v in zip(names, values)))
    axis.set(xlabel="λ", ylabel="right, sampled", ylim=(0, 1))
    axis.legend()


FIGURES = (bound, share_named, praise, certainty, worse, threshold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("folder", type=Path, help="where the figures go")
    args = parser.parse_args()
    run = Run(args.workdir)
    save(args.folder, {f"cut_{draw.__name__}": partial(draw, run) for draw in FIGURES})


if __name__ == "__main__":
    main()
