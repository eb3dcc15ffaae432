"""The words of a critique and where its parts stand: what critics are asked to write for SRT (Hu et
al. 2024, arXiv 2406.07168, table 1), and what a model that criticises itself writes.

Weaknesses, advice, `Overall Score: [[n]]`, and under a heading the improved response.
"""

import re
from collections.abc import Sequence

SCALE = (1.0, 10.0)
PARTS = ("weaknesses", "suggestions", "score")  # of a feedback, in their order

# A mark after its label: `Score: [[6]]`, `**Score:** 7/10`, `Score (1-10): 7.5`. A range is none,
# nor is a mark out of another number than 10. `(?>…)` gives no digits back: 7.5-8 is not 7. (`*+`
# gives nothing back either: a line of ten thousand underscores is read once.) An underscore is no
# letter of a word here, as it is to `\b`: it may mark `__Overall Score__`.
SCORE = (
    r"score(?![A-Za-z0-9])[\s*_]*+(?:\([^()\n]*\))?+[\s*_]*+[:=]?+[\s*_]*+\[{0,2}+[ \t]*+"
    r"((?>[0-9]+(?:\.[0-9]+)?))"
    r"(?!\.?[0-9])"
    r"(?![ \t*_\]]*(?:-|–|—|~|to\b|or\b)[ \t*_\[]*[0-9])"
    r"(?![ \t*_\]]*(?:/|out[ \t]+of\b)[ \t*_\[]*(?!10\b)[0-9])"
)
START = r"(?<![A-Za-z0-9])"
ANY_SCORE = re.compile(START + SCORE, re.IGNORECASE)
OVERALL_SCORE = re.compile(START + r"overall[ \t]+" + SCORE, re.IGNORECASE)

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
KINDS = {"weakness": PARTS[0], "advice": PARTS[1], "suggest": PARTS[1]}
KINDS |= {"rating": PARTS[2], "score": PARTS[2]}


def sections(text: str) -> list[tuple[str, int, int, int]]:
    """(which of `PARTS`, where its title begins, where its body begins, where it ends) of a
    feedback's parts, by the titles before them; where nothing is titled, of its three numbered
    steps. None where it cannot be taken apart."""
    titles = list(PART.finditer(text))
    kinds = [KINDS[t["word"].lower()] for t in titles]
    if not {*PARTS[:2]} & {*kinds}:
        titles, kinds = list(STEP.finditer(text)), list(PARTS)
        if [t[1] for t in titles] != ["1", "2", "3"]:
            return []
    ends = [t.start() for t in titles[1:]] + [len(text)]
    return [(k, t.start(), t.end(), end) for k, t, end in zip(kinds, titles, ends)]


def part_of(text: str, part: str) -> str | None:
    """What a feedback says in one of its parts; None where it has no such part, or says nothing."""
    bodies = (text[a:b].strip(" \t\n*_#") for kind, _, a, b in sections(text) if kind == part)
    return next(filter(None, bodies), None)


def parts_left(leave_out: str) -> tuple[str, ...]:
    """The parts that feedback has where something is left out: one of `PARTS`; `words`, which are
    all but the score; or `feedback`, which is all. Anything else leaves all parts."""
    if leave_out == "words":
        return ("score",)
    return () if leave_out == "feedback" else tuple(p for p in PARTS if p != leave_out)


def reduced(text: str, parts: Sequence[str]) -> str | None:
    """A feedback of these of its parts, with their titles; None where one of the others cannot be
    found, or nothing else is there. What stands before the first title goes with the words: it is
    kept unless the score alone is."""
    found = sections(text)
    kinds = {kind for kind, *_ in found}
    if not {*PARTS} - {*parts} <= kinds:
        return None
    before = text[: found[0][1]] if found and {*parts} != {"score"} else ""
    kept = (text[a:b] for kind, a, _, b in found if kind in parts)
    return "".join((before, *kept)).strip() or None
