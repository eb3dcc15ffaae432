"""Responses improved step by step: by an improver (PIT, Wang et al. 2024, arXiv 2310.00898, section
3.5), or by a model's own feedback (Self-Refine, Madaan et al. 2023, 2303.17651).

An improved Record holds what was improved as its `response` and the new text as its `refinement`.
The next step improves that, in a draw of its own also where nothing changed: `meta.improved_times`
counts the steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import isnan
from pathlib import Path

from lfjax.data.records import Message, Record
from lfjax.data.views import after_reference, need_refinement, need_response
from lfjax.errors import UserError
from lfjax.judges.asking import Answer, Collected, Question
from lfjax.judges.templates import FOLDER, messages_of

TIMES = "improved_times"
Ask = Callable[[Sequence[Question]], Collected]


@dataclass(frozen=True)
class Improved:
    """What a step made.

    Attributes:
      records: improved ones, in order; those without an answer are left out.
      got: of each round of questions, what was collected.
    """

    records: list[Record]
    got: list[Collected]


def begin(records: Sequence[Record], of: str) -> list[Record]:
    """Records whose response is what is to be improved.

    Args:
      of: `response`, or `refinement`: what an earlier improvement made.

    Raises: UserError for another name, RecordError for a record without that text.
    """
    needs = {"response": need_response, "refinement": need_refinement}
    if of not in needs:
        raise UserError(f"of='{of}': expected response or refinement.")
    found = [replace(r, response=needs[of](r), refinement=None) for r in records]
    if of == "response":
        found = [replace(r, meta={k: v for k, v in r.meta.items() if k != TIMES}) for r in found]
    return found


def by_improver(records: Sequence[Record], ask: Ask, name: str) -> Improved:
    """One step: y ~ M(· | x, y_ref), laid out as in training (`views.after_reference`)."""
    got = ask([Question(after_reference(r, need_response(r)), _times(r)) for r in records])
    return Improved(_filled(records, got.answers, name), [got])


def by_self_refine(
    records: Sequence[Record], ask: Ask, name: str, *, feedback: str = "", rewrite: str = ""
) -> Improved:
    """One step: the model says what could be better about its response, then writes it again.

    Args:
      feedback, rewrite: paths of .jinja files instead of the shipped questions, which know no task.
    """
    asked = _question(feedback or FOLDER / "self_feedback.jinja")
    again = _question(rewrite or FOLDER / "self_rewrite.jinja")
    shown = [(*r.prompt, Message("assistant", need_response(r)), *asked) for r in records]
    first = ask([Question(m, _times(r)) for r, m in zip(records, shown)])
    said = [
        (replace(r, meta={**r.meta, "self_feedback": a.text}), (*m, Message("assistant", a.text)))
        for r, m, a in zip(records, shown, first.answers)
        if a.text is not None
    ]
    second = ask([Question((*messages, *again), _times(r)) for r, messages in said])
    return Improved(_filled([r for r, _ in said], second.answers, name), [first, second])


BY: dict[str, Callable[..., Improved]] = {
    "improver": by_improver,
    "self_refine": by_self_refine,
}


def next_step(records: Sequence[Record]) -> list[Record]:
    """The improved text takes the place of the response."""
    return [replace(r, response=r.refinement, refinement=None) for r in records]


def _question(path: str | Path) -> tuple[Message, ...]:
    return messages_of(path, {})


def _times(record: Record) -> int:
    return record.meta.get(TIMES, 0)


def _filled(records: Sequence[Record], answers: Sequence[Answer], name: str) -> list[Record]:
    def one(r: Record, a: Answer) -> Record:
        told = {"improved_by": name, TIMES: _times(r) + 1, "finish": a.finish}
        return replace(r, refinement=a.text, meta={**r.meta, **told})

    return [one(r, a) for r, a in zip(records, answers) if a.text is not None]


# --- until it is good enough ------------------------------------------------------------------


@dataclass
class History:
    """What became of one response.

    Attributes:
      versions: the response, then every improvement that was accepted.
      gaps: of each improvement, accepted or not, how much better it is, where that was asked.
      stopped: why there are no more.
    """

    record: Record
    versions: list[str]
    gaps: list[float]
    stopped: str = ""

    def as_record(self) -> Record:
        """The record with the last version as its refinement, if there is one."""
        told = {"steps": len(self.versions) - 1, "stopped": self.stopped}
        told |= {"versions": self.versions} if len(self.versions) > 2 else {}
        told |= {"gaps": self.gaps} if self.gaps else {}
        better = self.versions[-1] if len(self.versions) > 1 else None
        return replace(self.record, refinement=better, meta={**self.record.meta, "improved": told})


def improve_until(
    records: Sequence[Record],
    one_step: Callable[[Sequence[Record]], list[Record]],
    *,
    steps: int,
    gap: Callable[[Sequence[Record]], Sequence[float]] | None = None,
    similar: Callable[[str, str], float],
    copy: float = 0.95,
) -> list[History]:
    """Improve each response until a step is no gain: its text is more than `copy` similar to the
    one before, or its centred gap is not positive. Then the one before is kept.

    Quality does not only rise with the number of steps (section 4.7 of the paper), and it gives no
    rule when to stop: this one is ours.

    Args:
      one_step: records -> those that were answered, improved.
      gap: improved records -> how much better each refinement is than its response; NaN where it
        cannot say, which ends the improvement as well.
      similar: share of two texts that is the same.
    """
    found = {r.id: History(r, [need_response(r)], []) for r in records}
    going = list(records)
    for _ in range(steps):
        made = one_step(going)
        for name in {r.id for r in going} - {r.id for r in made}:
            found[name].stopped = "no answer"
        changed = []
        for r in made:
            if similar(r.refinement, r.response) > copy:
                found[r.id].stopped = "next to no change"
            else:
                changed.append(r)
        gaps = gap(changed) if gap is not None and changed else []
        going = []
        for r, value in zip_longest(changed, map(float, gaps)):
            own = found[r.id]
            if value is not None and isnan(value):
                own.stopped = "too long to compare"
                continue
            if value is not None:
                own.gaps.append(value)
            if value is not None and value <= 0:
                own.stopped = "not better"
                continue
            own.versions.append(r.refinement)
            going.append(r)
        going = next_step(going)
        if not going:
            break
    for history in found.values():
        history.stopped = history.stopped or "steps"
    return list(found.values())
