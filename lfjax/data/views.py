"""Views: which text a method shows the model, and which part of it carries loss."""

from dataclasses import dataclass
from enum import IntEnum

from lfjax.data.records import Message, Record, RecordError


class Role(IntEnum):
    """What a supervised token is part of. A token outside of every supervised span has no role."""

    NONE = 0
    PLAIN = 1  # response after its prompt
    JUDGED = 2  # flawed response after prompt and judgment
    FLAWED = 3  # the same flawed response after its prompt alone
    PRAISED = 4  # the same flawed response after its prompt and a judgment that it does not deserve


@dataclass(frozen=True)
class View:
    """One text shown to the model: a prompt, perhaps a judgment, and a response whose tokens (and
    EOS) have a role.

    `weight` is what the mean over the response's tokens counts in the example's loss; with 0 the
    tokens are scored but not learned. `twin` is the index, among the views of the record, of the
    one whose same token is linked.
    """

    role: Role
    prompt: tuple[Message, ...]
    response: str
    judgment: str | None = None
    weight: float = 1.0
    twin: int | None = None


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
