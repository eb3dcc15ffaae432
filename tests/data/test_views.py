"""Views: what is shown, what is learned, and what a record must hold for it."""

from dataclasses import replace

import numpy as np
import pytest

from lfjax.data.records import Candidate, Feedback, Message, Record, RecordError
from lfjax.data.rows import encode_records
from lfjax.data.templates import encode_prompt, template_text
from lfjax.data.views import (
    CRITIQUE_REQUEST,
    Role,
    best_and_worst,
    critique,
    gap,
    improve,
    pair,
    refine,
    refine_request,
)
from tests.data.tokenizers_of import KINDS, tokenizer_of

PROMPT = (Message("system", "Be brief."), Message("user", "Name a colour."))
RECORD = Record(
    "r",
    "test",
    PROMPT,
    "Seven.",
    feedback=(
        Feedback(" It is brief. ", "positive"),
        Feedback("A number, {judgment}.", "negative"),
        Feedback("", "negative", score=1.0),
    ),
    refinement="Blue.",
)
ASSISTANT = Message("assistant", "Seven.")


def test_critique():
    """Without it a critic learns to answer, or never hears praise."""
    view = critique(RECORD)
    assert view.prompt == (*PROMPT, ASSISTANT, Message("user", CRITIQUE_REQUEST))
    assert view.response == "It is brief.\nA number, {judgment}."
    assert (view.role, view.judgment, view.weight, view.twin) == (Role.CRITIQUE, None, 1.0, None)


def test_refine():
    """Without it a refinement is learned that does not follow from what was said."""
    view = refine(RECORD, weight=0.5)
    said = "A number, {judgment}."  # faults only; braces are a text's own
    assert view.prompt == (*PROMPT, ASSISTANT, Message("user", refine_request(said)))
    assert said in view.prompt[-1].content and "brief" not in view.prompt[-1].content
    assert (view.role, view.response, view.weight) == (Role.REFINED, "Blue.", 0.5)


def candidates(*given):
    """A record with candidates of (text, score, preferred)."""
    found = tuple(Candidate(text, score=s, preferred=p) for text, s, p in given)
    return replace(RECORD, candidates=found)


@pytest.mark.parametrize(
    "record, expected",
    [
        (RECORD, ("Blue.", "Seven.")),
        (candidates(("a", None, False), ("b", None, True)), ("b", "a")),
        (candidates(("a", 9.0, False), ("b", 1.0, True)), ("b", "a")),  # marks before scores
        (candidates(("a", 2.0, None), ("b", 5.0, None), ("c", 1.0, None)), ("b", "c")),
        (candidates(("a", 2.0, None), ("b", None, None), ("c", 1.0, None)), ("a", "c")),
        (candidates(("a", 0.0, None), ("b", -1.0, None)), ("a", "b")),
        (candidates(("a", 2.0, None), ("b", 2.0, None)), ()),
        (candidates(("a", 2.0, None)), ("Blue.", "Seven.")),  # one score compares nothing
        (candidates(("a", None, True), ("a ", None, False)), ()),
        (replace(RECORD, refinement="Seven.\n"), ()),
    ],
)
def test_pair(record, expected):
    """Without it the worse response is preferred, or a tie teaches noise."""
    assert best_and_worst(record) == expected
    views = pair(record)
    assert [v.response for v in views] == list(expected)
    assert [v.role for v in views] == [Role.CHOSEN, Role.REJECTED][: len(expected)]
    assert all(v.prompt == PROMPT and v.judgment is None and v.twin is None for v in views)


@pytest.mark.parametrize(
    "view, changes, said",
    [
        (critique, {"response": None}, "has no response"),
        (critique, {"feedback": ()}, "nobody said anything"),
        (critique, {"feedback": (Feedback(" ", "positive"),)}, "nobody said anything"),
        (refine, {"response": None}, "has no response"),
        (refine, {"refinement": None}, "has no refinement"),
        (refine, {"feedback": (Feedback("Fine.", "positive"),)}, "has no judgment text"),
        (pair, {"refinement": None}, "holds no preference"),
        (pair, {"response": None}, "holds no preference"),
    ],
)
def test_record_that_lacks_what_a_view_needs(view, changes, said):
    """Without it a record is shown with a hole in it, or fails where nobody can tell which one."""
    with pytest.raises(RecordError, match=rf"record 'r' of test: {said}"):
        view(replace(RECORD, **changes))


@pytest.mark.parametrize("view", [improve, gap])
@pytest.mark.parametrize("better, worse", [("Blue.", ""), ("Blue.", " \n"), ("", "Seven.")])
def test_nothing_is_no_response(view, better, worse):
    """Without it an improver learns to write a better answer than none, and a gap reward that any
    text is better."""
    record = candidates((better, None, True), (worse, None, False))
    with pytest.raises(RecordError, match="test: one of the two responses"):
        view(record)
    how = dict(max_tokens=600, row_tokens=4000, on_error="skip")
    found = encode_records([record], view, tokenizer_of("gpt2"), template_text("alpaca"), **how)
    assert not found.units and found.left_out == {0: "malformed"} and len(found.skipped) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["alpaca", "tulu"])
def test_views_in_tokens(kind, template):
    """Without it a request, or the response that it is about, is learned as well."""
    tokenizer, text = tokenizer_of(kind), template_text(template)

    def views(record):
        return [critique(record), refine(record), *pair(record)]

    (unit,) = encode_records(
        [RECORD], views, tokenizer, text, max_tokens=1000, row_tokens=4000
    ).units
    for view, segment in zip(views(RECORD), unit.segments):
        assert segment.ids[: segment.first].tolist() == encode_prompt(tokenizer, text, view.prompt)
        assert tokenizer.decode(segment.ids[segment.first :]).strip() == view.response
        assert segment.ids[-1] == tokenizer.eos
        assert np.count_nonzero(segment.ids[segment.first :] == tokenizer.eos) == 1
    assert [s.role for s in unit.segments] == [5, 6, 7, 8]
