"""Curves of an rl stage."""

from lfjax.report.curves import learning_curves
from lfjax.report.workdir import read_workdir
from tests.conftest import write_jsonl
from tests.report.run_of import a_stage


def test_what_is_shown_first(tmp_path):
    """Reward, KL and the monitor; clocks are no curves."""
    names = ("reward", "kl_k1", "monitor", "agreement", "gap_better", "loss", "entropy", "alarm")
    folder = a_stage(tmp_path, "easy", {"kind": "rl", "estimator": "rloo"})
    rows = [
        {
            "step": i,
            **{name: i + k for k, name in enumerate(names)},
            "model_flops": 1e9 * i,
            "tokens": i,
        }
        for i in range(1, 9)
    ]
    write_jsonl(folder / "metrics.jsonl", rows)
    (found,) = learning_curves(read_workdir(tmp_path))
    first = [plot.name for plot in found.first]
    assert first == ["loss", "reward", "kl_k1", "monitor", "agreement", "gap_better"]
    assert all(plot.meaning for plot in found.first)
    assert {plot.name for plot in found.others} == {"entropy", "alarm"}
