"""Sources: files in, Records out. `load` reads a list of sources and says what became of every
record.

A source is a function (rows, options) -> Records over parsed JSON objects, in the dict `SOURCES`.
"""

import gzip
import json
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lfjax.data.records import Feedback, Message, Record, RecordError, number
from lfjax.errors import UserError, nearest

ERROR_JUDGMENT = "$ERROR$"  # what the CUT authors' files hold where the call to the judge failed
SATISFACTORY_SCORE = (
    7  # the released CUT trainer takes a score from here on as satisfactory, whatever the judgment
)


class Dropped(Exception):
    """A well-formed record that its source leaves out, with the reason to count it under."""


@dataclass
class Loaded:
    """Records with the story of their reading: `dropped` counts reasons, `skipped` keeps the
    messages of bad records."""

    records: list[Record]
    dropped: Counter = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)


def load(
    path: str,
    source: str,
    *,
    options: dict[str, Any] | None = None,
    downsample: float = -1.0,
    seed: int = 42,
    on_error: str = "stop",
) -> Loaded:
    """Read one file (.json array, .jsonl, or either with .gz) into validated Records.

    Args:
      source: a name of `SOURCES`.
      options: the source's own options.
      downsample: keep at most int(downsample · flawed) satisfactory records, drawn without
        replacement in the file's order (`downsample_satisfactory`); negative keeps all.
      on_error: `stop` at the first malformed record, or `skip` and count it.

    Raises: UserError for a missing or unreadable file, an unknown source or option; RecordError for
    a bad record.
    """
    if source not in SOURCES:
        raise UserError(f"data: unknown source '{source}'. {nearest(source, SOURCES)}")
    if on_error not in ("stop", "skip"):
        raise UserError(f"data: on_error is '{on_error}', expected stop or skip.")
    convert, defaults = SOURCES[source]
    options = dict(options or {})
    for name in options:
        if name not in defaults:
            raise UserError(
                f"data: source '{source}' has no option '{name}'. {nearest(name, defaults)}"
            )
    options = {**defaults, **options}
    out = Loaded([])
    seen: dict[str, str] = {}
    for where, row in read_json(path, on_bad_line=_on_bad(out, on_error)):
        try:
            record = convert(row, where, options)
            if record.id in seen:
                raise RecordError(
                    f"{where}: id '{record.id}' was already used at {seen[record.id]}; "
                    "ids must differ."
                )
            seen[record.id] = where
            out.records.append(record)
        except Dropped as reason:
            out.dropped[str(reason)] += 1
        except RecordError as error:
            _on_bad(out, on_error)(error)
    if not out.records:
        raise UserError(
            f"{path}: no record is left of source '{source}' "
            f"({sum(out.dropped.values())} dropped, {len(out.skipped)} malformed). Is it the "
            "right file?"
        )
    kept = downsample_satisfactory(out.records, downsample, seed)
    if len(kept) < len(out.records):
        out.dropped["satisfactory, down-sampled"] += len(out.records) - len(kept)
    out.records = kept
    return out


def _on_bad(out: Loaded, on_error: str):
    def handle(error: RecordError):
        if on_error == "stop":
            raise RecordError(
                f"{error} (data.on_error=skip would leave it out and count it.)"
            ) from None
        out.skipped.append(str(error))

    return handle


def downsample_satisfactory(records: list[Record], ratio: float, seed: int) -> list[Record]:
    """Keep int(ratio · flawed) satisfactory records, drawn without replacement, in order.

    A negative ratio keeps all. Source: the released CUT trainer, finetune_unlikelihood.py 482-489.

    Raises: UserError if there is no flawed record to count by.
    """
    good = [i for i, r in enumerate(records) if r.satisfactory]
    flawed = len(records) - len(good)
    if ratio >= 0 and not flawed:
        raise UserError(
            f"data.downsample={ratio} keeps satisfactory records in proportion to flawed ones, and "
            f"all {len(good)} are satisfactory; set it to -1 to keep them."
        )
    keep = int(ratio * flawed)
    if ratio < 0 or keep >= len(good):
        return records
    chosen = set(random.Random(seed).sample(good, keep))
    return [r for i, r in enumerate(records) if not r.satisfactory or i in chosen]


def read_json(
    path: str, on_bad_line: Callable[[RecordError], None] | None = None
) -> Iterator[tuple[str, Any]]:
    """(place, object) for each element of a JSON array or line of a JSONL file, plain or gzipped.

    Raises: UserError if the file is absent or not JSON; RecordError for a bad line, unless
    `on_bad_line` takes it.
    """
    file = Path(path)
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


# --- the sources ------------------------------------------------------------------------------


def from_records(row: Any, where: str, options: dict[str, Any]) -> Record:
    """lfjax's own Records."""
    return Record.from_json(row, where)


def from_cut(row: Any, where: str, options: dict[str, Any]) -> Record:
    """The CUT authors' format: {id, instruction, input, output, judgment | null, score?}.

    A null judgment means a satisfactory response, and so does a score of at least 7, whatever the
    judgment; a record without the field `judgment` is malformed. A non-empty input follows the
    instruction after a newline. Judgments `$ERROR$`, failed calls that the released trainer takes
    for negative judgments, are dropped unless `error_judgments` is `keep`.
    """
    if options["error_judgments"] not in ("drop", "keep"):
        raise UserError(
            f"data: error_judgments is '{options['error_judgments']}', expected drop or keep."
        )
    text = _column_reader(row, where)
    instruction, response = text("instruction"), text("output")
    extra, judgment = text("input", optional=True), text("judgment", optional=True)
    if "judgment" not in row:
        raise RecordError(
            f"{where}: field 'judgment' is missing; a satisfactory response has null."
        )
    score = number(row, "score", where)
    if judgment == ERROR_JUDGMENT and options["error_judgments"] == "drop":
        raise Dropped(f"judgment is {ERROR_JUDGMENT}")
    good = judgment is None or (score is not None and score >= SATISFACTORY_SCORE)
    prompt = f"{instruction}\n{extra}" if extra else instruction
    feedback = (Feedback(judgment or "", "positive" if good else "negative", score=score),)
    return _record(row, where, "cut", prompt, response, feedback)


def from_columns(row: Any, where: str, options: dict[str, Any]) -> Record:
    """Any JSON objects, by column names.

    Options `prompt`, `response`, `judgment`, `score`, `input` and `id` name columns; an empty name
    is a column that the file does not have. A response is satisfactory when its judgment is null or
    empty, equals `satisfactory` (compared without case), or when its score reaches
    `satisfactory_score`. Without the judgment's field and without a score to compare, nobody has
    judged it.
    """
    text = _column_reader(row, where)
    prompt, response = text(options["prompt"]), text(options["response"])
    extra = text(options["input"], optional=True) if options["input"] else None
    judgment = text(options["judgment"], optional=True)
    score = number(row, options["score"], where) if options["score"] else None
    scored = score is not None and math.isfinite(options["satisfactory_score"])
    word = (judgment or "").strip().rstrip(".").casefold()
    good = options["judgment"] in row and word in ("", options["satisfactory"].casefold())
    good |= scored and score >= options["satisfactory_score"]
    feedback = (Feedback(judgment or "", "positive" if good else "negative", score=score),)
    if options["judgment"] not in row and not scored:
        feedback = ()
    prompt = f"{prompt}\n{extra}" if extra else prompt
    return _record(row, where, "jsonl", prompt, response, feedback, id_column=options["id"])


def _column_reader(row, where):
    if not isinstance(row, dict):
        raise RecordError(f"{where}: found {type(row).__name__}, expected an object.")

    def text(name, optional=False):
        value = row.get(name)
        if value is None and optional:
            return None
        if value is None:
            raise RecordError(
                f"{where}: field '{name}' is missing; the record has "
                f"{', '.join(map(str, row)) or 'none'}."
            )
        if not isinstance(value, str):
            raise RecordError(f"{where}: field '{name}' is {type(value).__name__}, expected text.")
        return value

    return text


def _record(row, where, source, prompt, response, feedback, id_column="id") -> Record:
    if not prompt.strip():
        raise RecordError(f"{where}: the prompt is empty.")
    if not response.strip():
        raise RecordError(f"{where}: the response is empty.")
    place = where.rpartition("/")[2]
    identity = row.get(id_column)
    return Record(
        id=place if identity in (None, "") else str(identity),
        source=source,
        prompt=(Message("user", prompt),),
        response=response,
        feedback=feedback,
    )


# name -> (converter, its options with defaults)
SOURCES: dict[str, tuple[Callable[[Any, str, dict[str, Any]], Record], dict[str, Any]]] = {
    "records": (from_records, {}),
    "cut": (from_cut, {"error_judgments": "drop"}),
    "jsonl": (
        from_columns,
        {
            "prompt": "prompt",
            "response": "response",
            "judgment": "judgment",
            "input": "",
            "score": "",
            "id": "id",
            "satisfactory": "perfect",
            "satisfactory_score": float("inf"),
        },
    ),
}
