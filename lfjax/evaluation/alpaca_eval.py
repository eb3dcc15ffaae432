"""AlpacaEval's files: what a model answered, and how its judge compared that with a baseline.

n instructions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lfjax.data.records import Record, RecordError, number
from lfjax.data.views import need_response
from lfjax.errors import UserError

TEXTS = ("instruction", "output_1", "generator_1", "output_2", "generator_2")
TIE = 1.5


def has_place(record: Record) -> bool:
    """Whether the files can hold a record's prompt: a single instruction."""
    return len(record.prompt) == 1


def outputs(records: Sequence[Record], generator: str) -> list[dict[str, str]]:
    """The objects of a file of model outputs, one a record.

    Args:
      generator: the model's name, the same in all of them.

    `dataset` is `meta["dataset"]`, or else the record's source.

    Raises: RecordError for a record without a response, or with more than one message in its
    prompt, which the format has no place for (`has_place`).
    """
    rows = []
    for record in records:
        if not has_place(record):
            raise RecordError(
                f"record '{record.id}' of {record.source}: its prompt has {len(record.prompt)} "
                "messages; AlpacaEval's files hold single instructions."
            )
        rows.append(
            {
                "instruction": record.prompt[0].content,
                # no words are an answer, too
                "output": "" if record.response == "" else need_response(record),
                "generator": generator,
                "dataset": str(record.meta.get("dataset", record.source)),
            }
        )
    return rows


@dataclass(frozen=True)
class Annotations:
    """A judge's comparison of a model with a baseline.

    Attributes:
      preference: 1 where the model won, 0 where the baseline did, or between; NaN where missing.
      length, baseline_length: of the outputs, in characters.
    """

    generator: str
    baseline: str
    instructions: list[str]
    preference: Float[np.ndarray, "n"]
    length: Int[np.ndarray, "n"]
    baseline_length: Int[np.ndarray, "n"]


def read_annotations(path: str | Path) -> Annotations:
    """AlpacaEval's `annotations.json`: output_1 is the baseline's, a preference from 1 to 2, where
    2 is for the model and 0 an older sign for a tie.

    Raises: UserError naming the file, the row and what is wrong with it.
    """
    rows = _read(path)
    for i, row in enumerate(rows):
        for name in TEXTS:
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                raise UserError(f"{path}: row {i}: field '{name}' is missing or not a text.")
    for name in ("generator_1", "generator_2"):
        others = [i for i, row in enumerate(rows) if row[name] != rows[0][name]]
        if others:
            raise UserError(
                f"{path}: row {others[0]}: {name} is '{rows[others[0]][name]}', in row 0 "
                f"'{rows[0][name]}'; expected one model against one baseline."
            )
    return Annotations(
        rows[0]["generator_2"],
        rows[0]["generator_1"],
        [row["instruction"] for row in rows],
        np.array([_preference(row, f"{path}: row {i}") for i, row in enumerate(rows)]),
        np.array([len(row["output_2"]) for row in rows]),
        np.array([len(row["output_1"]) for row in rows]),
    )


def win_rate(preference: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """(win rate, its standard error over instructions) in percent; missing ones are left out."""
    known = preference[~np.isnan(preference)]
    if len(known) < 2:
        return (float(100 * known.mean()) if len(known) else float("nan")), float("nan")
    return float(100 * known.mean()), float(100 * known.std(ddof=1) / np.sqrt(len(known)))


def check_same_instructions(given: Sequence[str], expected: Sequence[str]) -> None:
    """Raises: UserError naming the first place where the instructions of two sides differ, as those
    of a model and those that the difficulties were fitted on may."""
    for i, (a, b) in enumerate(zip(given, expected)):
        if a != b:
            raise UserError(
                f"instruction {i} is {a[:80]!r} on one side and {b[:80]!r} on the other; both "
                "must answer the same instructions in the same order."
            )
    if len(given) != len(expected):
        raise UserError(
            f"one side has {len(given)} instructions, the other {len(expected)}; both must answer "
            "the same ones."
        )


def _read(path: str | Path) -> list[Any]:
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected a JSON array of annotations, with at least one.")
    return rows


def _preference(row: dict[str, Any], where: str) -> float:
    value = number(row, "preference", where)
    if value is None:
        return float("nan")
    value = TIE if value == 0 else value
    if not 1 <= value <= 2:
        raise UserError(f"{where}: preference is {value:g}; expected 1 to 2, or 0 for a tie.")
    return value - 1
