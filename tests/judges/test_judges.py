"""Judges: what they ask about a record, and what becomes of the answers."""

from dataclasses import replace

import pytest

from lfjax.data.records import Feedback, Message, Record, RecordError
from lfjax.errors import UserError
from lfjax.judges import JUDGES, apply, get_judge, lesson, questions_of
from lfjax.judges.asking import Answer
from lfjax.judges.parsing import CUT_OFF

ANSWERS = {
    "cut": "It is green.",
    "judgment": "It is green. No.",
    "score": "Not quite. Score: [[4]]",
    "self": "Weaknesses: It is green.\nAdvice: Look again.\nOverall Score: [[4]]\n"
    "### Improved Response\nRed",
    "critique": "Weaknesses: It is green.\nAdvice: Look again.\nOverall Score: [[4]]\n"
    "### Improved Response\nRed",
    "self_score": "Weaknesses: It is green.\nAdvice: Look again.\nOverall Score: [[4]]\n",
    "critique_score": "Overall Score: [[4]]\n### Improved Response\n",
}


@pytest.mark.parametrize("kind", JUDGES)
def test_questions_show_what_is_judged_as_it_is(kind, record):
    """Texts are not read as template, nor escaped for HTML."""
    prompt, response = "A {{ field }} & <b>?", "{% if %} it's"
    pair = tuple(replace(c, text=c.text + response) for c in record.candidates)
    record = replace(record, prompt=(Message("user", prompt),), response=response, candidates=pair)
    questions = questions_of(record, get_judge(kind))
    assert len(questions) == (2 if kind == "preference" else 1)
    for question in questions:
        assert [m.role for m in question.messages] in (["user"], ["system", "user"])
        assert prompt in question.messages[-1].content
        assert any(response in t for t in (question.messages[-1].content, *question.begin))


def test_preferences_are_asked_in_both_orders(record):
    one, two = (q.messages[-1].content for q in questions_of(record, get_judge("preference")))
    assert one.index("Blue") < one.index("Seven") and two.index("Seven") < two.index("Blue")
    with pytest.raises(RecordError, match="has 0 candidates"):
        questions_of(replace(record, candidates=()), get_judge("preference"))


def test_conversations_are_shown_with_their_speakers(record):
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "A colour?"),
    )
    (question,) = questions_of(replace(record, prompt=turns), get_judge("cut"))
    told = "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: A colour?"
    assert told in question.messages[-1].content


def test_a_record_without_a_response(record):
    with pytest.raises(RecordError, match="'r1' of test: has no response"):
        questions_of(replace(record, response=None), get_judge("cut"))


@pytest.mark.parametrize("kind", ANSWERS)
def test_judgments_become_feedback(kind, record):
    judged, reason = apply(record, get_judge(kind), [Answer(ANSWERS[kind])], "critic")
    assert reason is None and Record.from_json(judged.to_json()) == judged
    (said,) = judged.feedback
    assert said.author == "critic" and said.polarity == "negative" and not judged.satisfactory
    assert said.score == (None if kind in ("cut", "judgment") else 4.0)
    assert judged.refinement == ("Red" if kind in ("critique", "self") else None)
    again, _ = apply(judged, get_judge(kind), [Answer(ANSWERS[kind])], "other")
    assert [f.author for f in again.feedback] == ["critic", "other"]


@pytest.mark.parametrize(
    ("texts", "preferred", "preference"),
    [
        (("[[A]]", "[[B]]"), (True, False), "first"),
        (("[[B]]", "[[A]]"), (False, True), "second"),
        (("[[A]]", "[[A]]"), (None, None), "tie"),
        (("[[A]]", "[[tie]]"), (None, None), "tie"),
    ],
)
def test_verdicts_become_preferences(record, texts, preferred, preference):
    judged, reason = apply(record, get_judge("preference"), [*map(Answer, texts)], "critic")
    assert reason is None and judged.meta == {"preference": preference}
    assert tuple(c.preferred for c in judged.candidates) == preferred


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([Answer(None, "HTTP 500")], "HTTP 500"),
        ([Answer("It is gr", finish="length")], "cut off at the limit of tokens"),
        ([Answer("")], "empty"),
    ],
)
def test_a_failed_judgment_is_missing_never_bad(record, answers, reason):
    """The raw text is kept, and a judgment that comes later takes its place."""
    judge = get_judge("cut")
    judged, why = apply(record, judge, answers, "critic")
    assert why == reason and judged.feedback == () and not judged.satisfactory
    note = {"reason": reason, "answers": [answers[0].text]}
    assert judged.meta == {"not_judged": note}
    later, why = apply(judged, judge, [Answer("Perfect.")], "critic")
    assert why is None and later.satisfactory and later.meta == {}


def test_an_answer_cut_off_beyond_its_score(record):
    """Without it long responses have no score more often than short ones."""
    cut = [Answer(ANSWERS["critique"], finish="length")]
    judged, why = apply(record, get_judge("critique_score"), cut, "critic")
    assert why is None and judged.feedback[-1].score == 4 and judged.refinement is None
    assert apply(record, get_judge("critique"), cut, "critic")[1] == CUT_OFF
    before = [Answer("Overall Score: [[1", finish="length")]
    assert apply(record, get_judge("critique_score"), before, "critic")[1] == CUT_OFF


def test_one_order_missing_is_no_preference(record):
    answers = [Answer("[[A]]"), Answer(None, "timed out")]
    judged, why = apply(record, get_judge("preference"), answers, "critic")
    assert why == "timed out" and judged.candidates == record.candidates


def test_a_judgment_model_learns_what_it_will_be_asked(record):
    """Its lesson is read back as the judgment that it was made of."""
    flawed = replace(record, feedback=(Feedback("It is green.", "negative"),))
    good = replace(record, feedback=(Feedback("", "positive"),))
    judge = get_judge("judgment")
    for judged in (flawed, good):
        taught = lesson(judged)
        assert taught.prompt == questions_of(record, judge)[0].messages
        (read,) = apply(record, judge, [Answer(taught.response)], "")[0].feedback
        assert (read.text, read.polarity) == (judged.feedback[0].text, judged.feedback[0].polarity)
    for silent in ((), (Feedback("", "negative", score=2.0),)):
        with pytest.raises(RecordError, match="nobody said anything"):
            lesson(replace(record, feedback=silent))


def test_an_unknown_kind():
    with pytest.raises(UserError, match=r"unknown kind 'scores'. Did you mean 'score'"):
        get_judge("scores")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% block user %}{{ respones }}{% endblock %}", "unknown field 'respones'. Did you mean"),
        ("{% block usr %}x{% endblock %}", "unknown block 'usr'. Did you mean 'user'"),
        ("{{ response }}", "has no block 'user'"),
        ("{% block user %}{{ response", "is not a Jinja template"),
        ("{% block user %}{{ response.a.b }}{% endblock %}", "cannot be rendered"),
        (None, "cannot be read as a template"),
    ],
)
def test_bad_templates(record, tmp_path, text, message):
    """Said when questions are made: before anything is asked, and paid."""
    path = tmp_path / "own.jinja"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        questions_of(record, get_judge("cut", str(path)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_of_ones_own(record, tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(
        "{% block user %}\n{{ response }}?\n{% endblock %}\n"
        "{% block system %}Be kind.{% endblock %}",
        encoding="utf-8",
    )
    (question,) = questions_of(record, get_judge("cut", str(path)))
    assert question.messages == (Message("system", "Be kind."), Message("user", "Blue?"))
