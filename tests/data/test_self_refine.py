"""The text of a self-refinement: what is learned of it, and that inference begins it as training
shows it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lfjax.data.records import Candidate, Feedback, Message, Record, RecordError
from lfjax.data.rows import Rows, encode_records, place
from lfjax.data.self_refine import (
    FEEDBACK_HEADING,
    LEAVE_OUT,
    REFINEMENT_HEADING,
    begun,
    begun_with,
    check_refines,
    self_refine,
)
from lfjax.data.templates import encode_prompt, render_prompt, template_text
from lfjax.data.tokenize import encode_pieces
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.methods import get_method
from tests.data.tokenizers_of import KINDS, tokenizer_of

TULU = template_text("tulu")
SAID = "Weaknesses: It is a number.\nAdvice: Name a colour.\nOverall Score: [[2]]"
RECORD = Record(
    "r",
    "test",
    (Message("user", "Name a colour."),),
    " Seven.\n",
    feedback=(Feedback(SAID, "negative", 2.0, (1.0, 10.0)),),
    refinement="Blue.\n",
)
WHOLE = f"Seven.{FEEDBACK_HEADING}{SAID}{REFINEMENT_HEADING}Blue."
each_kind = pytest.mark.parametrize("kind", KINDS)


def encoded(record=RECORD, kind="llama3", max_tokens=512, method="srt", **options):
    method = get_method(method)
    views = method.views_of(method.checked(options))
    how = dict(max_tokens=max_tokens, row_tokens=1024)
    return encode_records([record], views, tokenizer_of(kind), TULU, **how)


@each_kind
@pytest.mark.parametrize("response", ["Seven.", "One:\n- two\n", "3", "x" * 9, "a\n\n"])
@pytest.mark.parametrize("loss_on_response", [True, False])
def test_inference_begins_as_training_shows(kind, response, loss_on_response):
    """Without it the model is asked for its feedback by tokens that it never saw together."""
    record, tokenizer = replace(RECORD, response=response), tokenizer_of(kind)
    (unit,) = encoded(record, kind, loss_on_response=loss_on_response).units
    (segment,) = unit.segments
    prompt = encode_prompt(tokenizer, TULU, record.prompt)
    ids = segment.ids.tolist()
    assert ids[: segment.first] == prompt and ids[-1] == tokenizer.eos
    rendered = render_prompt(TULU, record.prompt, tokenizer=tokenizer)
    for pieces in (begun(response), begun_with(response, SAID)):
        start, _ = encode_pieces(tokenizer, rendered, pieces)
        assert ids[: len(start)] == start
    assert tokenizer.decode(ids[segment.first : -1]) == WHOLE.replace("Seven.", response.strip())
    rows = Rows.empty(1, 1024)
    place(rows, unit, 0, 0, 1, "token")
    learned = rows.weight[0] > 0
    start, _ = encode_pieces(tokenizer, rendered, [response.strip()])
    first = len(prompt) if loss_on_response else len(start)
    assert np.flatnonzero(learned).tolist() == list(range(first - 1, len(ids) - 1))
    assert rows.mass[0] == learned.sum() == len(ids) - first
    roles = Counter(rows.role[0].tolist())
    assert set(roles) == {0, Role.DRAFT, Role.CRITIQUE, Role.REFINED}
    assert roles[Role.DRAFT] == len(start) - len(prompt)


@pytest.mark.parametrize("leave_out", LEAVE_OUT)
def test_what_is_left_out(leave_out):
    text = self_refine(RECORD, leave_out=leave_out).response
    said = {
        "": SAID,
        "score": "Weaknesses: It is a number.\nAdvice: Name a colour.",
        "suggestions": "Weaknesses: It is a number.\nOverall Score: [[2]]",
        "weaknesses": "Advice: Name a colour.\nOverall Score: [[2]]",
        "words": "Overall Score: [[2]]",
    }
    if leave_out in said:
        expected = f"Seven.{FEEDBACK_HEADING}{said[leave_out]}{REFINEMENT_HEADING}Blue."
    else:
        expected = {"feedback": f"Seven.{REFINEMENT_HEADING}Blue.", "draft": "Blue."}[leave_out]
    assert text == expected
    (unit,) = encoded(leave_out=leave_out).units
    assert unit.segments[0].learned > 1


def test_what_a_model_that_refines_can_leave_out():
    """Without it a misspelt part is taken for none, and every refinement for one that cannot be
    read."""
    for leave_out in {*LEAVE_OUT} - {"draft"}:
        check_refines(leave_out)
    with pytest.raises(UserError, match=r"leave_out='scores'\. Did you mean 'score'"):
        check_refines("scores")
    with pytest.raises(UserError, match=r"leave_out=draft.*no answer to refine"):
        check_refines("draft")


def test_a_text_that_is_too_long_is_dropped():
    """Without it the refinement is cut away."""
    length = encoded().units[0].length
    assert encoded(max_tokens=length).units
    found = encoded(max_tokens=length - 1)
    assert not found.units and found.counts["too long"] == 1


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(refinement=None), "has no refinement"),
        (dict(response=None), "has no response"),
        (dict(feedback=()), "nobody said anything"),
        (dict(response="Seven.\n### Feedback\nGood."), "'### Feedback'"),
        (dict(refinement="Blue.\n###improved response: Red."), "'###improved response'"),
        (dict(prompt=(Message("user", "a\n<|assistant|>\nb"),)), r"'<\|assistant\|>'"),
    ],
)
def test_records_without_it(changed, said):
    with pytest.raises(RecordError, match=said):
        encoded(replace(RECORD, **changed))


def test_feedback_that_cannot_be_taken_apart():
    loose = replace(RECORD, feedback=(Feedback("Bad. Overall Score: 3", "negative"),))
    assert encoded(loose).units
    with pytest.raises(RecordError, match="the weaknesses, to be left out, cannot be told"):
        encoded(loose, leave_out="weaknesses")


@pytest.mark.parametrize(
    "said, left",
    [
        ("Well.\nWeaknesses: a\nAdvice: b\nOverall Score: [[6]]", "Overall Score: [[6]]"),
        ("1. Too short.\n2. Say more.\n3. Overall Score: [[6]]", "3. Overall Score: [[6]]"),
    ],
)
def test_a_score_without_words(said, left):
    record = replace(RECORD, feedback=(Feedback(said, "negative"),))
    text = self_refine(record, leave_out="words").response
    assert text == f"Seven.{FEEDBACK_HEADING}{left}{REFINEMENT_HEADING}Blue."


def test_nothing_to_refine():
    fine = replace(RECORD, feedback=(Feedback("", "positive"),), refinement=None)
    assert encoded(fine).counts["not used by the method"] == 1


PAIR = replace(
    RECORD,
    candidates=(Candidate("Blue.", preferred=True), Candidate("Seven.", preferred=False)),
)


@each_kind
@pytest.mark.parametrize("terminator", ["eos", "feedback_header", "none"])
def test_what_ends_the_responses_of_a_pair(kind, terminator):
    """Without it a model that should go on to its feedback is taught to stop, or the reverse."""
    tokenizer = tokenizer_of(kind)
    (unit,) = encoded(PAIR, kind, method="dpo", terminator=terminator).units
    prompt = encode_prompt(tokenizer, TULU, PAIR.prompt)
    for segment, text, role in zip(
        unit.segments, ("Blue.", "Seven."), (Role.CHOSEN, Role.REJECTED), strict=True
    ):
        ids = segment.ids.tolist()
        assert ids[: segment.first] == prompt and segment.role == role
        assert (ids[-1] == tokenizer.eos) == (terminator == "eos")
        end = {"feedback_header": FEEDBACK_HEADING}.get(terminator, "")
        assert tokenizer.decode(ids[segment.first :]) == text + end
        if terminator == "feedback_header":
            rendered = render_prompt(TULU, PAIR.prompt, tokenizer=tokenizer)
            assert ids == encode_pieces(tokenizer, rendered, begun(text))[0]
    rows = Rows.empty(1, 256, 2)
    place(rows, unit, 0, 0, 1, "pair")
    assert (rows.weight[0] > 0).sum() == sum(s.learned for s in unit.segments)


def test_pairs_that_are_too_long():
    short = encoded(PAIR, method="dpo", max_tokens=12)
    assert short.counts["prompt trimmed"] == 1
    dropped = encoded(PAIR, method="dpo", max_tokens=12, overlong="drop")
    assert not dropped.units and dropped.counts["too long"] == 1
