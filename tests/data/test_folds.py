"""Folds: disjoint by prompt, of about equal size; and responses dealt out among other prompts."""

import pytest

from lfjax.data.folds import exchanged, folds, pairings, prompt_key
from lfjax.data.records import Candidate, Message, Record
from lfjax.errors import UserError


def pair(i, better="good", worse="bad", prompt=None, **meta):
    asked = (Message("user", prompt or f"question {i}"),)
    sides = Candidate(better, preferred=True), Candidate(worse, preferred=False)
    return Record(f"r{i}", "test", asked, candidates=sides, meta=meta)


def test_a_prompt_is_in_one_fold():
    """Prompts recur, with other spaces and capitals too."""
    records = [
        pair(i, prompt=f"Question  {i % 40}" if i % 2 else f"question {i % 40}") for i in range(200)
    ]
    found, left = folds(records, 0)
    assert list(found) == ["sft", "rm", "rl"] and not left
    keys = {name: {prompt_key(r) for r in fold} for name, fold in found.items()}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == 40
    assert sorted(r.id for fold in found.values() for r in fold) == sorted(r.id for r in records)
    assert max(map(len, found.values())) - min(map(len, found.values())) <= 10


def test_sizes_and_seeds():
    records = [pair(i) for i in range(99)]
    found = folds(records, 1)[0]
    assert {len(fold) for fold in found.values()} == {33}
    assert found == folds(records, 1)[0] != folds(records, 2)[0]
    assert list(folds(records, 1, names=("a", "b"))[0]) == ["a", "b"]


def test_what_prefers_nothing_is_counted():
    records = [
        *(pair(i) for i in range(6)),
        pair(6, worse="good "),
        pair(7, worse="  "),
    ]
    found, left = folds(records, 0)
    assert sum(map(len, found.values())) == 6
    assert left == {"both responses are equally good": 1, "a response is empty": 1}


def test_folds_that_are_given():
    records = [*(pair(i, fold="rl") for i in range(5)), *(pair(i) for i in range(5, 15))]
    found = folds(records, 0)[0]
    assert {r.id for r in records[:5]} <= {r.id for r in found["rl"]}
    assert {len(fold) for fold in found.values()} == {5}
    with pytest.raises(UserError, match="r1' and 'r2' have the same prompt"):
        folds([*records, pair(1, prompt="x", fold="sft"), pair(2, prompt="X ", fold="rm")], 0)
    with pytest.raises(UserError, match=r"meta\.fold is"):
        folds([*records, pair(1, prompt="x", fold="dev")], 0)


def test_prompts_to_evaluate_on():
    records = [pair(i, prompt=f"question {i % 50}") for i in range(100)]
    found = folds(records, 0, test=5)[0]
    assert list(found) == ["sft", "rm", "rl", "test"] and len(found["test"]) == 10
    keys = [{prompt_key(r) for r in fold} for fold in found.values()]
    assert len(keys[3]) == 5 and sum(map(len, keys)) == len(set.union(*keys)) == 50
    with pytest.raises(UserError, match="expected different names"):
        folds(records, 0, names=("sft", "test"), test=5)


def test_too_few():
    with pytest.raises(UserError, match=r"2 different prompts .* stay empty"):
        folds([pair(0), pair(1), pair(2, worse="good")], 0)


def test_the_four_pairings():
    records = [pair(0), pair(1, worse="good"), pair(2), pair(3)]
    found, left = pairings(records, 0, at_most=2)
    assert dict(left) == {"no preference": 1}
    assert {name: [(r.refinement, r.response) for r in rs] for name, rs in found.items()} == {
        "wl": [("good", "bad")] * 2,
        "ww": [("good", "good")] * 2,
        "ll": [("bad", "bad")] * 2,
        "lw": [("bad", "good")] * 2,
    }
    assert all([r.id for r in rs] == [records[0].id, records[2].id] for rs in found.values())


def test_exchanged_responses_are_anothers():
    def answered(i):
        return Record(str(i), "test", (Message("user", f"question {i}"),), f"answer {i}")

    records = [answered(i) for i in range(20)]
    found, left = exchanged(records, 0)
    assert not +left and [r.prompt for r in found] == [r.prompt for r in records]
    assert sorted(r.response for r in found) == sorted(r.response for r in records)
    assert all(a.response != b.response for a, b in zip(found, records))
    with pytest.raises(UserError, match="1 responses"):
        exchanged(records[:1], 0)
