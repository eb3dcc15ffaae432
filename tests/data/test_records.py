"""Records: what is accepted, what is refused and how the refusal reads."""

import json

import pytest

from lfjax.data.records import Feedback, Message, Record, RecordError
from tests.data.public_rows import changed

FULL = {
    "id": "r1",
    "source": "mine",
    "prompt": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a colour.\u2028"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another?"},
    ],
    "response": 'Grün, "green" 🌱\n',
    "model": "m",
    "feedback": [
        {
            "text": "Half German.",
            "polarity": "mixed",
            "score": 6.5,
            "scale": [1.0, 10.0],
            "weaknesses": "language",
            "suggestions": "English only",
            "spans": [[0, 4], [6, 13]],
            "author": "judge",
        },
        {"text": "Fine.", "polarity": "positive"},
    ],
    "refinement": "Green.",
    "candidates": [
        {"text": "Red.", "model": "n", "score": 3.0, "preferred": False},
        {"text": "Green."},
    ],
    "meta": {"nested": {"list": [1, None, "x"]}},
}
SMALL = {"id": "a", "source": "s", "prompt": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize("obj", [FULL, SMALL], ids=["full", "small"])
def test_json_round_trip(obj):
    """Without it a saved record comes back as another one, or with fields that nobody wrote."""
    record = Record.from_json(json.loads(json.dumps(obj)))
    assert record.to_json() == obj
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_null_and_empty_fields_are_absent_ones():
    """Without it a null column of another program's file is refused, or is written back."""
    nulls = dict.fromkeys(("response", "model", "refinement", "feedback", "candidates", "meta"))
    assert Record.from_json({**SMALL, **nulls}).to_json() == SMALL
    fed = {"text": "t", "polarity": "negative"}
    empty = {**fed, "spans": [], "scale": None, "score": None}
    assert Record.from_json({**SMALL, "feedback": [empty]}).feedback == (Feedback(**fed),)


def test_whole_numbers_are_numbers():
    """Without it a score of 8 is an int where the rest of the program was promised a float."""
    obj = changed(FULL, ("feedback", 0, "score"), 8)
    obj["feedback"][0]["scale"] = [1, 10]
    feedback = Record.from_json(obj).feedback[0]
    assert (feedback.score, feedback.scale) == (8.0, (1.0, 10.0))
    assert all(type(x) is float for x in (feedback.score, *feedback.scale))


@pytest.mark.parametrize(
    "path, value, said",
    [
        (("id",), KeyError, "field 'id' is missing"),
        (("id",), None, "field 'id' is missing"),
        (("id",), "", "field 'id' is empty"),
        (("id",), 3, "field 'id' is int, expected str"),
        (("source",), KeyError, "field 'source' is missing"),
        (("source",), ["s"], "field 'source' is list, expected str"),
        (("prompt",), KeyError, "'prompt' must be a list of messages that ends with a user's"),
        (("prompt",), [], "'prompt' must be a list of messages that ends with a user's"),
        (("prompt",), FULL["prompt"][:3], "ends with a user's"),
        (("prompt",), "Hello", "field 'prompt' is str, expected list"),
        (("prompt",), {}, "field 'prompt' is dict, expected list"),
        (("prompt", 1), "Hello", "prompt[1]: found str, expected an object"),
        (("prompt", 1, "role"), "robot", "prompt[1]: field 'role' is 'robot', expected one of"),
        (("prompt", 1, "role"), KeyError, "prompt[1]: field 'role' is missing"),
        (("prompt", 1, "content"), KeyError, "prompt[1]: field 'content' is missing"),
        (("prompt", 1, "content"), [], "prompt[1]: field 'content' is list, expected str"),
        (("prompt", 1, "rol"), "x", "prompt[1]: unknown field 'rol'. Did you mean 'role'?"),
        (("response",), " \n", "field 'response' is empty"),
        (("response",), "", "field 'response' is empty"),
        (("response",), 7, "field 'response' is int, expected str"),
        (("model",), True, "field 'model' is bool, expected str"),
        (("refinement",), [], "field 'refinement' is list, expected str"),
        (("feedback",), "good", "field 'feedback' is str, expected list"),
        (("feedback", 1), None, "feedback[1]: found NoneType, expected an object"),
        (("feedback", 0, "text"), KeyError, "feedback[0]: field 'text' is missing"),
        (("feedback", 0, "text"), 1, "feedback[0]: field 'text' is int"),
        (("feedback", 0, "polarity"), KeyError, "feedback[0]: field 'polarity' is missing"),
        (("feedback", 0, "polarity"), "bad", "expected one of positive, negative, mixed"),
        (("feedback", 0, "score"), "8", "feedback[0]: field 'score' is str"),
        (("feedback", 0, "score"), True, "feedback[0]: field 'score' is bool"),
        (("feedback", 0, "score"), float("nan"), "'score' is nan, expected a finite number"),
        (("feedback", 0, "scale"), [1], "feedback[0]: field 'scale' is [1]"),
        (("feedback", 0, "scale"), 0, "feedback[0]: field 'scale' is 0"),
        (("feedback", 0, "scale"), "", "feedback[0]: field 'scale' is ''"),
        (("feedback", 0, "spans"), [[1]], "feedback[0]: field 'spans' is [1]"),
        (("feedback", 0, "spans"), [[0, True]], "feedback[0]: field 'spans' is [0, True]"),
        (("feedback", 0, "spans"), [[0, 1.5]], "feedback[0]: field 'spans' is [0, 1.5]"),
        (("feedback", 0, "spans"), 0, "feedback[0]: field 'spans' is int"),
        (("feedback", 0, "spans"), "", "feedback[0]: field 'spans' is str"),
        (("feedback", 0, "weaknesses"), 1, "feedback[0]: field 'weaknesses' is int"),
        (("feedback", 0, "suggestions"), 1, "feedback[0]: field 'suggestions' is int"),
        (("feedback", 0, "author"), 1, "feedback[0]: field 'author' is int"),
        (("feedback", 0, "polarty"), "x", "'polarty'. Did you mean 'polarity'?"),
        (("candidates",), "Red", "field 'candidates' is str, expected list"),
        (("candidates", 0, "text"), KeyError, "candidates[0]: field 'text' is missing"),
        (("candidates", 0, "model"), 1, "candidates[0]: field 'model' is int"),
        (("candidates", 0, "score"), "3", "candidates[0]: field 'score' is str"),
        (("candidates", 0, "preferred"), 1, "candidates[0]: field 'preferred' is int"),
        (("candidates", 0, "prefered"), True, "Did you mean 'preferred'?"),
        (("meta",), [], "field 'meta' is list, expected dict"),
        (("respons",), "x", "unknown field 'respons'. Did you mean 'response'? Known: candidates"),
        (("zzz",), "x", "unknown field 'zzz'. Known: candidates"),
    ],
)
def test_malformed_field_is_named_with_its_place(path, value, said):
    """Without it a bad file is learned from, or fails later where nobody can tell which line."""
    with pytest.raises(RecordError) as error:
        Record.from_json(changed(FULL, path, value), "f.jsonl:7")
    assert str(error.value).startswith("f.jsonl:7: ")
    assert said in str(error.value)


@pytest.mark.parametrize("obj", [[], "x", None, 3])
def test_record_that_is_no_object(obj):
    """Without it a line that holds a list ends in a traceback."""
    with pytest.raises(RecordError, match=r"f:1: found \w+, expected an object"):
        Record.from_json(obj, "f:1")


@pytest.mark.parametrize(
    "polarities, satisfactory",
    [
        ((), False),
        (("positive",), True),
        (("positive", "positive"), True),
        (("positive", "mixed"), False),
        (("negative",), False),
        (("mixed",), False),
    ],
)
def test_satisfactory_needs_a_judgment(polarities, satisfactory):
    """Without it responses that nobody judged are learned as good ones."""
    feedback = tuple(Feedback("t", p) for p in polarities)
    record = Record("a", "s", (Message("user", "x"),), "y", feedback=feedback)
    assert record.satisfactory is satisfactory
