"""Two systems: counts, the cases without information, and who depends on order."""

import json

import numpy as np
import pytest

from lfjax.evaluation.compare import compare

NAN = float("nan")


def lengths(*n):
    return [np.array(n, float)]


def test_counts_and_delta():
    verdicts = [np.array([1, 1, 0, -1, NAN, 1.0])]
    found = compare(verdicts, lengths(9, 8, 7, 6, 99, 5), lengths(1, 2, 3, 4, 99, 5))
    assert (found["wins"], found["ties"], found["losses"], found["missing"]) == (3, 1, 1, 1)
    assert found["delta"] == pytest.approx(2 / 5)
    assert found["characters"] == 7 and found["other_characters"] == 3  # of judged prompts
    assert found["error_bound"] == pytest.approx(1 / np.sqrt(5))
    correlation = np.corrcoef([1, 1, 0, -1, 1], [8, 6, 4, 2, 0])[0, 1]
    assert found["length_correlation"] == pytest.approx(correlation)
    low, high = found["interval"]
    assert -1 <= low < 2 / 5 < high <= 1


def test_the_bound_of_the_standard_error():
    """Half wins and half losses reach it: 8.8 points at 128."""
    verdicts = np.tile([1.0, -1.0], 64)
    found = compare([verdicts], [np.ones(128)], [np.ones(128)])
    assert found["error_bound"] == pytest.approx(0.0884, abs=1e-4)
    assert verdicts.std() / np.sqrt(128) == pytest.approx(found["error_bound"])


@pytest.mark.parametrize("verdicts", [[], [NAN, NAN]])
def test_nothing_was_judged(verdicts):
    """Every figure is none, JSON can hold it, and the reader is told."""
    v = [np.array(verdicts, float)]
    found = compare(v, [np.ones(len(verdicts))], [np.ones(len(verdicts))])
    assert found["missing"] == len(verdicts)
    assert found["delta"] is None and found["interval"] == [None, None]
    assert found["lc_noreg"] is None and found["characters"] is None
    assert "nothing was judged" in found["notes"][0]
    json.dumps(found, allow_nan=False)


def test_all_are_ties():
    rng = np.random.default_rng(0)
    found = compare([np.zeros(20)], [rng.random(20)], [rng.random(20)])
    assert found["delta"] == 0 and found["interval"] == [0, 0] and found["ties"] == 20
    assert found["lc_noreg"] == pytest.approx(50) and found["length_correlation"] is None
    assert "all 20 judgments are ties" in found["notes"][0]


def test_all_are_wins():
    """Separable data have no finite unpenalised fit."""
    found = compare([np.ones(20)], [np.arange(20.0)], [np.arange(20.0)[::-1]])
    assert found["delta"] == 1 and found["interval"] == [1, 1]
    assert 90 < found["lc_noreg"] <= 100


def test_changing_sides_changes_signs():
    rng = np.random.default_rng(1)
    v = [rng.integers(-1, 2, 40).astype(float) for _ in range(3)]
    a, b = ([rng.integers(1, 99, 40).astype(float) for _ in range(3)] for _ in range(2))
    one, other = compare(v, a, b), compare([-x for x in v], b, a)
    assert one["delta"] == pytest.approx(-other["delta"])
    assert one["lc_noreg"] == pytest.approx(100 - other["lc_noreg"], abs=1e-3)
    assert one["length_correlation"] == pytest.approx(other["length_correlation"])
    assert one["interval"] == pytest.approx([-x for x in other["interval"]][::-1], abs=0.03)


def test_the_length_controlled_figure_takes_away_what_length_explains():
    """A judge that likes whatever is longer, and a model that writes more: it wins, and no more
    than the baseline once lengths are equal."""
    rng = np.random.default_rng(2)
    a, b = rng.integers(100, 400, 600) + 60.0, rng.integers(100, 400, 600).astype(float)
    z = (b - a) / np.std(b - a, ddof=1)
    wins = rng.random(600) < 1 / (1 + np.exp(3 * np.tanh(z)))
    found = compare([2.0 * wins - 1], [a], [b])
    assert found["delta"] > 0.2
    assert found["lc_noreg"] == pytest.approx(50, abs=5)
