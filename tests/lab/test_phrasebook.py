"""The phrasebook: its words and rates, what judgments in pretraining say, and the truth about
responses, malformed ones too."""

import re
from collections import Counter

import pytest
from scipy.stats import binomtest, chisquare

from lfjax.data.records import Message, Record
from lfjax.errors import UserError
from lfjax.lab.phrasebook import (
    FORMAL,
    GROUPS,
    INFORMAL,
    PROMPTS,
    SECOND,
    SPLITS,
    TIERS,
    Phrasebook,
    split_of,
)
from lfjax.lab.world import FLAWED, FLAWLESS, JUDGED, World

BOOK = Phrasebook(seed=3)
SURE = 1e-4  # of chance alone, for each of some dozens of tests


def pretraining(count):
    """(judged?, noted line -> first token, words, lines of the answer) of each text."""
    for record in BOOK.pretraining(count):
        head, _, last = record.prompt[0].content.rpartition("\n")
        tokens = last.split()
        noted = {i: t for i, t in enumerate(tokens[::2]) if t != str(i + 1)}
        words = [BOOK.words[t] for t in tokens[1::2]]
        yield head, noted, words, record.response.split("\n")


# --- words ------------------------------------------------------------------------------------


def test_it_is_a_world():
    assert isinstance(BOOK, World)


def test_words_of_groups_and_tiers():
    found = Counter((w.group, w.tier) for w in BOOK.words.values())
    assert found == {(g, t): each for g, (tiers, each) in GROUPS.items() for t in tiers}


def test_a_fault_is_a_style():
    assert not set(FORMAL) & set(INFORMAL)
    assert len(set(BOOK.tokens)) == len(BOOK.tokens)
    for w in BOOK.words.values():
        assert set(w.right) <= set(FORMAL) and set(w.habit) <= set(INFORMAL)
        assert (len(w.right) == len(w.habit) == 1) == (w.tier != "free")
        assert w.second in SECOND


def test_a_seed_is_a_world():
    assert Phrasebook(seed=3).words == BOOK.words
    assert Phrasebook(seed=4).words != BOOK.words
    assert list(Phrasebook(seed=3).pretraining(20)) == list(BOOK.pretraining(20))


@pytest.mark.parametrize("lines", [0, 9])
def test_lines_out_of_range(lines):
    with pytest.raises(UserError, match=f"lines={lines}; expected 1 to 8"):
        Phrasebook(lines=lines)


# --- pretraining ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts():
    return list(pretraining(6000))


def test_three_in_ten_are_judged(texts):
    judged = sum(bool(head) for head, *_ in texts)
    assert binomtest(judged, len(texts), 0.3).pvalue > SURE


def test_judgments_are_of_words_of_their_own(texts):
    assert {w.group for head, _, words, _ in texts if head for w in words} == {"judged"}
    assert {w.group for head, _, words, _ in texts if not head for w in words} == set(GROUPS)


def test_habits_have_their_rates(texts):
    slips = {tier: [] for tier in TIERS}
    for head, _, words, lines in texts:
        for word, line in zip(words, lines, strict=True):
            first, second = line.split()
            assert second == word.second and first in (*word.right, *word.habit)
            if not head:
                slips[word.tier].append(first in word.habit)
    for tier, found in slips.items():
        assert binomtest(sum(found), len(found), TIERS[tier]).pvalue > SURE


def test_notes_are_true(texts):
    kinds = Counter()
    for head, noted, _, lines in texts:
        assert all(lines[i].split()[0] == said for i, said in noted.items())
        kinds[head.removeprefix(JUDGED).split(":")[0].strip() if head else "none"] += 1
        assert bool(noted) == (head == JUDGED)
    assert set(kinds) == {"none", "", FLAWED, FLAWLESS, "faults", "score"}


def test_a_note_says_nothing_of_other_lines(texts):
    """They have their habits at the rates that they have without a judgment."""
    for tier in GROUPS["judged"][0]:
        found = [
            line.split()[0] in word.habit
            for head, noted, words, lines in texts
            if noted
            for i, (word, line) in enumerate(zip(words, lines))
            if i not in noted and word.tier == tier
        ]
        assert binomtest(sum(found), len(found), TIERS[tier]).pvalue > SURE


def test_scores_and_counts_are_true(texts):
    for head, _, words, lines in texts:
        slips = sum(line.split()[0] in w.habit for w, line in zip(words, lines))
        if "faults:" in head:
            assert head == f"{JUDGED} faults: {slips}"
        if FLAWLESS in head or FLAWED in head:
            assert (FLAWED in head) == (slips > 0)


# --- prompts ----------------------------------------------------------------------------------


def test_splits_do_not_overlap():
    texts = {s: {r.prompt[0].content for r in BOOK.prompts("seen", s, 60)} for s in SPLITS}
    assert all(len(t) == 60 for t in texts.values())
    assert len(set().union(*texts.values())) == 180
    assert all(split_of(t) == s for s in SPLITS for t in texts[s])


def test_splits_have_their_shares():
    found = Counter(split_of(f"prompt {i}") for i in range(5000))
    expected = [50 * share for share in SPLITS.values()]
    assert chisquare([found[s] for s in SPLITS], expected).pvalue > SURE


@pytest.mark.parametrize("group", PROMPTS)
def test_prompts_are_of_their_groups(group):
    records = BOOK.prompts(group, "validation", 40)
    words = [w for r in records for w in re.findall(r"\d+ (\w+)", r.prompt[0].content)]
    found = Counter(BOOK.words[w].group for w in words)
    assert len(words) == 320 and set(found) <= set(PROMPTS[group])
    assert all(r == Record.from_json(r.to_json()) for r in records)
    assert BOOK.prompts(group, "validation", 20) == records[:20]


def test_feedback_is_given_on_some_ignorance():
    parts = [p for r in BOOK.prompts("feedback", "train", 400) for p in BOOK.parts(r, "")]
    share = sum(p.group == "ignorance" for p in parts)
    assert binomtest(share, len(parts), PROMPTS["feedback"]["ignorance"]).pvalue > SURE


def test_unknown_group_and_split():
    with pytest.raises(UserError, match=r"unknown group 'sen'\. Did you mean 'seen'"):
        BOOK.prompts("sen", "test", 1)
    with pytest.raises(UserError, match="unknown split 'dev'"):
        BOOK.prompts("seen", "dev", 1)


# --- truth ------------------------------------------------------------------------------------


def asked(*texts, book=BOOK):
    content = " ".join(f"{i} {t}" for i, t in enumerate(texts, 1))
    return Record("r", "test", (Message("user", content),))


@pytest.fixture(scope="module")
def three():
    """A record that asks for three words, and the words."""
    words = [w for w in BOOK.words.values() if w.group == "seen"][:3]
    return asked(*(w.text for w in words)), words


def right_lines(words):
    return [f"{w.right[0]} {w.second}" for w in words]


def test_right_and_habitual_lines(three):
    record, words = three
    lines = right_lines(words)
    lines[1] = f"{words[1].habit[0]} {words[1].second}"
    response = "\n".join(lines)
    parts = BOOK.parts(record, response)
    assert [p.right for p in parts] == [True, False, True]
    assert [(p.group, p.tier) for p in parts] == [(w.group, w.tier) for w in words]
    assert response[slice(*parts[1].span)] == parts[1].said == words[1].habit[0]
    assert parts[1].wanted == words[1].right[0]
    assert BOOK.repaired(record, response, [parts[1]]) == "\n".join(right_lines(words))


def test_the_first_wrong_token_is_named(three):
    record, words = three
    lines = right_lines(words)
    lines[2] = f"{words[2].right[0]} nothing"
    response = "\n".join(lines)
    wrong = BOOK.parts(record, response)[2]
    assert not wrong.right and wrong.said == "nothing" and wrong.wanted == words[2].second
    assert response[slice(*wrong.span)] == "nothing"


@pytest.mark.parametrize(
    ("response", "said", "spans"),
    [
        ("", ["missing"] * 3, [None] * 3),
        ("\n\n\n\n", ["missing"] * 3, [None] * 3),
        ("zz", ["zz", "missing", "missing"], [(0, 2), None, None]),
        ("  zz\n<b> \nyy", ["zz", "<b>", "yy"], [(2, 4), (5, 8), (10, 12)]),
        ("a\nb\nc\nd e\n\nf", [*"abcd", "f"], [(0, 1), (2, 3), (4, 5), (6, 7), (11, 12)]),
    ],
)
def test_malformed_responses(three, response, said, spans):
    record, words = three
    parts = BOOK.parts(record, response)
    assert [p.said for p in parts] == said
    assert [p.span for p in parts] == spans
    assert not any(p.right for p in parts)
    assert [p.wanted for p in parts[3:]] == [""] * len(parts[3:])
    assert BOOK.repaired(record, response, parts).rstrip("\n") == "\n".join(right_lines(words))


def test_a_line_cut_short_or_too_long(three):
    record, words = three
    first, second, third = right_lines(words)
    cut = BOOK.parts(record, f"{first}\n{words[1].right[0]}")[1]
    assert (cut.right, cut.said, cut.span, cut.wanted) == (False, "missing", None, words[1].second)
    long = BOOK.parts(record, f"{first} more\n{second}\n{third}")[0]
    assert (long.right, long.said, long.wanted) == (False, "more", "")
    whole = BOOK.parts(record, f"{first}\n{second}\n{third}\n")
    assert len(whole) == 3 and all(p.right for p in whole)


def test_repair_leaves_the_rest_alone(three):
    record, words = three
    response = "zz\nyy\nxx\nww\nvv"
    parts = BOOK.parts(record, response)
    better = BOOK.repaired(record, response, [parts[1], parts[3]])
    assert better == f"zz\n{right_lines(words)[1]}\nxx\nvv"


def test_pretraining_texts_have_a_truth_too():
    for record in BOOK.pretraining(200):
        parts = BOOK.parts(record, record.response)
        assert len(parts) == 8 and all(p.said in (*FORMAL, *INFORMAL) for p in parts)
        assert all(p.right == (p.said in FORMAL) for p in parts)


def test_prompts_of_another_world():
    with pytest.raises(UserError, match=r"asks for \['hello'\]; expected .* with seed 3"):
        BOOK.parts(asked("hello"), "")
    with pytest.raises(UserError, match="asks for nothing"):
        BOOK.parts(Record("r", "test", (Message("user", ""),)), "")
