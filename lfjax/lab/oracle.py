"""The perfect judge of every world, and how to make it a worse one.

Its answers are pure functions of a prompt record and a response; what is drawn (which fault is
named) follows from a seed, the record's id and the response.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lfjax.data.records import Feedback, Record
from lfjax.errors import UserError, nearest
from lfjax.lab.ledger import Ledger
from lfjax.lab.phrasebook import Phrasebook
from lfjax.lab.repair import Repair
from lfjax.lab.world import (
    KINDS,
    WRITE,
    WRONG,
    Part,
    World,
    faults,
    listed,
    named,
    right_share,
    score,
    worded,
)

WORLDS: dict[str, Callable[..., World]] = {
    "phrasebook": Phrasebook,
    "ledger": Ledger,
    "repair": Repair,
}
AUTHOR = "oracle"


def world_of(record: Record) -> World:
    """The world that a prompt comes from. Raises: UserError for a record of no world."""
    about = record.meta.get("world")
    name = about.get("name") if isinstance(about, dict) else None
    if name not in WORLDS:
        raise UserError(
            f"record '{record.id}' of {record.source}: is not of a world of the lab "
            f"(meta.world.name is {name!r}). {nearest(str(name), WORLDS)}"
        )
    settings = {k: v for k, v in about.items() if k != "name"}
    try:
        return _world(name, tuple(sorted(settings.items())))
    except TypeError as error:
        raise UserError(f"record '{record.id}' of {record.source}: meta.world: {error}.") from None


@lru_cache(maxsize=8)
def _world(name: str, settings: tuple[tuple[str, Any], ...]) -> World:
    return WORLDS[name](**dict(settings))


def parts_of(record: Record, response: str) -> tuple[Part, ...]:
    """What is true of each part of a response. Raises: UserError for a record of no world."""
    return world_of(record).parts(record, response)


@dataclass(frozen=True)
class Oracle:
    """Says what is true, in judgments of one kind, or of a worse one now and then.

    Attributes:
      kind: of `KINDS`.
      names: how many parts the kinds `some`, `random` and `misplaced` name; None for as many as
        there are faults, so that a placebo says as much as the judgments that it stands for.
      worse: the kind that takes its place in a share `rate` of judgments: `random` for noise,
        `flawed` for vagueness, `misplaced` for wrong lines.
      seed: of what is drawn.

    Raises: UserError for an unknown kind, or a number that is out of range.
    """

    kind: str = "all"
    names: int | None = None
    worse: str = "random"
    rate: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for kind in (self.kind, self.worse):
            if kind not in KINDS:
                raise UserError(f"oracle: unknown kind '{kind}'. {nearest(kind, KINDS)}")
        if not 0 <= self.rate <= 1:
            raise UserError(f"oracle: rate={self.rate}; expected a share from 0 to 1.")
        if self.names is not None and self.names < 1:
            raise UserError(f"oracle: names={self.names}; expected at least 1.")

    def called_wrong(self, record: Record, response: str) -> tuple[Part, ...]:
        """The parts that the judgment names as wrong, be they so or not."""
        return self._judgment(record, response)[2]

    def feedback(self, record: Record, response: str) -> Feedback:
        """All that is said of a response. `spans` are the tokens that the judgment calls wrong."""
        kind, parts, about = self._judgment(record, response)
        wrong = faults(parts)
        flawed = "mixed" if kind == "praise" and len(wrong) < len(parts) else "negative"
        return Feedback(
            worded(kind, parts, about),
            flawed if wrong else "positive",
            float(score(parts)),
            (1.0, 10.0),
            listed(WRONG, ((p, p.said) for p in wrong)) or None,
            listed(WRITE, ((p, p.wanted) for p in wrong if p.wanted)) or None,
            tuple(p.span for p in about if p.span) or None,
            AUTHOR,
        )

    def improved(self, record: Record, response: str, *, everything: bool = False) -> str:
        """The response with exactly those parts repaired that the judgment names, or with every
        fault repaired, as also where it names none."""
        _, parts, about = self._judgment(record, response)
        chosen = faults(parts) if everything or not about else about
        return world_of(record).repaired(record, response, chosen)

    def preferred(self, record: Record, a: str, b: str) -> int:
        """1 if `a` is better, -1 if `b` is, 0 if neither: by the share of right parts."""
        one, other = (right_share(parts_of(record, text)) for text in (a, b))
        return (one > other) - (one < other)

    def judged(self, record: Record) -> Record:
        """The record with feedback on its response, the improved response, and its candidates
        scored by their share of right parts; what it does not have is left out."""
        candidates = tuple(
            replace(c, score=right_share(parts_of(record, c.text))) for c in record.candidates
        )
        if record.response is None:
            return replace(record, candidates=candidates)
        said = self.feedback(record, record.response)
        better = self.improved(record, record.response) if said.polarity != "positive" else None
        return replace(record, feedback=(said,), refinement=better, candidates=candidates)

    def _judgment(
        self, record: Record, response: str
    ) -> tuple[str, tuple[Part, ...], tuple[Part, ...]]:
        """(kind, all parts, those that it calls wrong)."""
        rng = random.Random(f"{self.seed}/{record.id}/{response}")
        kind = self.worse if rng.random() < self.rate else self.kind
        parts = parts_of(record, response)
        return kind, parts, named(kind, parts, self.names, rng)
