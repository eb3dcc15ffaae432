"""What the lab measures, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lfjax.data.records import Message
from lfjax.lab.metrics import blame_scores, fault_tokens, score_responses
from lfjax.lab.oracle import Oracle, parts_of
from lfjax.lab.phrasebook import Phrasebook

BOOK = Phrasebook(lines=2)


def lines(record, *wrong):
    """A right answer but for the lines of these indices, which are habitual."""
    words = [BOOK.words[t] for t in record.prompt[0].content.split()[1::2]]
    return "\n".join(
        f"{(w.habit if i in wrong else w.right)[0]} {w.second}" for i, w in enumerate(words)
    )


def test_scores_by_group_and_tier():
    seen, clean = (BOOK.prompts(g, "test", 2) for g in ("seen", "clean"))
    responses = [lines(seen[0]), lines(seen[1], 0), lines(clean[0], 0, 1), lines(clean[1]) + "\nYo"]
    scores = score_responses([*seen, *clean], responses)
    assert scores["seen/right"] == 3 / 4 and scores["seen/all_right"] == 1 / 2
    assert scores["clean/right"] == scores["clean/clean/right"] == 1 / 2
    assert scores["clean/all_right"] == 0  # a line more than was asked for
    assert scores["seen/responses"] == scores["clean/responses"] == 2
    tiers = [p.tier for p in parts_of(seen[1], "")]
    wrong = scores[f"seen/{tiers[0]}/right"]
    assert wrong < 1


def test_lines_count_for_their_own_group():
    word = {g: next(w for w in BOOK.words.values() if w.group == g) for g in ("seen", "ignorance")}
    record = BOOK.prompts("feedback", "train", 1)[0]
    text = f"1 {word['seen'].text} 2 {word['ignorance'].text}"
    record = replace(record, prompt=(Message("user", text),))
    scores = score_responses([record], [lines(record, 1)])
    assert (scores["seen/right"], scores["ignorance/right"]) == (1, 0)
    assert scores["feedback/all_right"] == 0


def test_sides_of_different_length():
    with pytest.raises(ValueError, match="shorter"):
        score_responses(BOOK.prompts("seen", "test", 2), [""])


def test_empty_responses_are_wrong():
    assert score_responses(BOOK.prompts("seen", "test", 3), ["", "\n", "zz"])["seen/right"] == 0


@pytest.mark.parametrize("space", ["", "\n", " "])
def test_fault_tokens(space):
    record = BOOK.prompts("seen", "test", 1)[0]
    response = lines(record, 0, 1)
    pieces = space + response
    first, second = (i + len(space) for i in (response.index(" "), response.index("\n")))
    third = response.rindex(" ") + len(space)
    start = [0, first, second, third, len(pieces)]
    end = [*start[1:], len(pieces)]
    found = fault_tokens(Oracle("all"), record, pieces, start, end)
    assert found.tolist() == [True, False, True, False, False]
    one = fault_tokens(Oracle("one"), record, pieces, start, end)
    assert one.sum() == 1 and (one <= found).all()


def test_a_right_line_that_is_named_is_no_fault():
    record = BOOK.prompts("seen", "test", 1)[0]
    response = lines(record, 0)
    oracle = Oracle("misplaced", names=1)
    assert oracle.called_wrong(record, response)[0].index == 1
    assert not fault_tokens(oracle, record, response, [0], [len(response)]).any()


def test_blame_scores_by_hand():
    ratio = [np.log([2.0, 1.0, 1.2]), np.log([0.5, 1.05, 1.3])]
    fault = [np.array([True, False, False]), np.array([False, True, True])]
    scores = blame_scores(ratio, fault, 1.1)
    # blamed: 2.0 (a fault), 1.2 (none), 1.3 (a fault); ranking: 2.0 F, 1.3 F, 1.2, 1.05 F, …
    assert scores == pytest.approx(
        {
            "precision": 2 / 3,
            "recall": 2 / 3,
            "average_precision": (1 + 1 + 3 / 4) / 3,
            "blamed": 3 / 6,
        }
    )


def test_the_rule_is_strict():
    scores = blame_scores([np.log(np.array([1.1]))], [np.array([True])], 1.1)
    assert scores["recall"] == 0


def test_nothing_to_take_a_share_of():
    scores = blame_scores([np.zeros(3)], [np.zeros(3, bool)], 1.1)
    assert np.isnan([scores[k] for k in ("precision", "recall", "average_precision")]).all()
    assert scores["blamed"] == 0
