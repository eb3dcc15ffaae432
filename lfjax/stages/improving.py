"""Responses improved step by step: by an improver (PIT, Wang et al. 2024, arXiv 2310.00898, section
3.5), or by a model's own feedback (Self-Refine, Madaan et al. 2023, 2303.17651).

An improved Record holds what was improved as its `response` and the new text as its `refinement`.
The next step improves that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lfjax.data.records import Message, Record
from lfjax.data.views import after_reference, need_refinement, need_response
from lfjax.errors import UserError
from lfjax.judges.asking import Answer, Collected, Question
from lfjax.judges.templates import FOLDER, messages_of

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
    return [replace(r, response=needs[of](r), refinement=None) for r in records]


def by_improver(records: Sequence[Record], ask: Ask, name: str) -> Improved:
    """One step: y ~ M(· | x, y_ref), laid out as in training (`views.after_reference`)."""
    got = ask([Question(after_reference(r, need_response(r))) for r in records])
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
    first = ask([Question(messages) for messages in shown])
    said = [
        (replace(r, meta={**r.meta, "self_feedback": a.text}), (*m, Message("assistant", a.text)))
        for r, m, a in zip(records, shown, first.answers)
        if a.text is not None
    ]
    second = ask([Question((*messages, *again)) for _, messages in said])
    return Improved(_filled([r for r, _ in said], second.answers, name), [first, second])


def next_step(records: Sequence[Record]) -> list[Record]:
    """The improved text takes the place of the response."""
    return [replace(r, response=r.refinement, refinement=None) for r in records]


def _question(path: str | Path) -> tuple[Message, ...]:
    return messages_of(path, {})


def _filled(records: Sequence[Record], answers: Sequence[Answer], name: str) -> list[Record]:
    return [
        replace(r, refinement=a.text, meta={**r.meta, "improved_by": name, "finish": a.finish})
        for r, a in zip(records, answers)
        if a.text is not None
    ]
