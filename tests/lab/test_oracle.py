"""The oracle: what each kind of judgment says, on any response, and how it is made worse."""

from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import binomtest, chisquare

from lfjax.data.records import Candidate, Message, Record
from lfjax.errors import UserError
from lfjax.lab.oracle import Oracle, parts_of, world_of
from lfjax.lab.phrasebook import Phrasebook
from lfjax.lab.world import KINDS, faults, right_share

BOOK = Phrasebook()
RECORD = BOOK.prompts("seen", "train", 1)[0]
WORDS = [BOOK.words[t] for t in RECORD.prompt[0].content.split()[1::2]]
SURE = 1e-4
MALFORMED = ("", "\n", "zz", "Yo\n\n\nzz zz zz\n" * 9, "\n".join(["Yo open"] * 40), "<unk> 3\x00")


def answer(*wrong):
    """Right lines but for those of these numbers, from 1, which are habitual."""
    return "\n".join(
        f"{(w.habit if i in wrong else w.right)[0]} {w.second}" for i, w in enumerate(WORDS, 1)
    )


PERFECT, FLAWED = answer(), answer(2, 5, 6)
SAID = {i: WORDS[i - 1].habit[0] for i in (2, 5, 6)}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("all", f"wrong: 2 {SAID[2]} 5 {SAID[5]} 6 {SAID[6]}"),
        ("flawed", "flawed"),
        ("count", "faults: 3"),
        ("score", "score: 7"),
        (
            "praise",
            "lines: "
            + " ".join(f"{i} {s.split()[0]}" for i, s in enumerate(FLAWED.split("\n"), 1)),
        ),
    ],
)
def test_what_is_said(kind, text):
    assert Oracle(kind).feedback(RECORD, FLAWED).text == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_response(kind):
    said = Oracle(kind).feedback(RECORD, PERFECT)
    assert said.text == {"score": "score: 10", "count": "faults: 0"}.get(kind, "flawless")
    assert (said.polarity, said.score, said.weaknesses) == ("positive", 10, None)
    assert said.spans is said.suggestions is None
    assert Oracle(kind).improved(RECORD, PERFECT) == PERFECT


@pytest.mark.parametrize("names", [1, 2, 3])
def test_some_faults_are_named(names):
    seen = set()
    for seed in range(30):
        oracle = Oracle("some", names, seed=seed)
        about = oracle.called_wrong(RECORD, FLAWED)
        assert len(about) == names and not any(p.right for p in about)
        said = oracle.feedback(RECORD, FLAWED)
        numbers = [p.index + 1 for p in about]
        assert numbers == sorted(numbers)
        assert said.text == "wrong: " + " ".join(f"{i} {SAID[i]}" for i in numbers)
        assert [FLAWED[a:b] for a, b in said.spans] == [SAID[i] for i in numbers]
        assert oracle.improved(RECORD, FLAWED) == answer(*({2, 5, 6} - set(numbers)))
        seen.update(numbers)
    assert seen == {2, 5, 6}


def test_as_much_is_said_by_the_placebo():
    assert Oracle() == Oracle("all", None)
    for kind in ("all", "some", "random", "misplaced"):
        assert len(Oracle(kind).called_wrong(RECORD, FLAWED)) == 3


def test_no_more_faults_than_there_are():
    assert len(Oracle("some", 5).called_wrong(RECORD, FLAWED)) == 3
    assert len(Oracle("one", 5).called_wrong(RECORD, FLAWED)) == 1


def test_placebo_names_any_line():
    named = Counter(
        p.index
        for seed in range(800)
        for p in Oracle("random", 1, seed=seed).called_wrong(RECORD, FLAWED)
    )
    assert chisquare([named[i] for i in range(8)]).pvalue > SURE


def test_misplaced_names_what_is_right():
    for seed in range(20):
        about = Oracle("misplaced", 2, seed=seed).called_wrong(RECORD, FLAWED)
        assert len(about) == 2 and all(p.right for p in about)
    assert Oracle("misplaced").feedback(RECORD, answer(*range(1, 9))).text == "flawed"


@pytest.mark.parametrize("worse", ["random", "flawed", "misplaced"])
def test_worse_judgments_at_their_rate(worse):
    texts = [replace(RECORD, id=f"r{i}") for i in range(400)]
    mixed = Oracle("some", 2, worse=worse, rate=0.25)
    changed = sum(
        faults(mixed.called_wrong(r, FLAWED)) != list(mixed.called_wrong(r, FLAWED))
        or mixed.feedback(r, FLAWED).text == "flawed"
        for r in texts
    )
    # A random pair of eight lines has no right one with probability 3/28.
    expected = 0.25 * (25 / 28 if worse == "random" else 1)
    assert binomtest(changed, 400, expected).pvalue > SURE


@pytest.mark.parametrize("kind", ["some", "flawed"])
def test_a_rate_of_nothing_and_of_all(kind):
    def feedback(**how):
        return Oracle(kind, **how).feedback(RECORD, FLAWED).text

    assert feedback(worse="misplaced", rate=0.0) == feedback()
    assert feedback(worse="count", rate=1.0) == "faults: 3"


def test_everything_is_repaired_on_demand_and_where_nothing_is_named():
    assert Oracle("one").improved(RECORD, FLAWED, everything=True) == PERFECT
    assert Oracle("flawed").improved(RECORD, FLAWED) == PERFECT


def test_praise_is_mixed():
    assert Oracle("praise").feedback(RECORD, FLAWED).polarity == "mixed"
    assert Oracle("praise").feedback(RECORD, answer(*range(1, 9))).polarity == "negative"
    assert Oracle("all").feedback(RECORD, FLAWED).polarity == "negative"


def test_scores_order_responses():
    scores = [Oracle().feedback(RECORD, answer(*range(1, n + 1))).score for n in range(9)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 9
    assert (scores[0], scores[-1]) == (10, 1)
    # what nobody asked for costs something too
    assert Oracle().feedback(RECORD, PERFECT + "\nYo open").score == 9


def test_preference():
    oracle = Oracle()
    assert oracle.preferred(RECORD, PERFECT, FLAWED) == 1
    assert oracle.preferred(RECORD, FLAWED, PERFECT) == -1
    assert oracle.preferred(RECORD, answer(1), answer(8)) == 0


def test_suggestions_and_weaknesses_are_exhaustive():
    said = Oracle("one").feedback(RECORD, FLAWED)
    assert said.weaknesses == Oracle("all").feedback(RECORD, FLAWED).text
    assert said.suggestions == "write: " + " ".join(f"{i} {WORDS[i - 1].right[0]}" for i in SAID)


def test_judged_records():
    flawed = Oracle("one").judged(replace(RECORD, response=FLAWED))
    assert not flawed.satisfactory and flawed.feedback[0].author == "oracle"
    assert len(faults(parts_of(RECORD, flawed.refinement))) == 2
    perfect = Oracle().judged(replace(RECORD, response=PERFECT))
    assert perfect.satisfactory and perfect.refinement is None
    drafts = replace(RECORD, candidates=(Candidate(PERFECT), Candidate(FLAWED)))
    assert [c.score for c in Oracle().judged(drafts).candidates] == [1, 5 / 8]
    for record in (flawed, perfect, drafts):
        assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("response", MALFORMED)
def test_any_response_is_judged(kind, response):
    oracle = Oracle(kind)
    said = oracle.feedback(RECORD, response)
    assert said.polarity == "negative" and said.text and 1 <= said.score < 10
    assert all(response[a:b].split() == [response[a:b]] for a, b in said.spans or ())
    assert oracle.feedback(RECORD, response) == said
    better = right_share(parts_of(RECORD, oracle.improved(RECORD, response)))
    assert better >= right_share(parts_of(RECORD, response))
    assert oracle.improved(RECORD, response, everything=True).rstrip("\n") == PERFECT
    assert oracle.preferred(RECORD, PERFECT, response) == 1


def test_what_is_drawn_depends_on_record_and_response():
    names = {Oracle("one").feedback(replace(RECORD, id=f"r{i}"), FLAWED).text for i in range(20)}
    assert len(names) == 3


def test_settings_that_make_no_sense():
    with pytest.raises(UserError, match=r"unknown kind 'som'\. Did you mean 'some'"):
        Oracle("som")
    with pytest.raises(UserError, match=r"rate=1.5; expected a share from 0 to 1"):
        Oracle(rate=1.5)
    with pytest.raises(UserError, match="names=0; expected at least 1"):
        Oracle(names=0)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "is not of a world of the lab"),
        ({"world": "phrasebook"}, "is not of a world of the lab"),
        ({"world": {"name": "phrasebok"}}, "Did you mean 'phrasebook'"),
        ({"world": {"name": "phrasebook", "sed": 1}}, "meta.world: .*sed"),
        ({"world": {"name": "phrasebook", "seed": []}}, "meta.world: "),
        ({"world": {"name": "phrasebook", "lines": "8"}}, "meta.world: "),
        ({"world": {"name": "phrasebook", "lines": 80}}, "lines=80; expected 1 to 8"),
    ],
)
def test_records_of_no_world(meta, message):
    with pytest.raises(UserError, match=message):
        world_of(Record("r", "test", (Message("user", "1 hello"),), meta=meta))


def test_a_record_knows_its_world():
    record = Phrasebook(seed=5, lines=4).prompts("unseen", "test", 1)[0]
    assert world_of(Record.from_json(record.to_json())) == Phrasebook(seed=5, lines=4)
    assert [p.group for p in parts_of(record, "")] == ["unseen"] * 4
