"""Judges: who says what is good or bad about a response.

A judge that answers in words is asked questions made by a template, and a parser reads its answers
(`JUDGES`). Whom to ask is an `Asker`: an endpoint, or a model through the sampler. So the way is
records → `questions_of` → `collect` → `apply` → records. A rule (`lfjax.judges.rules`) is a plain
function of a Record and needs none of this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lfjax.data.records import Feedback, Record, RecordError
from lfjax.data.self_refine import begun
from lfjax.data.views import need_critique, need_response
from lfjax.errors import UserError, nearest
from lfjax.judges import parsing
from lfjax.judges.asking import Answer, Question
from lfjax.judges.parsing import CUT_OFF, Critique, Missing, Verdict
from lfjax.judges.templates import FOLDER, messages_of

NOT_JUDGED = "not_judged"  # in a record's meta: why, and what was said


@dataclass(frozen=True)
class Judge:
    """How a kind of judgment is asked for, and what is made of the answers.

    Attributes:
      template: the Jinja file of a question; None where a model goes on after the response in its
        own words, under the heading of feedback.
      shown: for each question about a record the template's fields, or, without a template, how
        the answer begins. Raises: RecordError.
      read: the texts of the answers to these questions -> what they say, or why nothing.
      filled: the record with what was said of it, by an author.
      enough: what an answer that was cut off has to have for what is read of it; None if all of it
        is needed.
    """

    template: Path | None
    shown: Callable[[Record], list[Any]]
    read: Callable[..., Any]
    filled: Callable[[Record, Any, str], Record]
    enough: Callable[[str], bool] | None = None


def _response(record: Record) -> list[dict[str, str]]:
    return [{"instruction": _instruction(record), "response": need_response(record)}]


def _own_turn(record: Record, leave_out: str = "") -> list[tuple[str, ...]]:
    return [begun(need_response(record), leave_out)]


def _two_orders(record: Record) -> list[dict[str, str]]:
    if len(record.candidates) != 2:
        raise RecordError(
            f"record '{record.id}' of {record.source}: has {len(record.candidates)} candidates; a "
            "preference is asked for between two."
        )
    a, b = (c.text for c in record.candidates)
    told = {"instruction": _instruction(record)}
    return [{**told, "first": a, "second": b}, {**told, "first": b, "second": a}]


def _instruction(record: Record) -> str:
    """The prompt as one text: a lone message as it is, a conversation with its speakers."""
    if len(record.prompt) == 1:
        return record.prompt[0].content
    return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in record.prompt)


def _with_feedback(record: Record, said: Feedback, author: str) -> Record:
    return replace(record, feedback=(*record.feedback, replace(said, author=author)))


def _with_critique(record: Record, said: Critique, author: str) -> Record:
    record = replace(record, refinement=said.refinement)
    return record if said.feedback is None else _with_feedback(record, said.feedback, author)


def _with_preference(record: Record, said: Verdict, author: str) -> Record:
    """A tie prefers neither; `meta` tells it from a pair that nobody has judged."""
    marks = {"first": (True, False), "second": (False, True), "tie": (None, None)}[said]
    pair = tuple(replace(c, preferred=mark) for c, mark in zip(record.candidates, marks))
    return replace(record, candidates=pair, meta={**record.meta, "preference": said})


def _preference(straight: str, swapped: str) -> Verdict | Missing:
    return parsing.both_orders(parsing.verdict(straight), parsing.verdict(swapped))


# A critique of which the score alone is wanted.
_SCORE = dict(read=parsing.critique_score, filled=_with_feedback, enough=parsing.beyond_feedback)

JUDGES: dict[str, Judge] = {
    "cut": Judge(FOLDER / "cut.jinja", _response, parsing.cut_judgment, _with_feedback),
    "judgment": Judge(
        FOLDER / "judgment.jinja", _response, parsing.decided_judgment, _with_feedback
    ),
    "score": Judge(FOLDER / "score.jinja", _response, parsing.scored_judgment, _with_feedback),
    "critique": Judge(FOLDER / "critique.jinja", _response, parsing.critique, _with_critique),
    "critique_score": Judge(FOLDER / "critique.jinja", _response, **_SCORE),
    "self": Judge(None, _own_turn, parsing.own_critique, _with_critique),
    "self_score": Judge(None, _own_turn, **_SCORE),
    "preference": Judge(FOLDER / "preference.jinja", _two_orders, _preference, _with_preference),
}


def get_judge(kind: str, template: str = "", leave_out: str = "") -> Judge:
    """A judge by the kind of its judgments, with one's own template in place of the shipped one.

    Args:
      leave_out: of `self`: what the model was taught to leave out of its text.

    Raises: UserError listing the known kinds, or for a template where none is shown.
    """
    if kind not in JUDGES:
        raise UserError(f"judge: unknown kind '{kind}'. {nearest(kind, JUDGES)}")
    judge = JUDGES[kind]
    if judge.template is None:
        if template:
            raise UserError(
                f"judge '{kind}': shows no question; it takes no template of one's own."
            )
        if judge.enough:  # a score is what it reads, whatever else was left out
            return judge
        shown = partial(_own_turn, leave_out=leave_out)
        return replace(judge, shown=shown, read=partial(judge.read, leave_out=leave_out))
    return replace(judge, template=Path(template)) if template else judge


def questions_of(record: Record, judge: Judge) -> list[Question]:
    """What the judge is asked about a record: one question, or two in two orders.

    Raises: UserError for a bad template; RecordError for a record without what is to be judged.
    """
    if judge.template is None:
        return [Question(record.prompt, begin=begin) for begin in judge.shown(record)]
    return [Question(messages_of(judge.template, fields)) for fields in judge.shown(record)]


def apply(
    record: Record, judge: Judge, answers: Sequence[Answer], author: str
) -> tuple[Record, str | None]:
    """The record with its judgment, and why it has none.

    A judgment is missing where an answer is, was cut off, or cannot be read: then the record is as
    it was, but for `meta["not_judged"]`, which keeps the reason and the raw answers.
    """
    meta = {k: v for k, v in record.meta.items() if k != NOT_JUDGED}
    reason = next(filter(None, (_unusable(a, judge.enough) for a in answers)), None)
    if reason is None:
        said = judge.read(*(a.text for a in answers))
        if not isinstance(said, Missing):
            return judge.filled(replace(record, meta=meta), said, author), None
        reason = said.reason
    note = {"reason": reason, "answers": [a.text for a in answers]}
    return replace(record, meta={**meta, NOT_JUDGED: note}), reason


def _unusable(answer: Answer, enough: Callable[[str], bool] | None) -> str | None:
    if answer.text is None:
        return answer.reason
    cut = answer.finish == "length" and not (enough and enough(answer.text))
    return CUT_OFF if cut else None


def lesson(record: Record) -> Record:
    """A judged response as an example for a judgment model: the question that it will be asked, and
    the judgment with its verdict as the response (Xu et al. 2024, section on judgment models).

    Raises: RecordError for a record without a response, and for one that is not satisfactory, or
      that nobody has judged, and has no judgment's text.
    """
    (question,) = questions_of(record, JUDGES["judgment"])
    if record.satisfactory:
        said = Feedback(" ".join(f.text.strip() for f in record.feedback).strip(), "positive")
    else:
        said = Feedback(need_critique(record), "negative")
    answer = parsing.decided(said)
    return Record(record.id, record.source, question.messages, answer, meta=record.meta)
