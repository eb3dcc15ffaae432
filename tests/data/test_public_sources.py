"""Public data sets: their schemas read, their counts met, their bad rows told apart."""

import copy
import gzip
import itertools
import json

import pytest

from lfjax.data.records import Message, Record, RecordError
from lfjax.data.sources import SOURCES, load
from lfjax.data.views import best_and_worst
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
    completion,
    judged_answer,
)

DIALOGUE = tuple(Message(**m) for m in TURNS)


def read(tmp_path, source, *rows, **options):
    """What is loaded from rows of a source."""
    return load(write_jsonl(tmp_path / "a.jsonl", list(rows)), source, options=options)


def one(tmp_path, source, row, **options):
    (record,) = read(tmp_path, source, row, **options).records
    return record


def changed(row, path, value):
    """A row with one place of it replaced, or removed where the value is KeyError."""
    row = copy.deepcopy(row)
    *steps, last = path
    inner = row
    for step in steps:
        inner = inner[step]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return row


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


# --- one by one -------------------------------------------------------------------------------


def test_shepherd(tmp_path):
    """Without it answers that people found wanting are learned as good ones."""
    record = one(tmp_path, "shepherd", SHEPHERD)
    assert not record.satisfactory and record.feedback[0].score == 1.0
    assert record.feedback[0].text == SHEPHERD["feedback"]
    assert record.id == "a.jsonl:1" and record.meta == {"id": "3", "dataset": "piqa"}
    assert len(read(tmp_path, "shepherd", SHEPHERD, SHEPHERD).records) == 2  # its ids may recur


def test_defacto(tmp_path):
    """Without it the judgment does not say where the error is, or what to do about it."""
    record = one(tmp_path, "defacto", DEFACTO, request="Sum up.")
    assert record.id == "17"
    assert record.prompt[0].content == f"{DEFACTO['article']}\n\nSum up."
    (said,) = record.feedback
    assert said.text.split("\n") == [
        "It names the wrong town.",
        "Evidence: The bridge in Ulm",
        "Instruction: Replace Bonn with Ulm.",
    ]
    assert (said.weaknesses, said.suggestions) == (
        "It names the wrong town.",
        "Replace Bonn with Ulm.",
    )
    assert record.refinement == "The bridge in Ulm opened in May."
    same = changed(DEFACTO, ("feedback", "summary"), DEFACTO["candidate"])
    assert one(tmp_path, "defacto", same).refinement is None
    good = one(tmp_path, "defacto", changed(DEFACTO, ("has_error",), False))
    assert good.satisfactory and good.refinement is None
    assert "Instruction" not in good.feedback[0].text


def test_critiques(tmp_path):
    """Without it another answer than the authors' is judged, or a skipped one is learned from."""
    record = one(tmp_path, "critiques", CRITIQUES)
    assert record.prompt[0].content == "A passage about rain.\nWhat happened?"
    assert record.response == "It rained." and record.refinement == "It rained all day."
    assert record.feedback[0].text == "Too short." and not record.satisfactory
    assert record.id == "a.jsonl:1/0"
    assert one(tmp_path, "critiques", CRITIQUES, rank="min").response == "Nothing."
    assert one(tmp_path, "critiques", {"data": CRITIQUES}) == record

    def with_answer(*answers):
        question = {"question": "q", "answers": list(answers), "rankings": [*range(len(answers))]}
        return {**CRITIQUES, "questions": [question, *CRITIQUES["questions"]]}

    several = judged_answer(critiques=[("One.", "First."), ("Two.", "Second.")])
    first, second = read(tmp_path, "critiques", with_answer(several)).records
    assert (first.feedback[0].text, first.refinement) == ("One. Two.", "Second.")
    assert second.id == "a.jsonl:1/1"
    first, _ = read(
        tmp_path, "critiques", with_answer(judged_answer(critiques=(), rating=7))
    ).records
    assert first.satisfactory and first.refinement is None
    for answer, reason in (
        (judged_answer(""), "empty answer"),
        (judged_answer(skip=True), "feedback skipped"),
        (judged_answer(critiques=()), "rated below 7 without a critique"),
        (judged_answer(critiques=[("One.", "")]), "critique without a refinement"),
    ):
        loaded = read(tmp_path, "critiques", with_answer(answer))
        assert loaded.dropped == {reason: 1} and len(loaded.records) == 1
    loaded = read(tmp_path, "critiques", with_answer())
    assert loaded.dropped == {"question without an answer": 1}


def test_critiques_as_published(tmp_path):
    """Without it the set, which is published gzipped, has to be unpacked first."""
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(CRITIQUES).encode()))
    assert len(load(str(path), "critiques").records) == 1


def test_helpsteer(tmp_path):
    """Without it the model is shown marks of the data set as a user's words."""
    record = one(tmp_path, "helpsteer", HELPSTEER)
    assert record.prompt == DIALOGUE
    assert record.feedback[0].score == 3.0 and record.feedback[0].scale == (0.0, 4.0)
    assert not record.satisfactory and record.meta["correctness"] == 4
    assert one(tmp_path, "helpsteer", HELPSTEER, satisfactory_score=3).satisfactory


def test_helpsteer3(tmp_path):
    """Without it praise is taken for criticism, or an edit for the response."""
    good, bad, edited = read(tmp_path, "helpsteer3", HELPSTEER3, HELPSTEER3_EDIT).records
    assert good.satisfactory and good.feedback[0].score == 4.0
    assert [(f.polarity, f.score) for f in bad.feedback] == [("negative", 0.0), ("mixed", None)]
    assert (good.id, bad.id, edited.id) == ("a.jsonl:1/1", "a.jsonl:1/2", "a.jsonl:2")
    assert good.prompt == bad.prompt == edited.prompt == DIALOGUE
    assert (edited.response, edited.refinement) == ("Seven.", "Blue.")
    assert edited.feedback[0].score == 1.0
    mostly = changed(HELPSTEER3, ("feedback1",), ["The response is mostly helpful."])
    assert not read(tmp_path, "helpsteer3", mostly).records[0].satisfactory


def test_hh(tmp_path):
    """Without it the preferred answer is the other one, or the dialogue is one long text."""
    record = one(tmp_path, "hh", HH)
    assert record.prompt == DIALOGUE and record.response is None and record.feedback == ()
    assert [(c.text, c.preferred) for c in record.candidates] == [("Blue.", True), ("No.", False)]
    assert one(tmp_path, "hh", HH, response="chosen").response == "Blue."
    assert one(tmp_path, "hh", HH, response="rejected").response == "No."
    other = {**HH, "rejected": HH["rejected"].replace("Hello!", "What?")}
    loaded = read(tmp_path, "hh", HH, other, {**HH, "rejected": HH["chosen"] + " "})
    assert loaded.dropped == {
        "dialogues differ before the last turn": 1,
        "chosen equals rejected": 1,
    }


def test_summarize_from_feedback(tmp_path):
    """Without it the worse summary is preferred, or the post is not what is summarized."""
    record = one(tmp_path, "summarize_from_feedback", SUMMARIZE, request="TL;DR?")
    assert record.prompt[0].content == "Forum: r/help\nTitle: Key\n\nI lost my key.\n\nTL;DR?"
    assert [(c.text, c.model, c.preferred) for c in record.candidates] == [
        ("I lost my key.", "ref", True),
        ("Somebody lost something.", "sup1", False),
    ]
    assert record.meta == {"post_id": "t3_x", "worker": "w1", "confidence": 7}
    other = {**SUMMARIZE, "choice": 0, "info": {"post": None, "article": "News.", "title": None}}
    record = one(tmp_path, "summarize_from_feedback", other, request="TL;DR?")
    assert record.prompt[0].content == "News.\n\nTL;DR?"
    assert record.candidates[0].model == "sup1"
    same = changed(SUMMARIZE, ("summaries", 1, "text"), "Somebody lost something.")
    loaded = read(tmp_path, "summarize_from_feedback", SUMMARIZE, same)
    assert loaded.dropped == {"chosen equals rejected": 1}


def test_ultrafeedback(tmp_path):
    """Without it scores of two scales are mixed, or completions lose their critiques."""
    record = one(tmp_path, "ultrafeedback", ULTRAFEEDBACK)
    assert [(c.text, c.model, c.score) for c in record.candidates] == [
        ("Blue.", "m", 8.0),
        ("Seven.", "n", 2.0),
    ]
    assert record.response is None and record.meta == {"source": "sharegpt"}
    record = one(tmp_path, "ultrafeedback", ULTRAFEEDBACK, score="ratings")
    assert [c.score for c in record.candidates] == [4.0, 1.5]
    good, bad = read(tmp_path, "ultrafeedback", ULTRAFEEDBACK, records="completion").records
    assert good.satisfactory and not bad.satisfactory
    assert bad.feedback[0].text == "On Seven." and bad.feedback[0].polarity == "mixed"
    assert (good.id, bad.id, bad.model) == ("a.jsonl:1/0", "a.jsonl:1/1", "n")


def test_all_pairs_of_ultrafeedback(tmp_path):
    """Without it DPO learns from one pair of the six that the baseline of the paper has, or from
    pairs that say nothing."""
    texts_and_scores = [("A", 7.0), ("B", 9.0), ("C", 7.0), ("B ", 3.0)]
    row = ULTRAFEEDBACK | {"completions": [completion(t, t, s) for t, s in texts_and_scores]}
    loaded = read(tmp_path, "ultrafeedback", row, ULTRAFEEDBACK, pairs="all")
    pairs = {
        r.id: tuple((c.text, c.score, c.preferred) for c in r.candidates) for r in loaded.records
    }
    a, b, c, d = (lambda p, t=t, s=s: (t, s, p) for t, s in texts_and_scores)
    assert pairs == {
        "a.jsonl:1/1-0": (b(True), a(False)),
        "a.jsonl:1/0-3": (a(True), d(False)),
        "a.jsonl:1/1-2": (b(True), c(False)),
        "a.jsonl:1/2-3": (c(True), d(False)),
        "a.jsonl:2/0-1": (("Blue.", 8.0, True), ("Seven.", 2.0, False)),
    }
    assert loaded.dropped == {"pair of equal scores": 1, "chosen equals rejected": 1}
    for record in loaded.records:
        assert best_and_worst(record) == tuple(c.text for c in record.candidates)
        assert record.meta == {"source": "sharegpt"}


def test_all_pairs_of_records(tmp_path):
    """Without it what a judge scored is compared by its best and worst alone; a pair that is one
    already is taken apart; or a record without candidates is lost."""
    prompt = {"source": "x", "prompt": [{"role": "user", "content": "Hi"}]}
    scored = [{"text": t, "score": s} for t, s in (("a", 1), ("b", 3), ("c", 2))]
    marked = [{**scored[0], "preferred": True}, {**scored[1], "preferred": False}]
    rows = [
        {"id": "scored", **prompt, "candidates": scored},
        {"id": "marked", **prompt, "candidates": marked},
        {"id": "one", **prompt, "candidates": scored[:1]},
        {"id": "none", **prompt, "response": "a", "refinement": "b"},
    ]
    every = read(tmp_path, "records", *rows, pairs="all").records
    rest = ["marked", "one", "none"]
    assert [r.id for r in every] == ["scored/1-0", "scored/2-0", "scored/1-2", *rest]
    assert [best_and_worst(r) for r in every[:4]] == [
        ("b", "a"),
        ("c", "a"),
        ("b", "c"),
        ("a", "b"),
    ]
    plain = read(tmp_path, "records", *rows).records
    assert [r.id for r in plain] == ["scored", *rest] and plain[1:] == every[3:]


def test_ultrafeedback_without_texts(tmp_path):
    """Without it an empty completion is preferred to, or a prompt without any is learned from."""
    hollow = changed(ULTRAFEEDBACK, ("completions", 0), completion(response=" "))
    bare = {**ULTRAFEEDBACK, "completions": []}
    loaded = read(tmp_path, "ultrafeedback", hollow, bare)
    assert loaded.dropped == {"no completion": 1}
    assert [c.text for c in loaded.records[0].candidates] == ["Seven."]
    loaded = read(tmp_path, "ultrafeedback", hollow, records="completion")
    assert loaded.dropped == {"empty completion": 1} and len(loaded.records) == 1


def test_messages(tmp_path):
    """Without it the last answer is part of its own prompt, or roles of other files are refused."""
    record = one(tmp_path, "messages", MESSAGES)
    assert record.id == "lima_0" and record.meta == {"dataset": "lima"}
    assert record.prompt == (Message("system", "Be brief."), *DIALOGUE)
    assert record.response == "Blue." and record.feedback == ()
    spoken = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    record = one(tmp_path, "messages", {"conversations": spoken}, messages="conversations")
    assert record.prompt == (Message("user", "Hi"),) and record.response == "Hello!"
    short = {"messages": MESSAGES["messages"][:3]}
    loaded = read(tmp_path, "messages", MESSAGES, short, single_turn=True)
    assert loaded.dropped == {"several turns": 1} and len(loaded.records) == 1


ANSWER = {"role": "assistant", "content": "Blue."}
OTHER = {"role": "assistant", "content": "Seven."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": TURNS, "chosen": "Blue.", "rejected": "Seven."},
        {"messages": TURNS, "chosen": ANSWER, "rejected": OTHER},
        {"prompt": TURNS, "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": "unread", "chosen": [*TURNS, ANSWER], "rejected": [*TURNS, OTHER]},
    ],
)
def test_forms_of_preferences(tmp_path, row):
    """Without it a usual form of pairs has to be converted by hand."""
    record = one(tmp_path, "preference", row, response="rejected")
    assert record.prompt == DIALOGUE and record.response == "Seven."
    assert [c.text for c in record.candidates] == ["Blue.", "Seven."]


def test_preference_columns_and_pairs_that_say_nothing(tmp_path):
    """Without it a pair of equal texts teaches noise, or a system prompt is lost."""
    row = {"q": "Hi", "good": "a", "bad": "b", "system": "Be brief."}
    names = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    record = one(tmp_path, "preference", row, **names)
    assert [m.role for m in record.prompt] == ["system", "user"]
    loaded = read(tmp_path, "preference", row, {**row, "bad": "a\n"}, **names)
    assert loaded.dropped == {"chosen equals rejected": 1}
    other = [{"role": "user", "content": "Ho"}, OTHER]
    with pytest.raises(RecordError, match="'chosen' and 'rejected' differ before their last"):
        read(tmp_path, "preference", {"chosen": [*TURNS, ANSWER], "rejected": other})


def test_offline_files_of_cut(tmp_path):
    """Without it the improved answers of the authors' converted sets are lost."""
    row = {
        "output": "3",
        "input": None,
        "instruction": "Add.",
        "reason": None,
        "judgment": "Wrong.",
        "i_ans": "4",
        "score": 1,
    }
    first, second = read(tmp_path, "cut", row, {**row, "i_ans": ""}).records
    assert (first.refinement, second.refinement) == ("4", None)
    assert first.id == "a.jsonl:1" and not first.satisfactory
