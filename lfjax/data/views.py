"""Views: which text a method shows the model, and which part of it carries loss.

A view that works on a response shows it as what it was, the assistant's turn, and asks for more in
a user's turn after it (`CRITIQUE_REQUEST`, `REFINE_REQUEST`): every chat template can render that,
and a model is asked for a critique as a person would ask for it. Only `judged` needs a place of its
own in the template, because there the judgment comes before the response.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from lfjax.data.records import Message, Record, RecordError


class Role(IntEnum):
    """What a supervised token is part of. A token outside of every supervised span has no role."""

    NONE = 0
    PLAIN = 1  # response after its prompt
    JUDGED = 2  # flawed response after prompt and judgment
    FLAWED = 3  # the same flawed response after its prompt alone
    PRAISED = 4  # the same flawed response after its prompt and a judgment that it does not deserve
    CRITIQUE = 5  # what is said of a response, after prompt, response and the request for it
    REFINED = 6  # the improved response after prompt, response, judgment and the request for it
    CHOSEN = 7  # the better response of a pair after its prompt
    REJECTED = 8  # the worse one
    DRAFT = 14  # a response that its own critique and refinement follow, in one turn
    IMPROVED = 9  # the better response after prompt, worse response and the request for a better
    # One response compared with another, shown as an improvement of it. Better with worse, each
    # with itself, worse with better:
    GAP_WL = 10
    GAP_WW = 11
    GAP_LL = 12
    GAP_LW = 13


GAPS = (Role.GAP_WL, Role.GAP_WW, Role.GAP_LL, Role.GAP_LW)


CRITIQUE_REQUEST = "Judge your last answer. Name each fault that it has, or say that it has none."
REFINE_REQUEST = (
    "Your last answer was judged as follows.\n\n{judgment}\n\nWrite the answer again, so that "
    "nothing of this is left to criticize. Give nothing but the new answer."
)
IMPROVE_REQUEST = "Write a better answer than your last one. Give nothing but the new answer."


@dataclass(frozen=True)
class Span:
    """A piece of a view's response with a role of its own. What `weight` is to the response, it is
    to the piece; with 0 the piece is shown and not learned."""

    role: Role
    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class View:
    """One text shown to the model: a prompt, perhaps a judgment, and a response whose tokens (and
    EOS) have a role.

    `weight` is what the mean over the response's tokens counts in the example's loss; with 0 the
    tokens are scored but not learned. `twin` is the index, among the views of the record, of the
    one whose same token is linked; `pair` of the one that it is compared with as a whole. Of a
    prompt that is too long, the last `kept` messages stay whole. `spans` are the pieces that
    the response is made of, where these have roles of their own; no token reaches over their
    borders. Without `ends` no EOS follows. `overlong` says what becomes of a text that is too long:
    `trim_prompt` takes tokens from the start of its prompt, `drop` leaves the record out.
    """

    role: Role
    prompt: tuple[Message, ...]
    response: str
    judgment: str | None = None
    weight: float = 1.0
    twin: int | None = None
    pair: int | None = None
    kept: int = 0
    spans: tuple[Span, ...] = ()
    ends: bool = True
    overlong: Literal["trim_prompt", "drop"] = "trim_prompt"


def plain(
    record: Record, role: Role = Role.PLAIN, *, weight: float = 1.0, twin: int | None = None
) -> View:
    """x → y."""
    return View(role, record.prompt, need_response(record), None, weight, twin)


def judged(
    record: Record,
    judgment: str,
    role: Role = Role.JUDGED,
    *,
    weight: float = 1.0,
    twin: int | None = None,
) -> View:
    """x, j → y."""
    return View(role, record.prompt, need_response(record), judgment, weight, twin)


def critique(
    record: Record, role: Role = Role.CRITIQUE, *, weight: float = 1.0, twin: int | None = None
) -> View:
    """x, y → j: what was said of the response, praise included."""
    shown = after_response(record, CRITIQUE_REQUEST)
    return View(role, shown, need_critique(record), None, weight, twin)


def refine(
    record: Record, role: Role = Role.REFINED, *, weight: float = 1.0, twin: int | None = None
) -> View:
    """x, y, j → y′."""
    shown = after_response(record, refine_request(need_judgment(record)))
    return View(role, shown, need_refinement(record), None, weight, twin)


def pair(record: Record) -> list[View]:
    """x, y⁺, y⁻: two plain views, the chosen response first. None for a record whose responses are
    all equally good, which says nothing of a preference."""
    roles = (Role.CHOSEN, Role.REJECTED)
    return [
        View(role, record.prompt, text, pair=1 - i)
        for i, (role, text) in enumerate(zip(roles, best_and_worst(record)))
    ]


def improve(record: Record) -> list[View]:
    """x, y_ref → y: the better response, where the worse one has been given. None for a record
    whose responses are all equally good. Raises: RecordError where one of the two is empty."""
    sides = need_sides(record)
    if not sides:
        return []
    better, worse = sides
    return [View(Role.IMPROVED, after_reference(record, worse), better, kept=2)]


def gap(record: Record) -> list[View]:
    """x, y_ref, y for the better and the worse response in all four pairings, in the order of
    `GAPS`, laid out as an improvement of the reference is (`improve`).

    `pair` makes a ring of them, each pointing to the next. None for a record whose responses are
    all equally good. Raises: RecordError where one of the two is empty.
    """
    sides = need_sides(record)
    if not sides:
        return []
    better, worse = sides
    pairings = ((better, worse), (better, better), (worse, worse), (worse, better))
    return [
        View(role, after_reference(record, reference), text, pair=(i + 1) % 4, kept=2)
        for i, (role, (text, reference)) in enumerate(zip(GAPS, pairings))
    ]


def refined(record: Record, role: Role = Role.PLAIN, *, weight: float = 1.0) -> View:
    """x → y′: the improved response as if it had been the first."""
    return View(role, record.prompt, need_refinement(record), None, weight)


def best(record: Record, role: Role = Role.PLAIN, *, weight: float = 1.0) -> list[View]:
    """x → y⁺: the response that the record prefers to another; none where it prefers none."""
    return [View(role, record.prompt, text, None, weight) for text in best_and_worst(record)[:1]]


def after_response(record: Record, request: str) -> tuple[Message, ...]:
    """The conversation with the response as the assistant's turn and a request about it. Raises:
    RecordError where there is no response."""
    turns = Message("assistant", need_response(record)), Message("user", request)
    return (*record.prompt, *turns)


def after_reference(record: Record, reference: str) -> tuple[Message, ...]:
    """The conversation with a response to it and the request for a better one: what an improver
    reads, in training and at inference, and what a gap reward reads before the candidate."""
    return (*record.prompt, Message("assistant", reference), Message("user", IMPROVE_REQUEST))


def refine_request(judgment: str) -> str:
    """The user's turn that asks for a better response, given what is said of the last one."""
    return REFINE_REQUEST.replace("{judgment}", judgment)


def best_and_worst(record: Record) -> tuple[str, str] | tuple[()]:
    """(better text, worse text) of a record, or nothing where it prefers neither.

    The first of these that the record has: a candidate marked as preferred and one marked as not;
    the candidates of the highest and the lowest score; the refinement over the response.

    Raises: RecordError where it has none of them.
    """
    marked = {p: [c.text for c in record.candidates if c.preferred is p] for p in (True, False)}
    scored = [(c.score, c.text) for c in record.candidates if c.score is not None]
    if marked[True] and marked[False]:
        better, worse = marked[True][0], marked[False][0]
    elif len(scored) > 1:
        (high, better), (low, worse) = max(scored, key=_score), min(scored, key=_score)
        if high == low:
            return ()
    elif record.refinement and record.response:
        better, worse = record.refinement, record.response
    else:
        raise RecordError(
            f"record '{record.id}' of {record.source}: holds no preference; this method needs "
            "candidates marked 'preferred' true and false, two scored candidates, or a response "
            "with a refinement."
        )
    return (better, worse) if better.strip() != worse.strip() else ()


def need_sides(record: Record) -> tuple[str, str] | tuple[()]:
    """`best_and_worst`, of which each is shown as a response that somebody gave. Raises:
    RecordError where one of them is empty, too."""
    sides = best_and_worst(record)
    if not all(text.strip() for text in sides):
        raise RecordError(
            f"record '{record.id}' of {record.source}: one of the two responses that it compares "
            "is empty; there is nothing to improve, or to compare with."
        )
    return sides


def _score(candidate: tuple[float, str]) -> float:
    return candidate[0]


def need_response(record: Record) -> str:
    """The response. Raises: RecordError where there is none."""
    if not record.response:
        raise RecordError(
            f"record '{record.id}' of {record.source}: has no response; this method needs one."
        )
    return record.response


def need_judgment(record: Record) -> str:
    """The texts of the feedback that finds fault, one a line. Raises: RecordError where there is no
    such text."""
    texts = [f.text.strip() for f in record.feedback if f.polarity != "positive" and f.text.strip()]
    if not texts:
        raise RecordError(
            f"record '{record.id}' of {record.source}: has no judgment text; this method needs "
            "one for every response "
            "that is not satisfactory."
        )
    return "\n".join(texts)


def need_critique(record: Record) -> str:
    """The texts of all feedback, one a line. Raises: RecordError where there is no text."""
    texts = [f.text.strip() for f in record.feedback if f.text.strip()]
    if not texts:
        raise RecordError(
            f"record '{record.id}' of {record.source}: nobody said anything of the response; this "
            "method needs a feedback with a text."
        )
    return "\n".join(texts)


def need_refinement(record: Record) -> str:
    """The improved response. Raises: RecordError where there is none."""
    if not record.refinement or not record.refinement.strip():
        raise RecordError(
            f"record '{record.id}' of {record.source}: has no refinement; this method needs one."
        )
    return record.refinement
