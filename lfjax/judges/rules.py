"""The `rule` judge: a Python function named in the config, and a few that are ready to be named.

A rule is (Record, **options) -> Feedback, or a Critique with an improved response, or None where it
cannot say. It needs no store: it is asked again for nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lfjax.data.records import Feedback, Record, RecordError
from lfjax.data.views import need_response
from lfjax.errors import UserError
from lfjax.judges.parsing import Critique
from lfjax.named import find_function

Rule = Callable[[Record], Feedback | Critique | None]

FINISHED = re.compile(r"[.!?…][\"'”’)\]]*\Z")
QUOTED = re.compile(r"[\"“]([\w'-]+)[\"”]")
NUMBER = re.compile(r"-?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?")


def load_rule(
    name: str, options: Mapping[str, Any] | None = None
) -> Callable[[Record], Feedback | None]:
    """`load_critic`, without the improved responses."""
    critic = load_critic(name, options)

    def rule(record: Record) -> Feedback | None:
        said = critic(record)
        return said.feedback if isinstance(said, Critique) else said

    return rule


def load_critic(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The function that `package.module:function` names, with options filled in. What it returns is
    checked, and the judgment gets the rule's name as its author.

    Raises: UserError if there is no such function. The rule raises it where the function fails.
    """
    function = find_function("rule", name)

    def rule(record: Record) -> Feedback | Critique | None:
        where = f"rule '{name}' on record '{record.id}' of {record.source}"
        try:
            said = function(record, **(options or {}))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where}: {type(error).__name__}: {error}") from error
        if said is None:
            return None
        opinion = said.feedback if isinstance(said, Critique) else said
        if not isinstance(opinion, Feedback):
            raise UserError(
                f"{where}: gave {type(said).__name__}, expected Feedback, Critique or None."
            )
        opinion = replace(opinion, author=opinion.author or name)
        return replace(said, feedback=opinion) if isinstance(said, Critique) else opinion

    return rule


def story(record: Record, *, banned: Sequence[str] = ()) -> Feedback:
    """Satisfied if the story contains the words that were asked for and none of `banned`, and ends
    with a finished sentence. Words count whole, whatever their case.

    The words asked for are `meta["words"]` (a text or a list), or else what the last message of the
    prompt quotes.

    Raises: RecordError where no word is asked for.
    """
    text = need_response(record)
    used = {w.casefold() for w in re.findall(r"[\w'-]+", text)}
    faults = [f'It does not contain the word "{w}".' for w in _wanted(record) if not _in(w, used)]
    faults += [f'It contains the word "{w}", which it must not.' for w in banned if _in(w, used)]
    if not FINISHED.search(text.rstrip()):
        faults.append("It does not end with a finished sentence.")
    return _verdict(faults)


def length(record: Record, *, at_least: int = 0, at_most: int | None = None) -> Feedback:
    """Satisfied if the response has so many words."""
    words = len(need_response(record).split())
    if words < at_least:
        return _verdict([f"It has {words} words, fewer than {at_least}."])
    if at_most is not None and words > at_most:
        return _verdict([f"It has {words} words, more than {at_most}."])
    return _verdict([])


def last_number(record: Record) -> Feedback:
    """Satisfied if the last number in the response is `meta["answer"]`, as for arithmetic problems.

    Raises: RecordError where `meta` has no answer that is a number.
    """
    right, given = (
        NUMBER.findall(t) for t in (str(record.meta.get("answer", "")), need_response(record))
    )
    if not right:
        raise RecordError(
            f"record '{record.id}' of {record.source}: meta has no number 'answer', which the rule "
            "compares with."
        )
    if not given:
        return _verdict([f"It gives no number; the answer is {right[-1]}."])
    value, expected = (float(n[-1].replace(",", "")) for n in (given, right))
    wrong = f"It arrives at {given[-1]}, but the answer is {right[-1]}."
    return _verdict([] if value == expected else [wrong])


def _wanted(record: Record) -> list[str]:
    words = record.meta.get("words") or QUOTED.findall(record.prompt[-1].content)
    words = [words] if isinstance(words, str) else list(words)
    if not words:
        raise RecordError(
            f"record '{record.id}' of {record.source}: no word is asked for, neither by meta.words "
            "nor in quotes in the prompt."
        )
    return words


def _in(word: str, used: set[str]) -> bool:
    return word.casefold() in used


def _verdict(faults: list[str]) -> Feedback:
    """Praise, or everything that is wrong."""
    if faults:
        return Feedback(" ".join(faults), "negative")
    return Feedback("Perfect.", "positive")
