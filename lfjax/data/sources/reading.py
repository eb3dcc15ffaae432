"""What all sources share: parsed rows out of a file, typed fields out of a row, turns out of a
list of messages, pairs out of scored candidates."""

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lfjax.data.records import Message, Record, RecordError
from lfjax.errors import UserError

# How chat files name the speakers, on the left, and how a Record does.
SPEAKERS = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


@dataclass(frozen=True)
class Dropped:
    """In the place of a record: a well-formed one that its source leaves out, and the reason to
    count it under."""

    reason: str


Yielded = Iterator[Record | Dropped]  # what a source makes of one row
SAME = Dropped("chosen equals rejected")


def read_json(
    path: str, on_bad_line: Callable[[RecordError], None] | None = None
) -> Iterator[tuple[str, Any]]:
    """(place, object) for each element of a JSON array or line of a JSONL file, plain or gzipped,
    and for each record of a TFDS dataset's directory.

    Raises: UserError if the file is absent or not JSON; RecordError for a bad line, unless
    `on_bad_line` takes it.
    """
    file = Path(path)
    if "://" in path or file.is_dir():
        yield from _tfds_rows(path)
        return
    if not file.is_file():
        raise UserError(f"{path}: no such file. Set data.path to a file of records.")
    opener = gzip.open if file.suffix == ".gz" else open
    kind = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    try:
        with opener(file, "rt", encoding="utf-8") as stream:
            if kind == ".json":
                rows = json.load(stream)
                if not isinstance(rows, list):
                    raise UserError(
                        f"{path}: holds one {type(rows).__name__}, expected a JSON array of "
                        "records."
                    )
                yield from ((f"{path}[{i}]", row) for i, row in enumerate(rows))
                return
            for number, line in enumerate(stream, 1):
                where = f"{path}:{number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    bad = RecordError(f"{where}: not JSON ({error.msg} at column {error.colno}).")
                    if on_bad_line is None:
                        raise bad from None
                    on_bad_line(bad)
                    continue
                yield where, row
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})."
        ) from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None


def _tfds_rows(path: str) -> Iterator[tuple[str, Any]]:
    from lfjax.data import tfds_adapter

    if not tfds_adapter.is_tfds(path):
        raise UserError(
            f"{path}: holds no dataset_info.json; expected a file of records, or the directory of "
            "a TFDS dataset."
        )
    yield from tfds_adapter.rows(path)


# --- fields of a row --------------------------------------------------------------------------


def has_fields(row: Any, where: str) -> dict[str, Any]:
    """The row itself. Raises: RecordError unless it is an object."""
    if not isinstance(row, dict):
        raise RecordError(f"{where}: found {type(row).__name__}, expected an object.")
    return row


def value(row: Any, name: str, kind: type, where: str, *, optional: bool = False) -> Any:
    """A field of a type, or None where it is optional and absent or null.

    Raises: RecordError naming the field, and for a missing one those that the row has.
    """
    found = has_fields(row, where).get(name)
    if found is None and optional:
        return None
    if found is None:
        raise RecordError(
            f"{where}: field '{name}' is missing; the record has "
            f"{', '.join(map(str, row)) or 'none'}."
        )
    # True is an int to Python, and a mistake to everybody else.
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        expected = {str: "text", list: "a list", dict: "an object"}.get(kind, kind.__name__)
        raise RecordError(
            f"{where}: field '{name}' is {type(found).__name__}, expected {expected}."
        )
    return found


def text(row: Any, name: str, where: str, *, optional: bool = False) -> str | None:
    """A field's text, which may be empty. Raises: RecordError as `value` does."""
    return value(row, name, str, where, optional=optional)


def full_text(row: Any, name: str, where: str) -> str:
    """A field's text. Raises: RecordError where it is missing, no text, or blank."""
    found = text(row, name, where)
    if not found.strip():
        raise RecordError(f"{where}: field '{name}' is empty; expected a text.")
    return found


def one_of(options: dict[str, Any], name: str, *known: str) -> str:
    """An option's value. Raises: UserError unless it is one of the known ones."""
    if options[name] not in known:
        raise UserError(f"data: {name} is '{options[name]}', expected {' or '.join(known)}.")
    return options[name]


def place(where: str) -> str:
    """The id of a row that has none: its file's name and line."""
    return where.replace("\\", "/").rpartition("/")[2]


def identity(row: dict[str, Any], name: str, where: str) -> str:
    """The text of the id field, or the row's place where it is absent or empty."""
    found = row.get(name) if name else None
    return place(where) if found in (None, "") else str(found)


# --- turns ------------------------------------------------------------------------------------


def turns(found: Any, name: str, where: str) -> tuple[Message, ...]:
    """Messages from a list of {role, content} or {from, value} objects.

    Perhaps a system message first, then user and assistant in turns.

    Raises: RecordError naming the field, the number of the message, and what is wrong with it.
    """
    if not isinstance(found, (list, tuple)) or not found:
        kind = "empty" if isinstance(found, (list, tuple)) else type(found).__name__
        raise RecordError(f"{where}: field '{name}' is {kind}, expected a list of messages.")
    out = []
    for i, item in enumerate(found):
        here = f"{where}: {name}[{i}]"
        speaker, words = (
            ("from", "value") if "from" in has_fields(item, here) else ("role", "content")
        )
        role = text(item, speaker, here)
        if role not in SPEAKERS:
            known = ", ".join(SPEAKERS)
            raise RecordError(f"{here}: field '{speaker}' is '{role}', expected one of {known}.")
        out.append(Message(SPEAKERS[role], full_text(item, words, here)))
    return in_turns(out, name, where)


def in_turns(messages: list[Message], name: str, where: str) -> tuple[Message, ...]:
    """The messages. Raises: RecordError where the speakers are out of order."""
    start = int(messages[0].role == "system")
    for i, message in enumerate(messages[start:]):
        expected = ("user", "assistant")[i % 2]
        if message.role != expected:
            raise RecordError(
                f"{where}: {name}[{start + i}] is the {message.role}'s where the {expected}'s turn "
                "was expected; a system message may come first, then user and assistant alternate."
            )
    return tuple(messages)


def ends_with(messages: tuple[Message, ...], role: str, name: str, where: str) -> None:
    """Raises: RecordError unless the last message is the role's."""
    if messages[-1].role != role:
        raise RecordError(
            f"{where}: field '{name}' ends with the {messages[-1].role}'s turn, expected the "
            f"{role}'s."
        )


# --- pairs ------------------------------------------------------------------------------------


def paired(record: Record, options: dict[str, Any]) -> Yielded:
    """What the option `pairs` makes of a record with scored candidates.

    `best_worst` leaves it as it is: the view of a pair takes the best and the worst of them. With
    `all` every two of them become a Record, the better one marked as preferred; its id ends with
    their numbers, `…/2-0` where candidate 2 has the higher score. Two that score or read the same
    are dropped. A record whose candidates are marked already, or that has no two scored ones, stays
    as it is.

    Source: the data of the DPO baseline in Xu et al. 2024 (all pairs of four responses, those of
    equal reward dropped).
    """
    every = one_of(options, "pairs", "best_worst", "all") == "all"
    marked = {True, False} <= {c.preferred for c in record.candidates}
    scored = [(i, c) for i, c in enumerate(record.candidates) if c.score is not None]
    if not every or marked or len(scored) < 2:
        yield record
        return
    for two in itertools.combinations(scored, 2):
        (i, bad), (j, good) = sorted(two, key=lambda item: item[1].score)
        if bad.score == good.score:
            yield Dropped("pair of equal scores")
        elif bad.text.strip() == good.text.strip():
            yield SAME
        else:
            candidates = replace(good, preferred=True), replace(bad, preferred=False)
            yield replace(record, id=f"{record.id}/{j}-{i}", candidates=candidates)
