"""Gates: numbers of evaluations against a bound."""

import json

import pytest

from lfjax.errors import UserError
from lfjax.recipe import gate
from lfjax.stages import gate as stages_gate
from lfjax.stages.artifacts import Stage


def passes(tmp_path, *found, **how):
    """What the stage writes where evaluations found these results."""
    inputs = {}
    for k, results in enumerate(found):
        inputs[f"results/{k}"] = str(tmp_path / f"results{k}.json")
        (tmp_path / f"results{k}.json").write_text(json.dumps(results))
    config = gate(tuple(f"e{k}" for k in range(len(found))), **how)
    result = stages_gate.gate(Stage("gate", tmp_path / "gate", config, inputs, 0, None, {}))
    written = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert result.headline == written and result.outputs == {"gate": "gate.json"}
    return written


def test_a_number_and_its_bound(tmp_path):
    found = {"scores": {"precision": 0.8}}
    how = dict(value=("scores", "precision"))
    assert passes(tmp_path, found, **how, at_least=0.8)["passed"] is True
    assert passes(tmp_path, found, **how, at_least=0.81)["passed"] is False


def test_a_difference_and_a_mean_over_seeds(tmp_path):
    found = [{"a/b": 0.9, "c": 0.5}, {"a/b": 0.4, "c": 0.5}]
    written = passes(tmp_path, *found, value=("a/b",), less=("c",), at_least=0.1)
    assert written == {"gate": pytest.approx(0.15), "at_least": 0.1, "passed": True}


def test_what_the_stage_reads():
    assert stages_gate.inputs(gate("e", ("a",), at_least=0.0)) == {"results/0": "e/results"}


@pytest.mark.parametrize(
    "value, said",
    [
        (("score",), "Did you mean 'scores'"),
        (("scores", "x", "y"), "nothing at 'y'"),
        (("scores",), "expected a number"),
        (("scores", "none"), "expected a number"),
    ],
)
def test_no_such_number(tmp_path, value, said):
    with pytest.raises(UserError, match=said):
        passes(tmp_path, {"scores": {"x": 1.0, "none": None}}, value=value, at_least=0.0)
    assert not (tmp_path / "gate").exists()
