"""Ask many questions and lose no answer.

A question is a conversation; who answers it is an `Asker`: an endpoint, a model through the
sampler. `collect` looks every question up in a store of answers, asks only what is missing, and
makes each answer durable before it counts. Nothing here knows what is asked for: a judge's opinion
or a response to a prompt.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from typing import Any

from lfjax.data.records import Message
from lfjax.errors import UserError
from lfjax.judges.store import Entry, Store
from lfjax.training.logs import progress


@dataclass(frozen=True)
class Question:
    """A conversation to be continued by the one who is asked. `sample` tells apart the answers to
    the same conversation where several are wanted; `begin` is how the answer begins, in pieces over
    whose borders no token reaches, which only a local model can be told."""

    messages: tuple[Message, ...]
    sample: int = 0
    begin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
      text: the answer as it was given, or None where there is none.
      reason: why there is none.
      finish: how it ended: `stop`, `length` (cut off at the limit of tokens), …
      prompt_tokens, tokens: read and written, by all attempts.
      cost: of all attempts, in the currency of the prices.
      failures: what went wrong with each attempt that failed; there was one more where `text` is
        not None.
    """

    text: str | None
    reason: str | None = None
    finish: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0
    failures: tuple[str, ...] = ()

    @property
    def attempts(self) -> int:
        return len(self.failures) + (self.text is not None)


Asking = Generator[tuple[int, Answer], None, None]


@dataclass(frozen=True)
class Asker:
    """Who is asked.

    Attributes:
      name: what records call it, such as the model's name.
      identity: a JSON object of all that an answer depends on besides the question: kind, model,
        parameters. Never a key.
      ask: a generator. It takes questions one by one, whenever it has room, and yields (position,
        answer) as answers come, in any order; when no more questions come, it finishes those that
        it took. It raises UserError where going on has no point, and yields what it has before.
    """

    name: str
    identity: Mapping[str, Any]
    ask: Callable[[Iterable[Question]], Asking]


@dataclass(frozen=True)
class Collected:
    """Answers in the order of the questions, and how they came about.

    Attributes:
      answers: one a question; those without a text say why.
      stored: questions that an earlier run had answered.
      asked: the answers that came in this run, missing ones among them; one for each question that
        differs from the others.
      left: questions that were not asked, because of the budget or a stop.
      spent: cost of everything in the store.
    """

    answers: list[Answer]
    stored: int
    asked: list[Answer]
    left: int
    spent: float

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers for a log: what `asked` adds up to."""
        return {
            "questions": len(self.answers),
            "answered": sum(a.text is not None for a in self.answers),
            "stored_before": self.stored,
            "asked": len(self.asked),
            "left": self.left,
            "attempts": sum(a.attempts for a in self.asked),
            "prompt_tokens": sum(a.prompt_tokens for a in self.asked),
            "tokens": sum(a.tokens for a in self.asked),
            "cost": sum(a.cost for a in self.asked),
            "spent": self.spent,
        }

    @property
    def missing(self) -> Counter:
        """Reasons of the answers without a text."""
        return Counter(a.reason for a in self.answers if a.text is None)


def key_of(identity: Mapping[str, Any], question: Question) -> str:
    """Under what an answer is stored: a hash of who is asked what, for the how manieth time."""
    said = [[m.role, m.content] for m in question.messages]
    what = {"asker": identity, "messages": said, "sample": question.sample}
    if question.begin:
        what["begin"] = question.begin
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def collect(
    questions: Sequence[Question],
    asker: Asker,
    store: Store,
    *,
    budget: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
    leave: Callable[[Answer], bool] = lambda answer: False,
    name: str = "answers",
) -> Collected:
    """Answers to all questions, out of the store where it has them.

    Equal questions are asked once and share the answer. A failed request is noted in the store,
    with what it cost, and asked again by the next run.

    Args:
      budget: once the entries of the store have cost so much, nothing more is asked; what has been
        asked by then is still waited for and stored. None for no limit.
      stopped: asked before every question; once true, no more are asked.
      leave: asked after every answer; once true, those that are on their way are given up.
      name: of the line of progress.

    Raises: UserError for a budget that allows nothing where something is to be asked, and whatever
      the asker raises, with what is stored.
    """
    keys = [key_of(asker.identity, q) for q in questions]
    known = {key: _answer(store.get(key)) for key in keys}
    to_ask = {k: q for k, q in zip(keys, questions) if known[k] is None}
    stored = sum(key not in to_ask for key in keys)
    spent = sum(entry.get("cost", 0.0) for entry in store.entries)
    if to_ask and budget is not None and budget <= 0:
        raise UserError(
            f"budget={budget:g}: nothing may be asked, and {len(questions) - stored} of "
            f"{len(questions)} answers are not in {store.folder}."
        )
    taken: list[str] = []
    asked: dict[str, Answer] = {}
    failed = 0

    def take() -> Iterator[Question]:
        for key, question in to_ask.items():
            if stopped() or (budget is not None and spent >= budget):
                return
            taken.append(key)
            yield question

    with progress(name, done=len(known) - len(to_ask), total=len(known), unit="answer") as line:
        try:
            # Where all is stored, nobody is asked: neither key nor server is needed.
            with closing(asker.ask(take()) if to_ask else _nothing()) as coming:
                for position, answer in coming:
                    store.put(taken[position], _entry(answer))
                    asked[taken[position]] = answer
                    spent += answer.cost
                    failed += answer.text is None
                    line.set_postfix(missing=failed, cost=f"{spent:.4g}", refresh=False)
                    line.update()
                    if leave(answer):
                        break
        except UserError as error:
            answered = {k for k, a in {**known, **asked}.items() if a and a.text is not None}
            raise UserError(
                f"{error} {sum(key in answered for key in keys)} of {len(questions)} answers are "
                f"stored in {store.folder}; the same command goes on from there."
            ) from None
    why = "stopped" if stopped() else "budget spent"
    left = {key: Answer(None, f"not asked: {why}") for key in to_ask if key not in asked}
    answers = {**known, **left, **asked}
    return Collected([answers[key] for key in keys], stored, list(asked.values()), len(left), spent)


def answered(store: Store, asker: Asker, questions: Iterable[Question]) -> set[str]:
    """Keys of the questions that the store has an answer to."""
    keys = (key_of(asker.identity, q) for q in questions)
    return {key for key in keys if _answer(store.get(key)) is not None}


def share(questions: Iterable[Question], asker: Asker, index: int, count: int) -> list[Question]:
    """What one of several processes asks, so that each of the different questions is asked once."""
    different = {key_of(asker.identity, q): q for q in questions}
    return list(different.values())[index::count]


def recall(
    questions: Sequence[Question], asker: Asker, before: Container[str], store: Store
) -> Collected:
    """What several processes collected, each a share, as the store has it afterwards.

    Args:
      before: keys of what was answered before.
    """
    keys = [key_of(asker.identity, q) for q in questions]
    entries = {key: store.get(key) for key in keys}
    found = {
        key: Answer(None, "not asked") if entry is None else _as_answer(entry)
        for key, entry in entries.items()
    }
    asked = [found[k] for k, entry in entries.items() if entry is not None and k not in before]
    left = sum(entry is None for entry in entries.values())
    spent = sum(entry.get("cost", 0.0) for entry in store.entries)
    stored = sum(key in before for key in keys)
    return Collected([found[key] for key in keys], stored, asked, left, spent)


def _nothing() -> Asking:
    yield from ()


def _entry(answer: Answer) -> Entry:
    """An answer as it is stored, without what is empty."""
    return {k: v for k, v in asdict(answer).items() if v or k == "text"}


def _answer(entry: Entry | None) -> Answer | None:
    """The answer in an entry; None where there is none, or it is the note of a failed request."""
    return None if entry is None or entry.get("text") is None else _as_answer(entry)


def _as_answer(entry: Entry) -> Answer:
    given = {f.name: entry[f.name] for f in fields(Answer) if f.name in entry}
    return Answer(**{**given, "failures": tuple(entry.get("failures", ()))})
