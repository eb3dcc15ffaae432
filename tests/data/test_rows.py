"""Rows: what is a target, what it weighs, where its twin is, and what a long text loses."""

import numpy as np
import pytest

from lfjax.data.records import Feedback, Message, Record, RecordError
from lfjax.data.rows import Rows, encode_records, place, shift
from lfjax.data.templates import render_prompt, template_text
from lfjax.data.tokenize import wrap
from lfjax.data.views import Role, View
from lfjax.methods.cut import METHOD
from tests.data.tokenizers_of import KINDS, byte_level, tokenizer_of, unigram

ALPACA = template_text("alpaca")
BARE = "{{ messages[-1].content }}{{ judgment or '' }}"
each_kind = pytest.mark.parametrize("kind", KINDS)


def record(name="r", prompt="Name a colour.", response="The answer is blue.", said="It's wrong."):
    """A flawed record, or a satisfactory one where `said` is empty."""
    feedback = Feedback(said, "negative" if said else "positive")
    return Record(name, "test", (Message("user", prompt),), response, feedback=(feedback,))


def cut_views(**options):
    return METHOD.views_of({**METHOD.options, **options})


def encoded(records, kind="llama3", *, views=None, template=ALPACA, max_tokens=512, **settings):
    """Units of CUT's views; `kind` may be a tokenizer."""
    tokenizer = tokenizer_of(kind) if isinstance(kind, str) else kind
    settings = {"row_tokens": 1024, "max_tokens": max_tokens, **settings}
    return encode_records(records, views or cut_views(), tokenizer, template, **settings)


def placed(units, normalize="example", gap=3, width=1024):
    """All units in one row, with padding between them, and the row's slices by segment."""
    rows, offset, number, parts = Rows.empty(1, width), gap, 1, []
    for unit in units:
        number = place(rows, unit, 0, offset, number, normalize)
        for segment in unit.segments:
            parts.append((segment, slice(offset, offset + len(segment.ids))))
            offset += len(segment.ids)
        offset += gap
    return rows, parts


MIXED = [record("a"), record("b", said=""), record("c", "Count.", "1. one\n2. two", "Too short.\n")]


@each_kind
@pytest.mark.parametrize(
    "response", ["The answer is blue.", "\n\nThe end.", "- red", "</s><|end|>"]
)
@pytest.mark.parametrize("misalign", ["none", "fake_positive"])
def test_views_of_a_record(kind, response, misalign):
    """Without it a view learns from the prompt, or twins are compared token by wrong token."""
    tokenizer = tokenizer_of(kind)
    praise = METHOD.options["praise"]
    (unit,) = encoded([record(response=response)], kind, views=cut_views(misalign=misalign)).units
    judgments = [None, "It's wrong.", praise][: len(unit.segments)]
    assert len(unit.segments) == (3 if misalign == "fake_positive" else 2)
    for segment, judgment in zip(unit.segments, judgments):
        prompt = render_prompt(ALPACA, record().prompt, judgment)
        ids = segment.ids.tolist()
        start = [] if tokenizer.bos is None else [tokenizer.bos]
        assert ids[: segment.first] == start + tokenizer.encode(prompt)
        assert tokenizer.decode(ids[segment.first :]) == response
        assert ids.count(tokenizer.eos) == 1 and ids[-1] == tokenizer.eos
        assert ids[segment.first :] == unit.segments[0].ids[unit.segments[0].first :].tolist()


def test_twins_that_would_differ_are_cut_at_the_border():
    """Without it one prompt's last characters change how the response is divided, and twins are
    compared token by wrong token."""
    tokenizer = tokenizer_of("llama3")
    alone = [tokenizer.encode(head + "2345")[1:] for head in "1x"]
    assert alone[0] != alone[1]  # 1|23|45 against x|23|4|5: digits are grouped by three
    unit = encoded([record(prompt="1", response="2345", said="x")], template=BARE).units[0]
    targets = [s.ids[s.first :].tolist() for s in unit.segments]
    assert targets[0] == targets[1] == [*tokenizer.continuation("2345"), tokenizer.eos]


@each_kind
@pytest.mark.parametrize("normalize", ["example", "token"])
@pytest.mark.parametrize("misalign", ["none", "fake_positive"])
def test_rows_describe_targets_where_they_are_predicted(kind, normalize, misalign):
    """Without it labels and logits are off by one, examples weigh by their length, or padding and
    prompts are learned."""
    tokenizer = tokenizer_of(kind)
    units = encoded(MIXED, kind, views=cut_views(misalign=misalign)).units
    rows, parts = placed(units, normalize)
    outside = np.ones(1024, bool)
    for number, (segment, part) in enumerate(parts, 1):
        outside[part] = False
        ids, first = segment.ids, segment.first
        assert np.array_equal(rows.tokens[0, part], ids)
        assert np.array_equal(rows.targets[0, part], [*ids[1:], 0])
        assert np.array_equal(rows.positions[0, part], np.arange(len(ids)))
        assert set(rows.segment[0, part]) == {number}
        supervised = np.zeros(len(ids), bool)
        supervised[first - 1 : -1] = True
        assert np.array_equal(rows.role[0, part], np.where(supervised, segment.role, Role.NONE))
        assert rows.targets[0, part][supervised][-1] == tokenizer.eos
        share = segment.weight / (supervised.sum() if normalize == "example" else 1)
        assert np.allclose(rows.weight[0, part], supervised * share)
        if normalize == "example":
            assert rows.weight[0, part].sum() == pytest.approx(segment.weight)
        twins = rows.twin[0, part]
        assert (twins[~supervised] == -1).all()
        assert (twins[supervised] >= 0).all() == (segment.twin is not None)
    lengths = [len(u.segments[0].ids) - u.segments[0].first for u in units]
    assert rows.mass.tolist() == [3 if normalize == "example" else sum(lengths)]
    empty = Rows.empty(1, 1024)
    for name in ("tokens", "targets", "positions", "segment", "weight", "role", "twin"):
        assert np.array_equal(getattr(rows, name)[0, outside], getattr(empty, name)[0, outside])


@pytest.mark.parametrize("misalign, turns", [("none", 2), ("fake_positive", 3)])
def test_twins_form_a_ring(misalign, turns):
    """Without it detection compares a token with itself, or with one of another record."""
    rows, parts = placed(encoded(MIXED, views=cut_views(misalign=misalign)).units)
    role, twin, targets = rows.role[0], rows.twin[0], rows.targets[0]
    ring = [Role.FLAWED, Role.JUDGED, Role.PRAISED][:turns]
    at = np.flatnonzero(role == Role.FLAWED)
    assert len(at) == sum(len(s.ids) - s.first for s, _ in parts if s.role == Role.FLAWED)
    here = at
    for n in range(turns):
        assert (role[here] == ring[n]).all()
        assert np.array_equal(targets[here], targets[at])
        assert n == 0 or not np.array_equal(here, at)
        here = twin[here]
    assert np.array_equal(here, at)
    assert (twin[role == Role.PLAIN] == -1).all()


@pytest.mark.parametrize(
    "options, flawed, judged, satisfactory",
    [
        ({}, 0.5, 0.5, 1.0),
        ({"mode": "paper"}, 1.0, 1.0, 1.0),
        ({"use_l1": False}, 0.0, 1.0, 1.0),
        ({"use_l1": False, "mode": "paper"}, 0.0, 1.0, 1.0),
        ({"use_align_n": False}, 1.0, 0.0, 1.0),
        ({"use_align_n": False, "use_l1": False}, 0.0, 0.0, 1.0),
        ({"use_align_p": False}, 0.5, 0.5, None),
        ({"misalign": "fake_positive"}, 0.5, 0.5, 1.0),
    ],
)
def test_switches_of_cut(options, flawed, judged, satisfactory):
    """Without it an ablation runs as something else than its name says."""
    out = encoded(MIXED, views=cut_views(**options))
    rows, _ = placed(out.units)
    weights = {role: rows.weight[0][rows.role[0] == role].sum() for role in Role if role}
    assert weights[Role.FLAWED] == pytest.approx(2 * flawed)
    assert weights[Role.JUDGED] == pytest.approx(2 * judged)
    assert weights[Role.PLAIN] == pytest.approx(satisfactory or 0.0)
    assert weights[Role.PRAISED] == 0.0
    assert (rows.role == Role.PRAISED).any() == ("misalign" in options)
    used = (2 if flawed or judged else 0) + (satisfactory is not None)
    assert out.counts["not used by the method"] == 3 - used
    assert rows.mass.sum() == len(out.units) == used


@each_kind
def test_trimming_takes_the_prompt_then_the_judgment_never_the_response(kind):
    """Without it the response is cut, and there is NaN or nothing to learn from."""
    tokenizer = tokenizer_of(kind)
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    whole = encoded([record()], kind).units[0].segments[1]
    target = whole.ids[whole.first :].tolist()
    shortest = len(target) + 1  # BOS, or a token of the prompt, predicts the response's first
    preamble, judgment = "You are given an instruction", "It's wrong."
    seen = []
    for limit in range(len(whole.ids), shortest - 1, -1):
        out = encoded([record()], kind, max_tokens=limit)
        assert out.counts["prompt trimmed"] == (limit < len(whole.ids))
        assert not out.counts["response too long"]
        plain, judged = out.units[0].segments
        for segment in (plain, judged):
            assert len(segment.ids) <= limit
            assert segment.ids[segment.first :].tolist() == target
            assert segment.ids[: len(start)].tolist() == start
        assert len(judged.ids) == limit
        kept = whole.ids[len(whole.ids) - limit + len(start) :].tolist()
        assert judged.ids.tolist() == start + kept
        text = tokenizer.decode(judged.ids)
        seen.append((text.startswith(preamble), judgment in text))
    assert seen[0] == (True, True) and seen[-1] == (False, False)
    assert (False, True) in seen and (True, False) not in seen  # the judgment goes last
    out = encoded([record()], kind, max_tokens=shortest - 1)
    assert not out.units
    assert out.counts == {"response too long": 1}


def test_views_that_do_not_fit_a_row_are_counted():
    """Without it twins are torn apart, or records vanish unseen."""
    length = encoded([record()]).units[0].length
    records = [record("a"), record("b", said="")]
    out = encoded(records, row_tokens=length)
    assert [u.record for u in out.units] == [0, 1] and not out.counts["views do not fit one row"]
    out = encoded(records, row_tokens=length - 1)
    assert [u.record for u in out.units] == [1] and out.counts["views do not fit one row"] == 1
    assert out.lengths.tolist() == [out.units[0].length]
    plain = len(encoded([record()]).units[0].segments[0].ids)
    out = encoded([record("a")], max_tokens=plain - 1, row_tokens=plain)
    assert +out.counts == {"views do not fit one row": 1}  # and not as a trimmed one, too


def broken(case):
    """A record that cannot be learned from, with the tokenizer and template that it meets."""
    narrow = wrap(byte_level("gpt2", ["You are given ### Response: abc\n" * 9], False), "narrow")
    return {
        "no token": (record("bad", response="日本"), narrow, ALPACA),
        "no response": (record("bad", response=None), "llama3", ALPACA),
        "no judgment": (record("bad", said="  "), "llama3", ALPACA),
        "unjudged": (Record("bad", "test", (Message("user", "x"),), "y"), "llama3", ALPACA),
        "nothing before": (record("bad", prompt="", said=""), "gpt2", BARE),
        "eos inside": (record("bad", response="a </s> b"), wrap(unigram(), "unigram"), ALPACA),
    }[case]


@pytest.mark.parametrize(
    "case, said",
    [
        ("no token", "its FLAWED view has no supervised token"),
        ("no response", "has no response"),
        ("no judgment", "has no judgment text"),
        ("unjudged", "has no judgment text"),
        ("nothing before", "its PLAIN view has no token before the response"),
        ("eos inside", "its FLAWED view has an end-of-sequence token inside"),
    ],
)
def test_record_that_teaches_nothing_is_named(case, said):
    """Without it the mask of a row is all zero, its loss NaN, and nobody knows which record."""
    bad, tokenizer, template = broken(case)
    with pytest.raises(RecordError, match=r"record 'bad' of test: .*on_error=skip") as error:
        encoded([bad], tokenizer, template=template)
    assert said in str(error.value)
    good = record("good", response="abc", said="abc")
    out = encoded([bad, good], tokenizer, template=template, on_error="skip")
    assert [u.record for u in out.units] == [1]
    assert len(out.skipped) == 1 and said in out.skipped[0]
    assert not +out.counts


def test_all_judgments_that_find_fault_are_shown():
    """Without it praise beside a fault is shown as the fault, or a second fault is left out."""
    feedback = [("Fault one. ", "negative"), ("Nice.", "positive"), ("But two.", "mixed")]
    r = Record(
        "a", "s", (Message("user", "x"),), "y", feedback=tuple(Feedback(*f) for f in feedback)
    )
    flawed, judged = cut_views()(r)
    assert flawed.judgment is None and judged.judgment == "Fault one.\nBut two."
    assert isinstance(judged, View) and flawed.response == judged.response == "y"


def test_shift():
    """Without it targets are the inputs, and the loss falls to zero at once."""
    assert shift(np.array([5, 6, 7], np.int32)).tolist() == [6, 7, 0]
