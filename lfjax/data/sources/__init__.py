"""Sources: files in, Records out. `load` reads a list of sources and says what became of every
record.

A source is a function (row, where, options) over parsed JSON objects that yields Records, and a
`Dropped` for each record that it leaves out. All of them are in the dict `SOURCES`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lfjax.data.records import Record, RecordError
from lfjax.data.sources import judged, preferences
from lfjax.data.sources.reading import Dropped, read_json
from lfjax.errors import UserError, nearest

__all__ = ["SOURCES", "Dropped", "Loaded", "downsample_satisfactory", "load", "read_json"]

Converter = Callable[[Any, str, dict[str, Any]], Iterator[Record | Dropped]]


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
      options: the source's own options; one that is None is one that nobody set.
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
    options = {k: v for k, v in (options or {}).items() if v is not None}
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
            made = list(convert(row, where, options))  # all of a row, or none where it is bad
            for record in made:
                if isinstance(record, Dropped):
                    out.dropped[record.reason] += 1
                    continue
                if record.id in seen:
                    raise RecordError(
                        f"{where}: id '{record.id}' was already used at {seen[record.id]}; "
                        "ids must differ."
                    )
                seen[record.id] = where
                out.records.append(record)
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


# name -> (converter, its options with defaults)
SOURCES: dict[str, tuple[Converter, dict[str, Any]]] = {
    "records": (judged.from_records, {"pairs": "best_worst"}),
    "cut": (judged.from_cut, {"error_judgments": "drop"}),
    "jsonl": (
        judged.from_columns,
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
    "shepherd": (judged.from_shepherd, {}),
    "defacto": (
        judged.from_defacto,
        {"request": "Summarize the article above in one sentence."},
    ),
    "critiques": (judged.from_critiques, {"rank": "max"}),
    "helpsteer": (judged.from_helpsteer, {"satisfactory_score": 4.0}),
    "helpsteer3": (judged.from_helpsteer3, {}),
    "hh": (preferences.from_hh, {"response": "none"}),
    "summarize_from_feedback": (
        preferences.from_summarize,
        {"response": "none", "request": "Summarize the text above in a few sentences."},
    ),
    "ultrafeedback": (
        preferences.from_ultrafeedback,
        {
            "records": "prompt",
            "pairs": "best_worst",
            "score": "overall",
            "satisfactory_score": 7.0,
        },
    ),
    "messages": (
        preferences.from_messages,
        {"messages": "messages", "id": "id", "single_turn": False},
    ),
    "prompts": (preferences.from_prompts, {"prompt": "prompt", "id": "id"}),
    "preference": (
        preferences.from_preference,
        {
            "prompt": "prompt",
            "chosen": "chosen",
            "rejected": "rejected",
            "id": "id",
            "response": "none",
        },
    ),
}
