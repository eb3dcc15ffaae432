"""Parsers of judges' answers, case by case."""

import time

import pytest

from lfjax.data.records import Feedback
from lfjax.judges.parsing import (
    Critique,
    Missing,
    both_orders,
    critique,
    critique_score,
    cut_judgment,
    decided,
    decided_judgment,
    own_critique,
    scored_judgment,
    verdict,
)


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("Perfect.", "positive"),
        ("perfect", "positive"),
        ("PERFECT! Nothing to add.", "positive"),
        ('"Perfect."', "positive"),
        ("**Perfect**", "positive"),
        ("\n Perfect.\n", "positive"),
        ("<think>Is it perfect? No, wait.</think>\nPerfect.", "positive"),
        ("Perfectly fine.", "negative"),
        ("Perfect-looking, but wrong.", "negative"),
        ("Not perfect: the date is wrong.", "negative"),
        ("The response is perfect.", "negative"),
        ("Imperfect.", "negative"),
        ("<think>Perfect?</think> The date is wrong.", "negative"),
    ],
)
def test_cut_convention(text, polarity):
    said = cut_judgment(text)
    assert said == Feedback(text.rpartition("</think>")[2].strip(), polarity)


@pytest.mark.parametrize("text", ["", " \n", "$ERROR$", " $ERROR$\n", "<think>hm</think>\n"])
def test_cut_judgments_that_are_none(text):
    assert isinstance(cut_judgment(text), Missing)


@pytest.mark.parametrize(
    ("text", "judgment", "polarity"),
    [
        ("It names no source. No.", "It names no source.", "negative"),
        ("Clear and right. Yes.", "Clear and right.", "positive"),
        ("The answer is no. Yes", "The answer is no.", "positive"),
        ("Yes.", "", "positive"),
        ("Too long.\n**No.**", "Too long.\n**", "negative"),
    ],
)
def test_decisions(text, judgment, polarity):
    assert decided_judgment(text) == Feedback(judgment, polarity)


@pytest.mark.parametrize("text", ["", "It is fine.", "No.", "Yes, it is perfect", "Nothing. None."])
def test_decisions_that_are_none(text):
    assert isinstance(decided_judgment(text), Missing)


@pytest.mark.parametrize(
    "feedback",
    [
        Feedback("It says no. No source.", "negative"),
        Feedback("", "positive"),
        Feedback("Yes. It is right.", "positive"),
    ],
)
def test_what_a_judgment_model_learns_is_what_is_read(feedback):
    assert decided_judgment(decided(feedback)) == feedback


SCORES = {
    "Overall Score: [[6]]": 6,
    "###Overall Score: 6": 6,
    "**Overall Score:** 7/10": 7,
    "Overall Score: **7**/10": 7,
    "Overall Score: [[7.5]]": 7.5,
    "Overall Score: 8 - solid answer": 8,
    "Overall Score: 8\n- 2 points lost": 8,
    "Overall Score (1-10): [[8]]": 8,
    "Overall Score: 8 out of 10": 8,
    "Overall Score: 8.": 8,
    "overall score = [[ 8 ]]": 8,
    "Overall Score\n6": 6,
    "Overall Score: [[6]]\nAgain, Overall Score: 6": 6,
    "Overall Score: [[10]]": 10,
    "__Overall Score__: 8": 8,
    "__Overall Score:__ 8": 8,
    "Overall Score: [[1]]": 1,
    "Overall Score: [[1-10]]": None,
    "Overall Score: [[11]]": None,
    "Overall Score: [[0]]": None,
    "Overall Score: 70": None,
    "Overall Score: 7.5-8": None,
    "Overall Score: 7 – 8": None,
    "Overall Score: 7 to 8": None,
    "Overall Score: 7 or 8": None,
    "Overall Score: 7~8": None,
    "Overall Score: [[7]]-[[8]]": None,
    "Overall Score: 4/5": None,
    "Overall Score: 4 out of 5": None,
    "Overall Score: 70/100": None,
    "Overall Score: six": None,
    "Overall Score: -3": None,
    "Overall Score: [[6]] Overall Score: [[7]]": None,
    "[[7.5]]": None,
    "": None,
}


def full_critique(
    *,
    weaknesses="1. Identify Weaknesses: It is short.\n",
    advice="2. Offer Actionable Advice: Say more.\n",
    score="3. Conclude with a Rating: Overall Score: [[6]]\n",
    head="### Improved Response\n",
    refinement="Better.",
):
    return f"{weaknesses}{advice}{score}{head}{refinement}"


@pytest.mark.parametrize("text", SCORES)
def test_scores_of_critiques(text):
    said = critique(full_critique(score=f"3. Conclude with a Rating: {text}\n"))
    if SCORES[text] is None:
        assert isinstance(said, Missing) and "score" in said.reason
    else:
        assert said.feedback.score == SCORES[text] and said.feedback.scale == (1.0, 10.0)
        assert said.feedback.polarity == ("mixed" if SCORES[text] >= 7 else "negative")


@pytest.mark.parametrize("text", SCORES)
def test_scores_of_marks(text):
    """The same forms under the label of the scoring template."""
    said = scored_judgment(f"A reason.\n{text.replace('Overall ', '').replace('overall ', '')}")
    if SCORES[text] is None:
        assert isinstance(said, Missing)
    else:
        assert said.score == SCORES[text] and said.text.startswith("A reason.")
        assert said.polarity == ("positive" if SCORES[text] >= 7 else "negative")


@pytest.mark.parametrize(
    "head",
    [
        "### Improved Response\n",
        "###Improved Response:",
        "### Improved Response: ",
        "**Improved Response**\n",
        "**Improved Response:** ",
        "### **Improved Response**\n",
        "## 4. Improved Response\n",
        "4. **Improved Response:**\n",
        "  ### improved   response\n\n",
        "### Improved Response ###\n",
    ],
)
def test_headings_of_refinements(head):
    said = critique(full_critique(head=head))
    assert isinstance(said, Critique) and said.refinement == "Better."
    assert said.feedback.text.endswith("Overall Score: [[6]]")


@pytest.mark.parametrize(
    "head",
    [
        "",
        "### Improved Responses\n",
        "### Improved Response Guidelines\n",
        "Here is an improved response: ",
        "This is the ### Improved Response\n",
        "**Improved Response** is what follows. ",
        "improved response\n",
        "### Improved Response\nOne.\n### Improved Response\n",
        "## 4. Improved Response\n**Improved Response**\n",
    ],
)
def test_headings_that_are_none(head):
    assert "improved response" in critique(full_critique(head=head)).reason


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (dict(refinement=" \n"), "improved response is empty"),
        (dict(score=""), "no score"),
        (dict(weaknesses=""), "no weaknesses"),
        (dict(advice=""), "no advice"),
    ],
)
def test_a_critique_needs_all_its_parts(part, reason):
    assert critique(full_critique(**part)) == Missing(reason)


def test_a_score_after_the_heading_does_not_count():
    """A critic that has seen its own feedback likes what came of it."""
    assert isinstance(critique(full_critique(score="", refinement="Overall Score: [[9]]")), Missing)
    said = critique(full_critique(refinement="Better.\nOverall Score: [[9]]"))
    assert said.feedback.score == 6


@pytest.mark.parametrize(
    ("before", "weaknesses", "suggestions"),
    [
        (
            "1. Identify Weaknesses: It is short.\n2. Offer Actionable Advice: Say more.\n"
            "3. Conclude with a Rating: Overall Score: [[5]]",
            "It is short.",
            "Say more.",
        ),
        (
            "### Feedback\n**Weaknesses:**\n- a\n- b\n\n**Suggestions for improvement:**\n1. c\n"
            "2. d\n\n**Overall Score:** [[5]]",
            "- a\n- b",
            "1. c\n2. d",
        ),
        (
            "## 1. Identify Weaknesses\nIt is short.\n\n## 2. Offer Actionable Advice\nSay more.\n"
            "\n###Overall Score: 5",
            "It is short.",
            "Say more.",
        ),
        ("1. It is short.\n2. Say more.\n3. Overall Score: [[5]]", "It is short.", "Say more."),
        (
            "Its one weakness is that it is short. I suggest to say more. Overall Score: 5",
            None,
            None,
        ),
    ],
)
def test_parts_of_a_critique(before, weaknesses, suggestions):
    said = critique(f"{before}\n### Improved Response\nx").feedback
    assert (said.weaknesses, said.suggestions) == (weaknesses, suggestions)
    assert said.text == before.removeprefix("### Feedback\n")


@pytest.mark.parametrize(
    ("leave_out", "missing"),
    [
        ("", ("no weaknesses", "no advice", "no score")),
        ("weaknesses", (None, "no advice", "no score")),
        ("suggestions", ("no weaknesses", None, "no score")),
        ("score", ("no weaknesses", "no advice", None)),
        ("words", (None, None, "no score")),
    ],
)
def test_what_a_model_was_taught_to_leave_out(leave_out, missing):
    for part, reason in zip(("weaknesses", "advice", "score"), missing):
        said = own_critique(full_critique(**{part: ""}), leave_out)
        assert said == Missing(reason) if reason else said.refinement == "Better."
    assert own_critique("Better.", "feedback") == Critique(None, "Better.")


@pytest.mark.parametrize(
    "text, score",
    [
        (full_critique(), 6),
        (full_critique(head="", refinement=""), 6),
        (full_critique(refinement=""), 6),
        (full_critique(weaknesses="", advice=""), 6),
        (full_critique(refinement="x\n### Improved Response\ny\nOverall Score: [[9]]"), 6),
        (full_critique(score="", refinement="Overall Score: [[9]]"), None),
        (full_critique(score="Overall Score: [[0]]"), None),
    ],
)
def test_a_score_alone(text, score):
    """Without it a text with nothing to improve, of which a model makes no other, has no score."""
    said = critique_score(text)
    if score is None:
        assert isinstance(said, Missing) and "score" in said.reason
    else:
        assert said.score == score and "Improved" not in said.text


def test_numbered_points_are_not_steps():
    """Two weaknesses are not a weakness and an advice."""
    said = critique("Weaknesses:\n1. a\n2. b\nOverall Score: 5\n### Improved Response\nx")
    assert said == Missing("no advice")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A is right. [[A]]", "first"),
        ("[[b]]", "second"),
        ("[[Tie]]", "tie"),
        ("B", "second"),
        ("**A**.", "first"),
        ("[[A]] because … so [[A]]", "first"),
        ("[[A]] or rather [[B]]", None),
        ("A better one would be B", None),
        ("", None),
        ("[[C]]", None),
    ],
)
def test_verdicts(text, expected):
    said = verdict(text)
    assert isinstance(said, Missing) if expected is None else said == expected


def test_both_orders_must_agree():
    agree = {("first", "second"): "first", ("second", "first"): "second", ("tie", "tie"): "tie"}
    sides = ("first", "second", "tie")
    for straight in sides:
        for swapped in sides:
            assert both_orders(straight, swapped) == agree.get((straight, swapped), "tie")
        assert both_orders(straight, Missing("x")) == Missing("x")
        assert both_orders(Missing("x"), straight) == Missing("x")


@pytest.mark.parametrize(
    "parser", [critique, critique_score, scored_judgment, cut_judgment, decided_judgment]
)
@pytest.mark.parametrize(
    "piece", ["_", "#", " ", "\n", "*", "1. ", "no ", "weakness ", "score ", "Overall Score (", "9"]
)
def test_degenerate_answers_are_read_quickly(parser, piece):
    """A model that repeats itself must not keep a parser busy: no pattern backtracks far."""
    begun = time.perf_counter()
    parser(piece * 10_000 + "x\n### Improved Response\n" + piece * 10_000)
    assert time.perf_counter() - begun < 1.0
