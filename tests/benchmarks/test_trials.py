"""What chose the settings of the claims: the mean over worlds, and the first among equals."""

import json
import runpy

from lfjax.recipe import trials
from tests.conftest import ROOT

PROGRAM = runpy.run_path(str(ROOT / "benchmarks" / "trials.py"))
GRID = {"dpo": ("learning_rate", (1e-4, 3e-4), "beta", (0.1, 1.0))}
NAMES = [name for name, _ in trials(GRID, "dpo")]


def rows_of(right):
    """Answers of two worlds, of which the second has twice as many prompts."""
    return [
        {
            "seed": seed,
            "answers": {
                n: {"right": r[seed], "all_right": float(r[seed] == 1)} for n, r in right.items()
            },
        }
        for seed in (0, 1, 1)
    ]


def test_names_and_settings_of_trials():
    """Without it two settings share a stage, or a setting is another than its stage's."""
    assert NAMES == ["dpo_0p0001_0p1", "dpo_0p0001_1", "dpo_0p0003_0p1", "dpo_0p0003_1"]
    assert [s for _, s in trials(GRID, "dpo")][2] == {"learning_rate": 3e-4, "beta": 0.1}


def test_the_best_trial():
    """Without it a world with more prompts counts for more, or chance decides between equals."""
    right = dict(zip(NAMES, ((0.0, 1.0), (0.75, 0.5), (0.5, 0.75), (0.25, 0.5))))
    runs, (best,) = PROGRAM["tried"](GRID, rows_of(right))
    assert [run["right"] for run in runs] == [0.5, 0.625, 0.625, 0.375]
    assert runs[0]["by_world"] == [0.0, 1.0] and runs[0]["all_right"] == 0.5
    assert best == runs[1] and (best["learning_rate"], best["beta"]) == (1e-4, 1.0)


def test_the_table_of_trials():
    """Without it the committed file cannot be read."""
    about, runs = {"worlds": [100, 101]}, [{"method": "a", "right": 1.0}, {"method": "b"}]
    text = PROGRAM["table"](about, runs)
    assert json.loads(text) == {**about, "runs": runs} and len(text.splitlines()) == 10
