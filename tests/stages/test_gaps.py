"""What is said of improved responses by a gap reward, here a made-up one."""

import numpy as np
import pytest

from lfjax.data.records import Message, Record
from lfjax.lab.repair import Repair
from lfjax.stages.gaps import measured


def record(i, old, new, **meta):
    return Record(str(i), "test", (Message("user", "?"),), old, refinement=new, meta=meta)


def longer(records):
    """The gap is the difference of lengths in words."""
    return np.array([len(r.refinement.split()) - len(r.response.split()) for r in records], float)


def test_bands_copies_and_lengths():
    records = [
        record(0, "a b", "a b c d e", origin="rejected"),
        record(1, "a b", "a b", origin="chosen"),
        record(2, "a b c", "x", origin="chosen"),
        record(3, "a b", "a b c", origin="rejected"),
    ]
    found = measured(records, longer(records), longer, (-1.5, 1.5))
    assert (found["gap_better"], found["gap_similar"], found["gap_worse"]) == (0.25, 0.5, 0.25)
    assert (found["gap_better/of_rejected"], found["gap_better/of_chosen"]) == (0.5, 0.0)
    assert found["copied"] == 0.25 and found["gap"] == pytest.approx(0.5)
    assert found["length_ratio"] == pytest.approx(11 / 9)
    assert found["length_correlation"] == pytest.approx(1) == found["antisymmetry"]
    assert found["self"] == 0 and "agreement" not in found
    assert 0 < found["similarity"] < 1


def test_a_reward_that_only_sees_the_candidate():
    """Then g(a, b) says nothing of −g(b, a)."""
    records = [record(i, "x " * (1 + i % 3), "x " * (1 + i)) for i in range(9)]

    def scorer(records):
        return np.array([len(r.refinement) for r in records], float)

    found = measured(records, scorer(records), scorer, (0.0, 1.0))
    assert found["antisymmetry"] < 0.5 and found["self"] > 0


def test_agreement_with_the_oracle():
    garden = Repair()
    pairs = garden.preferences("train", 12)
    better = [record_of(p, 1, 0) for p in pairs[:6]]
    worse = [record_of(p, 0, 1) for p in pairs[6:10]]
    same = [record_of(p, 0, 0) for p in pairs[10:]]
    records = [*better, *worse, *same]
    ones = lambda rs: np.ones(len(rs))  # noqa: E731
    found = measured(records, ones(records), ones, (-1.0, 1.0), truth=True)
    assert found["told_apart"] == 10 and found["agreement"] == 0.6
    assert found["truth_gain"] != 0


def record_of(pair, old, new):
    texts = [c.text for c in pair.candidates]
    return Record(
        pair.id, pair.source, pair.prompt, texts[old], refinement=texts[new], meta=pair.meta
    )
