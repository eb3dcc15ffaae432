"""Monitors of self-bias against closed forms."""

import math

import numpy as np
import pytest

from lfjax.data.records import Feedback, Message, Record
from lfjax.evaluation.self_bias import notes, of_agreement, of_gains, of_scores, pairwise
from lfjax.stages.self_bias import of_sides


def test_spread():
    found = of_scores(np.array([7.0, 7, 7, 3]))
    assert found["histogram"] == [0, 0, 1, 0, 0, 0, 3, 0, 0, 0] and found["mean"] == 6
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found["entropy"] == pytest.approx(expected) and found["largest_share"] == 0.75
    assert found["largest"] == 7
    assert notes({"refinements": found}) == [
        "75% of the scores of refinements are 7: they tell little apart."
    ]
    even = of_scores(np.arange(1.0, 11))
    assert even["entropy"] == pytest.approx(math.log2(10)) and notes({"x": even}) == []
    assert of_scores(np.array([5.0, 5]))["entropy"] == 0


def test_gains():
    before, after = np.array([5.0, 5, 6, 7]), np.array([7.0, 5, 7, 6])
    lengths, new = np.array([10, 10, 10, 10]), np.array([30, 10, 20, 0])
    found = of_gains(before, after, lengths, new)
    assert found["gain"] == 0.5 and found["ties"] == 0.25 and found["worse"] == 0.25
    assert found["length_gap"] == 5 and found["gain_length_correlation"] == pytest.approx(1.0)
    flat = of_gains(before, before, lengths, new)
    assert flat["gain_length_correlation"] is None and flat["ties"] == 1


def test_agreement():
    """Ties and missing opinions are wrong; pairs that the truth does not tell apart are none."""
    truth = np.array([1.0, -1, 1, 1, 0, -1])
    opinion = np.array([2.0, -1, 0, np.nan, 5, 3])
    found = of_agreement(opinion, truth)
    assert found == {"pairs": 5, "agreement": 0.4, "agreement_ties": 0.2, "missing": 1}
    assert of_agreement(opinion[:0], truth[:0])["agreement"] is None


def test_sides_of_preferences():
    given = [
        ("a", "chosen", 7.0),
        ("a", "rejected", 5.0),
        ("b", "chosen", 6.0),
        ("c", "rejected", 1.0),
    ]
    np.testing.assert_array_equal(pairwise(given, ["a", "b", "c"]), [2, np.nan, np.nan])


def test_each_preference_agrees_or_not():
    """A preference with a side that could not be scored is there, and is wrong."""

    def side(pair, which, score=None):
        said = () if score is None else (Feedback("so", "negative", float(score)),)
        meta = {"prompt_id": pair, "side": which}
        return Record(
            f"{pair}/{which}", "test", (Message("user", pair),), which, feedback=said, meta=meta
        )

    scored = [side("a", "chosen", 7), side("a", "rejected", 5)]
    scored += [side("b", "chosen", 6), side("c", "chosen", 3), side("c", "rejected", 3)]
    found, agreements = of_sides(scored, [*scored, side("b", "rejected")])
    assert [(r.id, r.satisfactory) for r in agreements] == [("a", True), ("b", False), ("c", False)]
    assert found["agreement"] == pytest.approx(1 / 3) and found["missing"] == 1
