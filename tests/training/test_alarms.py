"""Alarms: when they ring, that they tell it once, and that a restart does not forget."""

import json

from lfjax.methods import get_method
from lfjax.training.alarms import STEPS, Alarms

FINE = {"blamed": 0.2, "p_unblamed": 0.6}


def feed(alarms, values, steps, first=1):
    return [alarms(step, values) for step in range(first, first + steps)]


def cut(tmp_path):
    return Alarms(get_method("cut").alarm, tmp_path / "metrics.jsonl")


def test_nothing_is_wrong(tmp_path, capsys):
    alarms = cut(tmp_path)
    assert not any(feed(alarms, FINE, 5 * STEPS)) and alarms.rung == 0
    assert not capsys.readouterr().out


def test_everything_is_blamed(tmp_path, capsys):
    alarms = cut(tmp_path)
    feed(alarms, FINE, STEPS)
    rang = feed(alarms, {"blamed": 0.95, "p_unblamed": 0.6}, 2 * STEPS, STEPS + 1)
    assert rang == [False] * (STEPS - 1) + [True] * (STEPS + 1)
    assert alarms.rung == 2 * STEPS
    said = capsys.readouterr().out
    assert said.count("ALARM") == 1 and "95% of the tokens" in said


def test_what_is_not_blamed_is_lost(tmp_path, capsys):
    alarms = cut(tmp_path)
    feed(alarms, FINE, STEPS)
    assert feed(alarms, {"blamed": 0.2, "p_unblamed": 0.29}, STEPS, STEPS + 1)[-1]
    assert "from a mean probability of 0.60 to 0.29" in capsys.readouterr().out


def test_a_restart_knows_the_first_steps(tmp_path):
    rows = [{"step": s, **FINE} for s in range(1, STEPS + 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    alarms = cut(tmp_path)
    assert feed(alarms, {"blamed": 0.2, "p_unblamed": 0.1}, STEPS, STEPS + 1)[-1]


def test_other_methods_have_none(tmp_path):
    alarms = Alarms(get_method("sft").alarm, tmp_path / "metrics.jsonl")
    assert not any(feed(alarms, {"nll": 9.0}, 3 * STEPS))
