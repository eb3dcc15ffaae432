"""What a judge's words mean: pure functions from the raw text of an answer to feedback, a verdict
or a critique, or to the reason why it is none. What cannot be read is missing, never zero.
"""

import re
from dataclasses import dataclass
from typing import Literal

from lfjax.data.records import Feedback
from lfjax.data.sources.judged import ERROR_JUDGMENT, SATISFACTORY_SCORE

SCALE = (1.0, 10.0)

PERFECT = re.compile(r"[\W_]*perfect(?![\w-])", re.IGNORECASE)
DECISION = re.compile(r"\b(yes|no)\b[^\w]*\Z", re.IGNORECASE)
VERDICT = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)
BARE_VERDICT = re.compile(r"[\W_]*(A|B|tie)[\W_]*", re.IGNORECASE)
VERDICTS = {"a": "first", "b": "second", "tie": "tie"}

# A mark after its label: `Score: [[6]]`, `**Score:** 7/10`, `Score (1-10): 7.5`. A range is none,
# nor is a mark out of another number than 10. `(?>…)` gives no digits back: 7.5-8 is not 7. (`*+`
# gives nothing back either: a line of ten thousand underscores is read once.)
SCORE = (
    r"score\b[\s*_]*+(?:\([^()\n]*\))?+[\s*_]*+[:=]?+[\s*_]*+\[{0,2}+[ \t]*+"
    r"((?>[0-9]+(?:\.[0-9]+)?))"
    r"(?!\.?[0-9])"
    r"(?![ \t*_\]]*(?:-|–|—|to\b)[ \t*_\[]*[0-9])"
    r"(?![ \t*_\]]*(?:/|out[ \t]+of\b)[ \t*_\[]*(?!10\b)[0-9])"
)
ANY_SCORE = re.compile(r"\b" + SCORE, re.IGNORECASE)
OVERALL_SCORE = re.compile(r"\boverall[ \t]+" + SCORE, re.IGNORECASE)

# `### Improved Response`, `**Improved Response:** text`, `## 4. Improved Response`: marked as a
# heading, and nothing after it on its line but behind a colon.
IMPROVED = re.compile(
    r"^(?=[^\n]*?(?:\#|\*\*|__))[ \t#*_]*+(?:[0-9]+[.)])?+[ \t*_]*+improved[ \t]+response[ \t#*_]*+"
    r"(?::[ \t*_]*|$)",
    re.IGNORECASE | re.MULTILINE,
)
FEEDBACK = re.compile(r"\A#+[ \t]*feedback[ \t]*:?[ \t]*$", re.IGNORECASE | re.MULTILINE)
# The title of a part of a critique, up to its colon or the end of its line.
PART = re.compile(
    r"^[ \t#*_]*+(?:[0-9]+[.)])?+[ \t*_]*+[^\n:.*]{0,40}?"
    r"\b(?P<word>weakness|advice|suggest|rating|score)[^\n:.*]{0,30}[ \t*_]*(?::[ \t*_]*|$)",
    re.IGNORECASE | re.MULTILINE,
)
STEP = re.compile(r"^[ \t#*_]*([0-9]+)[.)][ \t*_]*", re.MULTILINE)


@dataclass(frozen=True)
class Missing:
    """Why an answer says nothing."""

    reason: str


@dataclass(frozen=True)
class Critique:
    """Feedback on a response, and a better one."""

    feedback: Feedback
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


def critique(text: str) -> Critique | Missing:
    """Weaknesses, advice, `Overall Score: [[n]]`, and a refinement under a heading (Hu et al. 2024,
    table 1 and the format rule of section 4.1).

    The feedback's text is all that stands before the heading; a score that a critic gives to its
    own refinement does not count. It is never positive: it names weaknesses.
    """
    said = _spoken(text)
    heads = list(IMPROVED.finditer(said))
    if len(heads) != 1:
        return Missing("several improved responses" if heads else "no improved response")
    before = FEEDBACK.sub("", said[: heads[0].start()].strip()).strip()
    refinement = said[heads[0].end() :].strip()
    if not refinement:
        return Missing("improved response is empty")
    score = _score(OVERALL_SCORE, before)
    if isinstance(score, Missing):
        return score
    weaknesses, suggestions = _parts(before)
    if weaknesses is None and "weakness" not in before.lower():
        return Missing("no weaknesses")
    if suggestions is None and not re.search("advice|suggest", before, re.IGNORECASE):
        return Missing("no advice")
    polarity = "mixed" if score >= SATISFACTORY_SCORE else "negative"
    notes = dict(score=score, scale=SCALE, weaknesses=weaknesses, suggestions=suggestions)
    return Critique(Feedback(before, polarity, **notes), refinement)


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


def _parts(text: str) -> tuple[str | None, str | None]:
    """(weaknesses, suggestions) of a critique by the titles before them; where nothing is titled,
    of the numbered steps 1 and 2 of three."""
    titles = list(PART.finditer(text))
    words = [t["word"].lower() for t in titles]
    if not {"weakness", "advice", "suggest"} & {*words}:
        titles = list(STEP.finditer(text))
        words = [t[1] for t in titles]
        if words != ["1", "2", "3"]:
            return None, None
    ends = [t.start() for t in titles[1:]] + [len(text)]
    bodies = [text[t.end() : end].strip(" \t\n*_#") for t, end in zip(titles, ends)]

    def first(*known: str) -> str | None:
        return next((b for w, b in zip(words, bodies) if w in known and b), None)

    return first("weakness", "1"), first("advice", "suggest", "2")
