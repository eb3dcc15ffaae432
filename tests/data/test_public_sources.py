"""Public data sets: their schemas read, their counts met, their bad rows told apart."""

import itertools
import json

import pytest

from lfjax.data.records import Record, RecordError
from lfjax.data.sources import SOURCES, load
from lfjax.errors import UserError
from tests.conftest import shared, write_jsonl
from tests.data.public_rows import (
    CRITIQUES,
    DEFACTO,
    HELPSTEER,
    HELPSTEER3,
    HELPSTEER3_EDIT,
    HH,
    MESSAGES,
    PREFERENCE,
    ROWS,
    SHAREGPT,
    SHEPHERD,
    SUMMARIZE,
    TURNS,
    ULTRAFEEDBACK,
    changed,
    read,
)

# --- real files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "split, records, flawed, refined",
    [("train", 1000, 701, 696), ("val", 486, 341, 337), ("test", 1075, 779, 773)],
)
def test_defacto_counts(split, records, flawed, refined):
    """Without it summaries without error are unlearned, or flawed ones imitated."""
    path = str(shared(f"data/defacto/{split}.jsonl"))
    loaded = load(path, "defacto")
    assert len(loaded.records) == records and not loaded.dropped and not loaded.skipped
    assert sum(not r.satisfactory for r in loaded.records) == flawed
    assert sum(r.refinement is not None for r in loaded.records) == refined
    for record in loaded.records:
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_preference_demo_counts():
    """Without it a file of LLaMA-Factory's is refused, or its turns are mixed up."""
    loaded = load(str(shared("data/preferences/dpo_en_demo.json")), "preference")
    assert len(loaded.records) == 300 and not loaded.dropped
    assert sum(r.prompt[0].role == "system" for r in loaded.records) == 80
    assert sum(len(r.prompt) == 1 for r in loaded.records) == 114
    for record in loaded.records:
        assert [c.preferred for c in record.candidates] == [True, False]
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


# --- every source -----------------------------------------------------------------------------


def test_every_public_source_has_rows_here():
    """Without it a source is added and none of the tests below reads it."""
    assert set(ROWS) == set(SOURCES) - {"records", "cut", "jsonl", "prompts"}


@pytest.mark.parametrize("source", ROWS)
def test_round_trip(tmp_path, source):
    """Without it what a stage writes of a source cannot be read by the next one."""
    records = read(tmp_path, source, *ROWS[source]).records
    assert {r.source for r in records} == {source}
    for record in records:
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
        assert record.prompt[-1].role == "user"


@pytest.mark.parametrize("source, other", itertools.permutations(ROWS, 2))
def test_file_of_another_source(tmp_path, source, other):
    """Without it a run starts on a file that was taken for another one."""
    path = write_jsonl(tmp_path / "other.jsonl", ROWS[other])
    if (source, other) == ("hh", "preference"):  # the same two fields: told apart by their form
        said = "expected a blank line and 'Human:'"
    elif (source, other) == ("preference", "hh"):
        said = "has none of the fields 'prompt', 'messages', 'conversations'"
    else:
        said = "field '"
    with pytest.raises(RecordError) as error:
        load(path, source)
    assert f"{path}:1" in str(error.value) and said in str(error.value)
    assert "on_error=skip" in str(error.value)
    with pytest.raises(UserError, match=r"malformed.*right file"):
        load(path, source, on_error="skip")


@pytest.mark.parametrize("source", ROWS)
@pytest.mark.parametrize("row", [[], "x", 3, None])
def test_row_that_is_no_object(tmp_path, source, row):
    """Without it a line that holds a list ends in a traceback."""
    with pytest.raises(RecordError, match=r"a\.jsonl:1: found \w+, expected an object"):
        read(tmp_path, source, row)


BAD = [
    ("shepherd", SHEPHERD, ("question",), "", "field 'question' is empty"),
    ("shepherd", SHEPHERD, ("answer",), " ", "field 'answer' is empty"),
    ("shepherd", SHEPHERD, ("feedback",), KeyError, "field 'feedback' is missing; the record has"),
    ("defacto", DEFACTO, ("article",), "", "field 'article' is empty"),
    ("defacto", DEFACTO, ("candidate",), None, "field 'candidate' is missing"),
    ("defacto", DEFACTO, ("has_error",), 1, "field 'has_error' is int, expected bool"),
    ("defacto", DEFACTO, ("feedback",), "bad", "field 'feedback' is str, expected an object"),
    ("defacto", DEFACTO, ("feedback", "explanation"), "", "feedback: field 'explanation' is empty"),
    ("critiques", CRITIQUES, ("passage",), "x", "field 'passage' is str, expected an object"),
    ("critiques", CRITIQUES, ("questions",), {}, "field 'questions' is dict, expected a list"),
    ("critiques", CRITIQUES, ("questions", 0, "rankings"), [1], "expected a number for each of 2"),
    ("critiques", CRITIQUES, ("questions", 0, "question"), "", "questions[0]: field 'question' is"),
    ("critiques", CRITIQUES, ("questions", 0, "answers", 1), "x", "answers[1]: found str"),
    (
        "critiques",
        CRITIQUES,
        ("questions", 0, "answers", 1, "feedback", "critiques", 0, "text"),
        "",
        "questions[0]: answers[1]: feedback: critiques[0]: field 'text' is empty",
    ),
    ("helpsteer", HELPSTEER, ("helpfulness",), 5, "field 'helpfulness' is 5, expected a mark"),
    ("helpsteer", HELPSTEER, ("coherence",), KeyError, "field 'coherence' is missing, expected a"),
    ("helpsteer", HELPSTEER, ("verbosity",), "1", "field 'verbosity' is str"),
    ("helpsteer", HELPSTEER, ("response",), "", "field 'response' is empty"),
    ("helpsteer", HELPSTEER, ("prompt",), "a<extra_id_1>User\nb", "prompt[1] is the user's where"),
    ("helpsteer", HELPSTEER, ("prompt",), "a<extra_id_1>Robot\nb", "has '<extra_id_1>Robot'"),
    ("helpsteer", HELPSTEER, ("prompt",), "a<extra_id_1>Assistant\nb", "ends with the assistant's"),
    (
        "helpsteer3",
        HELPSTEER3,
        ("context",),
        TURNS[:2],
        "field 'context' ends with the assistant's",
    ),
    ("helpsteer3", HELPSTEER3, ("context",), TURNS[1:], "context[0] is the assistant's where"),
    ("helpsteer3", HELPSTEER3, ("feedback2",), ["", "x"], "field 'feedback2' must be a list of"),
    ("helpsteer3", HELPSTEER3, ("response2",), "", "field 'response2' is empty"),
    ("helpsteer3", HELPSTEER3_EDIT, ("edited_response",), "", "field 'edited_response' is empty"),
    (
        "hh",
        HH,
        ("chosen",),
        "Human: Hi",
        "field 'chosen' begins with 'Human: Hi', expected a blank",
    ),
    ("hh", HH, ("rejected",), "", "field 'rejected' is empty"),
    ("hh", HH, ("rejected",), HH["chosen"][:-6] + " ", "field 'rejected': turn 3, Assistant's, is"),
    ("hh", HH, ("chosen",), "\n\nAssistant: Hi", "chosen[0] is the assistant's where the user's"),
    ("hh", HH, ("chosen",), "\n\nHuman: Hi\n\nHuman: Ho", "chosen[1] is the user's where the"),
    ("hh", HH, ("chosen",), "\n\nHuman: Hi", "field 'chosen' ends with the user's turn"),
    ("summarize_from_feedback", SUMMARIZE, ("choice",), 2, "'choice' 2, expected two summaries"),
    ("summarize_from_feedback", SUMMARIZE, ("choice",), True, "field 'choice' is bool"),
    (
        "summarize_from_feedback",
        SUMMARIZE,
        ("info", "post"),
        "",
        "info: fields 'post' and 'article'",
    ),
    ("summarize_from_feedback", SUMMARIZE, ("summaries",), [], "0 'summaries' and 'choice' 1"),
    (
        "summarize_from_feedback",
        SUMMARIZE,
        ("summaries", 0, "text"),
        "",
        "summaries[0]: field 'text' is empty",
    ),
    ("ultrafeedback", ULTRAFEEDBACK, ("instruction",), "", "field 'instruction' is empty"),
    (
        "ultrafeedback",
        ULTRAFEEDBACK,
        ("completions", 1, "overall_score"),
        KeyError,
        "completions[1]: field 'overall_score' is missing; the set's first version had none",
    ),
    ("ultrafeedback", ULTRAFEEDBACK, ("completions", 0, "overall_score"), "8", "is str, expected"),
    (
        "ultrafeedback",
        ULTRAFEEDBACK,
        ("completions", 0, "response"),
        KeyError,
        "completions[0]: fi",
    ),
    ("messages", MESSAGES, ("messages",), [], "field 'messages' is empty, expected a list"),
    ("messages", MESSAGES, ("messages",), TURNS, "field 'messages' ends with the user's turn"),
    ("messages", MESSAGES, ("messages", 1), "Hi", "messages[1]: found str, expected an object"),
    (
        "messages",
        MESSAGES,
        ("messages", 1, "role"),
        "robot",
        "field 'role' is 'robot', expected one",
    ),
    ("messages", MESSAGES, ("messages", 1, "role"), "assistant", "messages[1] is the assistant's"),
    ("messages", MESSAGES, ("messages", 2, "role"), "system", "messages[2] is the system's where"),
    ("messages", MESSAGES, ("messages", 4, "content"), "", "messages[4]: field 'content' is empty"),
    ("preference", PREFERENCE, ("prompt",), "", "field 'prompt' is empty"),
    (
        "preference",
        PREFERENCE,
        ("prompt",),
        KeyError,
        "has none of the fields 'prompt', 'messages'",
    ),
    (
        "preference",
        PREFERENCE,
        ("prompt",),
        3,
        "field 'prompt' is int, expected a list of messages",
    ),
    ("preference", PREFERENCE, ("chosen",), "", "field 'chosen' is empty"),
    ("preference", PREFERENCE, ("rejected",), KeyError, "field 'rejected' is missing"),
    ("preference", PREFERENCE, ("rejected",), [], "rejected: the list is empty"),
    ("preference", SHAREGPT, ("chosen", "from"), "human", "chosen: is 'human's message, expected"),
    ("preference", SHAREGPT, ("chosen", "value"), "", "chosen: field 'value' is empty"),
    ("preference", SHAREGPT, ("conversations", 0, "from"), "gpt", "conversations[0] is the assist"),
]


@pytest.mark.parametrize("source, row, path, value, said", BAD)
def test_malformed_row_is_named(tmp_path, source, row, path, value, said):
    """Without it one bad row ends in a traceback, or is learned from."""
    good = ROWS[source][0]
    bad = changed(row, path, value)
    with pytest.raises(RecordError) as error:
        read(tmp_path, source, good, bad)
    assert "a.jsonl:2: " in str(error.value) and said in str(error.value)
    loaded = load(str(tmp_path / "a.jsonl"), source, on_error="skip")
    assert loaded.skipped and said in loaded.skipped[0]
    assert all(not r.id.startswith("a.jsonl:2") for r in loaded.records)  # nothing of a bad row


@pytest.mark.parametrize(
    "source, option, said",
    [
        ("critiques", {"rank": "best"}, "rank is 'best', expected max or min"),
        ("hh", {"response": "better"}, "response is 'better', expected none or chosen or rejected"),
        ("ultrafeedback", {"records": "all"}, "records is 'all', expected prompt or completion"),
        ("ultrafeedback", {"pairs": "each"}, "pairs is 'each', expected best_worst or all"),
        ("ultrafeedback", {"records": "completion", "pairs": "all"}, "needs records='prompt'"),
        ("ultrafeedback", {"score": "mean"}, "score is 'mean', expected overall or ratings"),
    ],
)
def test_wrong_option(tmp_path, source, option, said):
    """Without it a misspelt choice is silently another one."""
    with pytest.raises(UserError) as error:
        read(tmp_path, source, *ROWS[source], **option)
    assert said in str(error.value)


def test_an_option_is_of_one_kind():
    """Without it a recipe cannot offer the options of all sources: a flag has one type."""
    kinds = {}
    for _, options in SOURCES.values():
        for name, default in options.items():
            assert kinds.setdefault(name, type(default)) is type(default), name
