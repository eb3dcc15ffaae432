"""The benchmark of blame: what it calls wrong, what it scores, and what it prints."""

import re
import runpy

import numpy as np
import pytest

from lfjax.stages.blame import average_precision
from tests.conftest import ROOT, shared

PROGRAM = runpy.run_path(str(ROOT / "benchmarks" / "blame.py"))
corrected, make_blamer, report = (PROGRAM[n] for n in ("corrected", "make_blamer", "report"))


@pytest.fixture(scope="module")
def val() -> str:
    return str(shared("data/defacto/val.jsonl"))


def test_records(val):
    """Without it summaries are scored that nobody corrected, or others on every run."""
    assert len(corrected(val, 0)) == 337
    some = corrected(val, 5)
    assert len(some) == 5 and some == corrected(val, 5)
    assert all(not r.satisfactory and r.refinement for r in some)


def test_scored_tokens(val, stories):
    """Without it scores and truth are of different tokens, or a judgment changes nothing."""
    records = corrected(val, 4)
    found, story = make_blamer(stories, "alpaca", 0)(records)
    assert story.startswith("4 of 4 used (") and sorted(found) == [0, 1, 2, 3]
    for index, (scores, wrong) in found.items():
        assert len(scores) == len(wrong) > 10 and np.isfinite(scores).all() and scores.std() > 0
        assert wrong.any(), records[index].response


def test_report(val, capsys):
    """Without it the control is another number than what is printed as such."""
    records = corrected(val, 30)
    given = [r.feedback for r in records]
    rng = np.random.default_rng(1)
    wrong = [rng.random(20) < 0.3 for _ in records]

    def oracle(shown):
        """Knows the wrong tokens where the judgment is the response's own."""
        own = [r.feedback == feedback for r, feedback in zip(shown, given)]
        assert all(own) or not any(own)
        return {i: (w * float(own[i]), w) for i, w in enumerate(wrong)}, "all"

    report("val", records, oracle)
    told = capsys.readouterr().out
    share = np.concatenate(wrong).mean()
    assert average_precision(np.zeros(600), np.concatenate(wrong)) == pytest.approx(share)
    assert f"600 tokens, {share:.4f} of them wrong" in told
    numbers = re.findall(r"val: (.*?) ([\d.]+) \[([\d.]+), ([\d.]+)\]", told)
    values = {name: tuple(map(float, rest)) for name, *rest in numbers}
    assert values["AP"] == (1.0, 1.0, 1.0)
    for name, exact in (("AP, judgments shuffled", share), ("difference", 1 - share)):
        value, low, high = values[name]
        assert value == pytest.approx(exact, abs=1e-4) and low < value < high
