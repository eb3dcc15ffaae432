"""The Record: one prompt, one response, and what was said about it. Every source makes Records;
every method starts here.

A Record is one JSON object. `Record.from_json` validates it and names the place, the field and what
was expected.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from lfjax.errors import UserError, nearest

ROLES = ("system", "user", "assistant")
POLARITIES = ("positive", "negative", "mixed")


class RecordError(UserError):
    """One record is malformed; under `on_error=skip` it is counted and left out."""


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Feedback:
    """What a judge said of the response. `spans` are (start, end) character offsets into the
    response."""

    text: str
    polarity: Literal["positive", "negative", "mixed"]
    score: float | None = None
    scale: tuple[float, float] | None = None
    weaknesses: str | None = None
    suggestions: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    author: str | None = None


@dataclass(frozen=True)
class Candidate:
    """Another response to the same prompt."""

    text: str
    model: str | None = None
    score: float | None = None
    preferred: bool | None = None


@dataclass(frozen=True)
class Record:
    """One prompt, one response and the feedback on it.

    `feedback` empty means that nobody has judged the response: a missing judgment is not a good
    one.
    """

    id: str
    source: str
    prompt: tuple[Message, ...]
    response: str | None = None
    model: str | None = None
    feedback: tuple[Feedback, ...] = ()
    refinement: str | None = None
    candidates: tuple[Candidate, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def satisfactory(self) -> bool:
        """Judged, and no judgment found fault."""
        return bool(self.feedback) and all(f.polarity == "positive" for f in self.feedback)

    def to_json(self) -> dict[str, Any]:
        """A JSON object without empty fields; `Record.from_json` gives the record back."""
        return _plain(self)

    @staticmethod
    def from_json(obj: Any, where: str = "record") -> "Record":
        """Validate a JSON object.

        Raises: RecordError naming `where`, the field, what was found and what was expected.
        """
        _check_keys(obj, Record, where)
        for name in ("id", "source"):
            _typed(obj, name, str, where, required=True)
            if not obj[name]:
                raise RecordError(f"{where}: field '{name}' is empty; expected a non-empty text.")
        prompt = tuple(
            _message(m, f"{where}: prompt[{i}]") for i, m in enumerate(_list(obj, "prompt", where))
        )
        if not prompt or prompt[-1].role != "user":
            raise RecordError(
                f"{where}: field 'prompt' must be a list of messages that ends with a user's."
            )
        for name in ("response", "model", "refinement"):
            _typed(obj, name, str, where)
        if obj.get("response") is not None and not obj["response"].strip():
            raise RecordError(
                f"{where}: field 'response' is empty; expected the text of an answer."
            )
        feedback = tuple(
            _feedback(f, f"{where}: feedback[{i}]")
            for i, f in enumerate(_list(obj, "feedback", where))
        )
        candidates = tuple(
            _candidate(c, f"{where}: candidates[{i}]")
            for i, c in enumerate(_list(obj, "candidates", where))
        )
        _typed(obj, "meta", dict, where)
        rest = {k: obj[k] for k in ("id", "source", "response", "model", "refinement") if k in obj}
        return Record(
            prompt=prompt,
            feedback=feedback,
            candidates=candidates,
            meta=obj.get("meta") or {},
            **rest,
        )


def _plain(value):
    if is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {k: _plain(v) for k, v in items if v is not None and v != () and v != {}}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _message(obj, where) -> Message:
    _check_keys(obj, Message, where)
    _one_of(obj, "role", ROLES, where)
    _typed(obj, "content", str, where, required=True)
    return Message(**obj)


def _feedback(obj, where) -> Feedback:
    _check_keys(obj, Feedback, where)
    _typed(obj, "text", str, where, required=True)
    _one_of(obj, "polarity", POLARITIES, where)
    score = number(obj, "score", where)
    for name in ("weaknesses", "suggestions", "author"):
        _typed(obj, name, str, where)
    spans = tuple(_pair(s, "spans", int, where) for s in _list(obj, "spans", where))
    scale = obj.get("scale")
    if scale is not None:
        scale = tuple(map(float, _pair(scale, "scale", (int, float), where)))
    return Feedback(**{**obj, "score": score, "scale": scale, "spans": spans or None})


def _candidate(obj, where) -> Candidate:
    _check_keys(obj, Candidate, where)
    _typed(obj, "text", str, where, required=True)
    _typed(obj, "model", str, where)
    _typed(obj, "preferred", bool, where)
    return Candidate(**{**obj, "score": number(obj, "score", where)})


def _check_keys(obj, kind, where):
    if not isinstance(obj, dict):
        raise RecordError(f"{where}: found {type(obj).__name__}, expected an object.")
    known = [f.name for f in fields(kind)]
    for key in obj:
        if key not in known:
            raise RecordError(f"{where}: unknown field '{key}'. {nearest(key, known)}")


def _typed(obj, name, kind, where, *, required=False):
    value = obj.get(name)
    if value is None:
        if required:
            raise RecordError(f"{where}: field '{name}' is missing.")
    elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(k.__name__ for k in kinds)
        raise RecordError(
            f"{where}: field '{name}' is {type(value).__name__}, expected {expected}."
        )


def number(obj: dict[str, Any], name: str, where: str) -> float | None:
    """A field as a float, None where it is absent. Raises: RecordError unless it is a finite
    number."""
    _typed(obj, name, (int, float), where)
    value = obj.get(name)
    if value is not None and not math.isfinite(value):
        raise RecordError(f"{where}: field '{name}' is {value}, expected a finite number.")
    return None if value is None else float(value)


def _list(obj, name, where):
    _typed(obj, name, (list, tuple), where)
    return obj.get(name) or ()


def _one_of(obj, name, known, where):
    _typed(obj, name, str, where, required=True)
    if obj[name] not in known:
        raise RecordError(
            f"{where}: field '{name}' is '{obj[name]}', expected one of {', '.join(known)}."
        )


def _pair(value, name, kind, where):
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value)
    ):
        raise RecordError(f"{where}: field '{name}' is {value!r}, expected a pair of numbers.")
    return tuple(value)


def to_jsonl(records: Iterable[Record]) -> str:
    """One JSON object a line; the source `records` reads them back."""
    return "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records)
