"""What a world of the lab is: prompts whose answers have parts, each of which is right or wrong
beyond doubt; and the few words in which judgments speak of them.

Models are pretrained on these words (`Phrasebook.pretraining`) and judges use them
(`oracle.Oracle`).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lfjax.data.records import Record

KINDS = {
    "all": "names every fault",
    "one": "names one fault",
    "some": "names so many faults",
    "praise": "names every fault and everything that is right",
    "flawed": "says only that there is a fault",
    "count": "how many faults there are",
    "score": "a score from 1 to 10",
    "random": "calls so many parts wrong, right or not (placebo)",
    "misplaced": "calls so many parts wrong that are right",
}
FLAWLESS, FLAWED, WRONG, LINES = "flawless", "flawed", "wrong:", "lines:"
FAULTS, SCORE, WRITE = "faults:", "score:", "write:"
JUDGED, ANSWER = "judged:", "answer:"  # before a judgment and a response
MISSING = "missing"  # in the place of a part that is not there
LANGUAGE = (
    *(FLAWLESS, FLAWED, WRONG, LINES, FAULTS, SCORE, WRITE, JUDGED, ANSWER, MISSING),
    *map(str, range(11)),
)

# How all worlds are shown to models: perhaps a judgment, a prompt, and the request for an answer.
# Notes on numbered parts are written into the prompt, each in the place of its part's number, as a
# teacher writes into the margin: an answer is then as far from all that it depends on as without a
# judgment, and so small a model learns to read in seconds.
TEMPLATE = f"""\
{{%- set judged = (judgment or "").split() -%}}
{{%- set notes = judged[1:] if judged and judged[0] in ("{WRONG}", "{LINES}") else [] -%}}
{{%- set said = notes[1::2] -%}}
{{%- set at = notes[::2][:said | length] -%}}
{{%- if judged -%}}
{{{{- "{JUDGED}" + ("" if at else " " + judged | join(" ")) + "\n" -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
{{%- for word in message.content.split() -%}}
{{{{- said[at.index(word)] if word in at else word -}}}}{{{{- "\n" if loop.last else " " -}}}}
{{%- endfor -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- "{ANSWER}\n" -}}}}{{%- endif -%}}
"""


@dataclass(frozen=True)
class Part:
    """One part of a response, and what is true of it.

    Attributes:
      index: from 0; parts beyond those that were asked for are counted on.
      group, tier: of what was asked for; empty for a part that was not.
      right: whether it is as it should be.
      said: the word of it that a judgment quotes: the first wrong one, or the first.
      wanted: what should stand in that place; empty where nothing should.
      span: characters of the response with its first wrong token, of a right part with its first
        token; None where there is no such token.
    """

    index: int
    group: str
    tier: str
    right: bool
    said: str
    wanted: str
    span: tuple[int, int] | None


@runtime_checkable
class World(Protocol):
    """Exact truth about any response to the world's prompts, however malformed it is.

    Attributes:
      tokens: every word that its prompts and right or habitual answers are made of. One that begins
        a part of an answer is capitalized, no other is.
    """

    @property
    def tokens(self) -> tuple[str, ...]: ...

    def parts(self, record: Record, response: str) -> tuple[Part, ...]:
        """Every part that the prompt asks for, in order, then those that nobody asked for."""
        ...

    def repaired(self, record: Record, response: str, wrong: Iterable[Part]) -> str:
        """The response with these parts of it, and no others, as they should be."""
        ...


def named(
    kind: str, parts: Sequence[Part], count: int | None, rng: random.Random
) -> tuple[Part, ...]:
    """The parts that a judgment of this kind calls wrong, in order; none where nothing is wrong.

    Args:
      count: how many the kinds `some`, `random` and `misplaced` name, if there are so many; None
        for as many as there are faults.
    """
    wrong, right = faults(parts), [p for p in parts if p.right]
    among = {"random": parts, "misplaced": right}.get(kind, wrong)
    if not wrong or kind in ("flawed", "count", "score"):
        return ()
    if kind in ("all", "praise") or count is None:
        count = len(wrong)
    if kind == "one":
        count = 1
    drawn = rng.sample(among, min(count, len(among)))
    return tuple(sorted(drawn, key=lambda p: p.index))


def worded(kind: str, parts: Sequence[Part], called_wrong: Iterable[Part]) -> str:
    """A judgment as text."""
    wrong = faults(parts)
    if kind == "score":
        return f"{SCORE} {score(parts)}"
    if kind == "count":
        return f"{FAULTS} {len(wrong)}"
    if not wrong:
        return FLAWLESS
    if kind == "flawed":
        return FLAWED
    if kind == "praise":
        return listed(LINES, ((p, p.said) for p in parts))
    return listed(WRONG, ((p, p.said) for p in called_wrong)) or FLAWED


def listed(head: str, notes: Iterable[tuple[Part, str]]) -> str:
    """`head`, then the number of each part and the note on it; nothing where there are none."""
    found = [f"{part.index + 1} {note}" for part, note in notes]
    return " ".join([head, *found]) if found else ""


def faults(parts: Iterable[Part]) -> list[Part]:
    """Those that are wrong."""
    return [p for p in parts if not p.right]


def right_share(parts: Sequence[Part]) -> float:
    """Share of the parts that are right."""
    return 1 - len(faults(parts)) / len(parts)


def score(parts: Sequence[Part]) -> int:
    """1 to 10, by the share of parts that are right; 10 for a perfect response alone."""
    return 10 if not faults(parts) else min(9, 1 + round(9 * right_share(parts)))
