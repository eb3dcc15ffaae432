"""What a judge's words mean: pure functions from the raw text of an answer to feedback, a verdict
or a critique, or to the reason why it is none. What cannot be read is missing, never zero.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lfjax.data.critiques import (
    ANY_SCORE,
    FEEDBACK,
    IMPROVED,
    OVERALL_SCORE,
    PARTS,
    SCALE,
    part_of,
    parts_left,
)
from lfjax.data.records import Feedback
from lfjax.data.sources.judged import ERROR_JUDGMENT, SATISFACTORY_SCORE

PERFECT = re.compile(r"[\W_]*perfect(?![\w-])", re.IGNORECASE)
DECISION = re.compile(r"\b(yes|no)\b[^\w]*\Z", re.IGNORECASE)
VERDICT = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)
BARE_VERDICT = re.compile(r"[\W_]*(A|B|tie)[\W_]*", re.IGNORECASE)
VERDICTS = {"a": "first", "b": "second", "tie": "tie"}


CUT_OFF = "cut off at the limit of tokens"


@dataclass(frozen=True)
class Missing:
    """Why an answer says nothing."""

    reason: str


@dataclass(frozen=True)
class Critique:
    """Feedback on a response, and a better one. There is no feedback where a model was taught to
    refine without it."""

    feedback: Feedback | None
    refinement: str


Verdict = Literal["first", "second", "tie"]


def cut_judgment(text: str) -> Feedback | Missing:
    """The convention of CUT (Xu et al. 2024, figure 8): what begins with the word "perfect" praises
    the response, anything else says what is wrong with it."""
    said = _spoken(text)
    if not said:
        return Missing("empty")
    if said == ERROR_JUDGMENT:
        return Missing(f"judgment is {ERROR_JUDGMENT}")
    return Feedback(said, "positive" if PERFECT.match(said) else "negative")


def decided_judgment(text: str) -> Feedback | Missing:
    """A judgment model's answer (Xu et al. 2024, section on judgment models): a judgment, then
    `Yes.` or `No.` for whether the response is perfect. `decided` writes what this reads."""
    said = _spoken(text)
    found = DECISION.search(said)
    if not found:
        return Missing("no Yes or No at the end")
    judgment = said[: found.start()].strip()
    good = found[1].lower() == "yes"
    if not judgment and not good:
        return Missing("no judgment before No")
    return Feedback(judgment, "positive" if good else "negative")


def decided(feedback: Feedback) -> str:
    """What a judgment model learns to answer."""
    verdict = "Yes." if feedback.polarity == "positive" else "No."
    return f"{feedback.text.strip()} {verdict}".strip()


def scored_judgment(text: str) -> Feedback | Missing:
    """A reason and `Score: [[n]]`. From the score on that the CUT authors take for satisfactory, it
    is praise."""
    said = _spoken(text)
    score = _score(ANY_SCORE, said)
    if isinstance(score, Missing):
        return score
    polarity = "positive" if score >= SATISFACTORY_SCORE else "negative"
    return Feedback(said, polarity, score=score, scale=SCALE)


def verdict(text: str) -> Verdict | Missing:
    """`[[A]]`, `[[B]]` or `[[tie]]`, or an answer that is nothing but that letter or word."""
    said = _spoken(text)
    bare = BARE_VERDICT.fullmatch(said)
    found = {v.lower() for v in ([bare[1]] if bare else VERDICT.findall(said))}
    if len(found) != 1:
        return Missing("several verdicts" if found else "no verdict")
    return VERDICTS[found.pop()]


def both_orders(straight: Verdict | Missing, swapped: Verdict | Missing) -> Verdict | Missing:
    """One verdict of two, the second with the responses shown the other way round: what changes
    with the order is a tie."""
    for one in (straight, swapped):
        if isinstance(one, Missing):
            return one
    other = {"first": "second", "second": "first", "tie": "tie"}[swapped]
    return straight if straight == other else "tie"


def critique(text: str, needs: Sequence[str] = PARTS) -> Critique | Missing:
    """Weaknesses, advice, `Overall Score: [[n]]`, and a refinement under a heading (Hu et al. 2024,
    table 1 and the format rule of section 4.1).

    The feedback's text is all that stands before the heading; a score that a critic gives to its
    own refinement does not count. It is never positive: it names weaknesses.

    Args:
      needs: parts without which it is none, for models that were taught to leave some out.
    """
    said = _spoken(text)
    heads = list(IMPROVED.finditer(said))
    if len(heads) != 1:
        return Missing("several improved responses" if heads else "no improved response")
    refinement = said[heads[0].end() :].strip()
    if not refinement:
        return Missing("improved response is empty")
    feedback = _feedback(said[: heads[0].start()], needs)
    return feedback if isinstance(feedback, Missing) else Critique(feedback, refinement)


def own_critique(text: str, leave_out: str = "") -> Critique | Missing:
    """What a model says of its own response after the heading that it is given (`self_refine`).

    Args:
      leave_out: what it was taught to leave out.
    """
    if leave_out == "feedback":
        said = _spoken(text)
        return Critique(None, said) if said else Missing("improved response is empty")
    return critique(text, parts_left(leave_out))


def critique_score(text: str) -> Feedback | Missing:
    """A critique whose score alone is asked for (section 3.1.1): the feedback before the heading of
    an improved response, which there need not be."""
    return _feedback(IMPROVED.split(_spoken(text), maxsplit=1)[0], needs=("score",))


def beyond_feedback(text: str) -> bool:
    """Whether a critique has come to its improved response."""
    return IMPROVED.search(_spoken(text)) is not None


def _feedback(before: str, needs: Sequence[str]) -> Feedback | Missing:
    """What a critique says before its improved response."""
    before = FEEDBACK.sub("", before.strip()).strip()
    score = _score(OVERALL_SCORE, before)
    if isinstance(score, Missing):
        if "score" in needs:
            return score
        score = None
    weaknesses, suggestions = part_of(before, "weaknesses"), part_of(before, "suggestions")
    if "weaknesses" in needs and weaknesses is None and "weakness" not in before.lower():
        return Missing("no weaknesses")
    said_so = re.search("advice|suggest", before, re.IGNORECASE)
    if "suggestions" in needs and suggestions is None and not said_so:
        return Missing("no advice")
    polarity = "mixed" if score is not None and score >= SATISFACTORY_SCORE else "negative"
    notes = dict(score=score, scale=SCALE, weaknesses=weaknesses, suggestions=suggestions)
    return Feedback(before, polarity, **notes)


def _spoken(text: str) -> str:
    """The answer without the thoughts that some models write before it."""
    return text.rpartition("</think>")[2].strip()


def _score(pattern: re.Pattern, text: str) -> float | Missing:
    """The one score in a text."""
    found = {float(s) for s in pattern.findall(text)}
    if len(found) != 1:
        return Missing("several scores" if found else "no score")
    score = found.pop()
    return score if SCALE[0] <= score <= SCALE[1] else Missing("score is not from 1 to 10")
