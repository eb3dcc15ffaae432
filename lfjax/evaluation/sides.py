"""Systems side by side: the same prompts, and what each of them answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lfjax.data.records import Record
from lfjax.errors import UserError, nearest

ON_MISSING = ("stop", "count", "empty")


@dataclass(frozen=True)
class Sides:
    """What the systems answered in one trial (a seed of training, say).

    Attributes:
      prompts: a record for each prompt, in the order in which the first system has them.
      answers: by system, its record for each prompt, or None.
    """

    prompts: list[Record]
    answers: dict[str, list[Record | None]]


def align(systems: Mapping[str, Sequence[Record]], on_missing: str) -> Sides:
    """Records of the same id answer the same prompt.

    Args:
      systems: records by system; one without a response is one that is missing.
      on_missing: what to do where one system has a prompt and another has not: `stop`; `count`,
        which leaves the answer out and counts it; `empty`, for which it is an answer of no words.

    Raises: UserError naming the first prompt that is not the same everywhere, or, with `stop`, that
    some system has not answered.
    """
    if on_missing not in ON_MISSING:
        raise UserError(f"on_missing='{on_missing}'. {nearest(on_missing, ON_MISSING)}")
    prompts: dict[str, tuple[str, Record]] = {}
    for name, records in systems.items():
        for record in records:
            first, known = prompts.setdefault(record.id, (name, record))
            if known.prompt != record.prompt:
                raise UserError(
                    f"the systems have different prompts: '{record.id}' is {_head(known)!r} for "
                    f"'{first}' and {_head(record)!r} for '{name}'. Compare systems that answered "
                    "the same ones."
                )
    answers = {}
    for name, records in systems.items():
        own = {r.id: r for r in records if r.response is not None}
        lost = [prompts[id] for id in prompts if id not in own]
        if lost and on_missing == "stop":
            _, record = lost[0]
            raise UserError(
                f"the systems have different prompts: '{name}' has no answer to '{record.id}' "
                f"({_head(record)!r}); it lacks {len(lost)} of {len(prompts)} answers. "
                "on_missing=count goes on without them and counts them."
            )
        if on_missing == "empty":
            own |= {r.id: replace(r, response="", feedback=()) for _, r in lost}
        answers[name] = [own.get(id) for id in prompts]
    return Sides([record for _, record in prompts.values()], answers)


def _head(record: Record) -> str:
    text = record.prompt[-1].content
    return text if len(text) <= 60 else f"{text[:60]}…"
