"""Public data sets one by one: what becomes of the fields of each."""

import gzip
import json

import pytest

from lfjax.data.records import Message, RecordError
from lfjax.data.sources import load
from lfjax.data.views import best_and_worst
from tests.data.public_rows import (
    CRITIQUES,
    DEFACTO,
    HELPSTEER,
    HELPSTEER3,
    HELPSTEER3_EDIT,
    HH,
    MESSAGES,
    SHEPHERD,
    SUMMARIZE,
    TURNS,
    ULTRAFEEDBACK,
    changed,
    completion,
    judged_answer,
    one,
    read,
)

DIALOGUE = tuple(Message(**m) for m in TURNS)


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
