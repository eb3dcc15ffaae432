"""Improvements and gaps as text and as rows: one layout, a ring of pairings, where a score is read,
and what a long text may lose."""

import numpy as np
import pytest

from lfjax.data.records import Candidate, Message, Record
from lfjax.data.rows import Rows, encode_records, place
from lfjax.data.templates import encode_prompt, template_text
from lfjax.data.views import GAPS, IMPROVE_REQUEST, Role, after_reference, gap, improve, pair
from tests.data.tokenizers_of import tokenizer_of

ALPACA = template_text("alpaca")
BETTER, WORSE = "The answer is blue.", "- red"


def record(prompt="Name a colour.", better=BETTER, worse=WORSE):
    sides = Candidate(better, preferred=True), Candidate(worse, preferred=False)
    return Record("r", "test", (Message("user", prompt),), candidates=sides)


def encoded(records, views, max_tokens=600, template=ALPACA):
    how = dict(max_tokens=max_tokens, row_tokens=4000)
    return encode_records(records, views, tokenizer_of("llama3"), template, **how)


def test_four_pairings_in_a_ring():
    views = gap(record())
    assert [v.role for v in views] == list(GAPS) and [v.pair for v in views] == [1, 2, 3, 0]
    shown = {(v.response, v.prompt[-2].content) for v in views}
    assert shown == {(a, b) for a in (BETTER, WORSE) for b in (BETTER, WORSE)}
    assert (views[0].response, views[0].prompt[-2].content) == (BETTER, WORSE)
    assert improve(record())[0].prompt == views[0].prompt == after_reference(record(), WORSE)
    assert gap(record(worse=BETTER)) == improve(record(worse=BETTER)) == []


def test_an_improver_is_asked_what_it_was_taught():
    """The ids before the response in training are those that the sampler begins with."""
    (unit,) = encoded([record()], improve).units
    (segment,) = unit.segments
    asked = encode_prompt(tokenizer_of("llama3"), ALPACA, after_reference(record(), WORSE))
    assert segment.ids[: segment.first].tolist() == asked and segment.role == Role.IMPROVED


def test_a_score_is_read_at_the_last_token():
    units = encoded([record(), record(better="Count. 1. one\n2. two")], gap).units
    rows = Rows.empty(1, 4000, 8)
    number, offset = 1, 5
    for unit in units:
        number = place(rows, unit, 0, offset, number, "pair")
        offset += unit.length + 3
    eos = tokenizer_of("llama3").eos
    for s in range(8):
        at = rows.score_at[0, s]
        inside = np.flatnonzero(rows.segment[0] == s + 1)
        assert at == inside[-1] and rows.tokens[0, at] == eos
    assert rows.pair[0].tolist() == [1, 2, 3, 0, 5, 6, 7, 4]
    assert rows.kind[0].tolist() == [int(r) for r in GAPS] * 2 and rows.mass[0] == 2


# Asks for a response in more words than stand before one that is there, as models that think do.
THINKING = (
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n"
    "### I think of nothing.\n\n### I think of nothing.\n\n{% endif %}"
)


@pytest.mark.parametrize("views", [improve, gap])
def test_what_asks_for_a_response_is_not_cut_from_the_reference(views):
    """Without it as many tokens of the reference are lost as the request is longer than the header
    of an answer."""
    tokenizer, long = tokenizer_of("llama3"), record(prompt="Name a colour. " * 40)
    short = encoded([record(prompt="x")], views, 4000, THINKING).units[0].segments
    for most in range(max(len(s.ids) for s in short) + 20, 0, -1):
        found = encoded([long], views, most, THINKING)
        if not found.units:
            assert found.counts == {"reference and response too long": 1}
            break
        kept = found.units[0].segments
    assert any(s.trimmed for s in kept)
    for before, segment in zip(views(long), kept):
        reference = before.prompt[-2].content
        text = tokenizer.hf.decode(segment.ids.tolist())
        assert f"### assistant:\n{reference}\n\n### user:\n{IMPROVE_REQUEST}" in text


@pytest.mark.parametrize("views", [improve, gap])
def test_a_reference_is_never_cut(views):
    """The prompt loses its start; a reference that leaves no room for it is left out."""
    long = record(prompt="Name a colour. " * 40)
    whole = encoded([long], views).units[0].segments[0]
    short = len(encoded([record(prompt="x")], views).units[0].segments[0].ids)
    found = encoded([long], views, max_tokens=short + 20)
    assert found.counts["prompt trimmed"] == 1
    for segment in found.units[0].segments:
        tail = segment.ids[1:]
        assert len(segment.ids) <= short + 20
        assert whole.ids[0] == segment.ids[0]  # BOS stays
        if segment.role in (Role.IMPROVED, Role.GAP_WL):
            assert tail.tolist() == whole.ids[-len(tail) :].tolist()
    reference = record(worse="- red " * 120)
    found = encoded([reference], views, max_tokens=150)
    assert not found.units and found.counts == {"reference and response too long": 1}
    assert encoded([reference], pair, max_tokens=150).counts == {"response too long": 1}
