"""The text of a model that criticises and refines its own answer, as one assistant turn (Hu et al.
2024, arXiv 2406.07168, equation 1): the response, feedback on it, and the refinement, each under
its heading. Here it is written for training and begun for inference.
"""

import re

from lfjax.data.critiques import PARTS, parts_left, reduced
from lfjax.data.records import Record, RecordError
from lfjax.data.views import Role, Span, View, need_critique, need_refinement, need_response
from lfjax.errors import UserError, nearest

FEEDBACK_HEADING = "\n\n### Feedback\n"
REFINEMENT_HEADING = "\n\n### Improved Response\n"

# What can be left out of the text. The ablations of the paper's table 6: a part of the feedback,
# the feedback, or all but the refinement. A control: all of the feedback but its score (words).
LEAVE_OUT = ("", *PARTS, "words", "feedback", "draft")

TAKEN = re.compile(
    r"^[ \t]*(?:#+[ \t]*(?:feedback|improved[ \t]+response)\b|<\|(?:user|assistant|system)\|>)",
    re.IGNORECASE | re.MULTILINE,
)


def self_refine(record: Record, *, leave_out: str = "", loss_on_response: bool = True) -> View:
    """x → y, j, y′, with loss on all three and their headings.

    A text that is too long is dropped: cut short, it would lose the refinement.

    Args:
      leave_out: of `LEAVE_OUT`.
      loss_on_response: without it the response is shown and not learned.

    Raises: RecordError for a record that lacks one of the texts, whose feedback cannot be taken
    apart, or in which a text holds a heading of its own.
    """
    refinement = need_refinement(record).strip()
    parts = [Span(Role.REFINED, refinement)]
    if leave_out != "draft":
        response = need_response(record).strip()
        draft = Span(Role.DRAFT, response, 1.0 if loss_on_response else 0.0)
        parts = [draft, Span(Role.REFINED, REFINEMENT_HEADING), *parts]
        if leave_out != "feedback":
            feedback = feedback_text(record, leave_out)
            said = Span(Role.CRITIQUE, FEEDBACK_HEADING), Span(Role.CRITIQUE, feedback)
            parts = [draft, *said, *parts[1:]]
    for text in (*(m.content for m in record.prompt), *(p.text for p in parts if _own(p.text))):
        if found := TAKEN.search(text):
            raise RecordError(
                f"record '{record.id}' of {record.source}: a line begins with "
                f"'{found[0].strip()}', which marks a part of a self-refinement's text."
            )
    whole = "".join(p.text for p in parts)
    return View(Role.REFINED, record.prompt, whole, spans=tuple(parts), overlong="drop")


def feedback_text(record: Record, leave_out: str = "") -> str:
    """What was said of the response, less what is left out. Raises: RecordError where there is
    nothing, or it has no such part."""
    text, parts = need_critique(record), parts_left(leave_out)
    if len(parts) == len(PARTS):
        return text
    kept = reduced(text, parts)
    if kept is None:
        left = " and ".join(part for part in PARTS if part not in parts)
        raise RecordError(
            f"record '{record.id}' of {record.source}: in its feedback the {left}, to be left out, "
            "cannot be told from the rest; expected titles such as 'Weaknesses:', 'Advice:' and "
            "'Overall Score:', each at the beginning of a line."
        )
    return kept


def check_refines(leave_out: str) -> None:
    """Raises: UserError where a model that was taught to leave this out refines nothing: for what
    is none of `LEAVE_OUT`, and for `draft`."""
    if leave_out not in LEAVE_OUT:
        raise UserError(f"leave_out='{leave_out}'. {nearest(leave_out, filter(None, LEAVE_OUT))}")
    if leave_out == "draft":
        raise UserError(
            "leave_out=draft: such a model writes refinements at once and has no answer to refine; "
            "ask it without self_refine."
        )


def begun(response: str, leave_out: str = "") -> tuple[str, ...]:
    """How the turn begins at inference, after a response: the heading is not left to the model."""
    return (response.strip(), _after_response(leave_out))


def stop_of(leave_out: str = "") -> str:
    """Where a response ends, if the model goes on after it."""
    return _after_response(leave_out).strip()


def begun_with(response: str, feedback: str) -> tuple[str, ...]:
    """How the turn begins where the feedback is another one's."""
    return (response.strip(), FEEDBACK_HEADING, feedback.strip(), REFINEMENT_HEADING)


def _after_response(leave_out: str) -> str:
    return REFINEMENT_HEADING if leave_out == "feedback" else FEEDBACK_HEADING


def _own(text: str) -> bool:
    return text not in (FEEDBACK_HEADING, REFINEMENT_HEADING)
