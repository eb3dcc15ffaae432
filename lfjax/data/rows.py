"""Rows: the one struct between data and loss, and how records become the segments that fill it.

b rows, t tokens, s segments of a row. A record's views become segments; all segments of a record
form a unit that is placed in one row, so that twins can find each other.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import no_type_check

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from lfjax.data.records import Message, Record, RecordError
from lfjax.data.templates import render_prompt, speaking
from lfjax.data.tokenize import Tokenizer, encode_pieces
from lfjax.data.views import View

Numbers = Array | np.ndarray  # numpy on the host, jax on devices


@no_type_check  # tree.map also fills it with shardings and micro-batches
@struct.dataclass
class Rows:
    """A batch. Everything that describes a target stands at the position that predicts it.

    Attributes:
      tokens: input ids.
      targets: the next token of the same segment, 0 at its end.
      positions: index within the segment, which is what the model's position encoding sees.
      segment: numbers the segments of a row from 1; 0 is padding.
      weight: what the target counts in the loss, 0 where nothing is learned.
      role: `views.Role` of the target, 0 outside of every supervised span.
      twin: index in the same row of the same target in the linked view, or -1.
      mass: per row, what its examples weigh in the loss's denominator.
      kind, pair, score_at, ref_logp: tables of the row's segments, entry i for segment number
        i + 1, of no width where the loss reads tokens alone. `kind` is the role of the segment's
        targets (0: no such segment), `pair` the entry of the segment that it is compared with or
        -1, `score_at` where in the row its last token lies, and `ref_logp` the log-probability of
        all its targets under the frozen reference.

    A record's segments lie in one row, so that a comparison never crosses devices or
    micro-batches.
    """

    tokens: Int[Numbers, "b t"]
    targets: Int[Numbers, "b t"]
    positions: Int[Numbers, "b t"]
    segment: Int[Numbers, "b t"]
    weight: Float[Numbers, "b t"]
    role: Int[Numbers, "b t"]
    twin: Int[Numbers, "b t"]
    mass: Float[Numbers, "b"]
    kind: Int[Numbers, "b s"]
    pair: Int[Numbers, "b s"]
    score_at: Int[Numbers, "b s"]
    ref_logp: Float[Numbers, "b s"]

    @staticmethod
    def empty(b: int, t: int, s: int = 0) -> "Rows":
        """Padding only, as numpy arrays; `s` is the width of the tables of segments."""
        ints = {
            name: np.zeros((b, t), np.int32)
            for name in ("tokens", "targets", "positions", "segment", "role")
        }
        return Rows(
            **ints,
            weight=np.zeros((b, t), np.float32),
            twin=np.full((b, t), -1, np.int32),
            mass=np.zeros(b, np.float32),
            kind=np.zeros((b, s), np.int32),
            pair=np.full((b, s), -1, np.int32),
            score_at=np.zeros((b, s), np.int32),
            ref_logp=np.zeros((b, s), np.float32),
        )


@dataclass(frozen=True)
class Segment:
    """One view in tokens; the targets are ids[first:]. `trimmed` prompt tokens were cut off, of
    `spare` that may be (None: all but one); `ref_logp` is filled in by a reference pass. `spans`
    are (number of targets, role, weight) of the pieces of the response, where these have roles of
    their own."""

    ids: Int[np.ndarray, "n"]
    first: int
    role: int
    weight: float
    twin: int | None
    trimmed: int = 0
    pair: int | None = None
    ref_logp: float = 0.0
    spare: int | None = None
    spans: tuple[tuple[int, int, float], ...] = ()

    @property
    def learned(self) -> int:
        """Targets that are learned, if any are."""
        return sum(n for n, _, w in self.spans if w) if self.spans else len(self.ids) - self.first


@dataclass(frozen=True)
class Unit:
    """The segments of one record, to be placed in one row."""

    record: int
    segments: tuple[Segment, ...]

    @property
    def length(self) -> int:
        return sum(len(s.ids) for s in self.segments)


@dataclass
class Encoded:
    """Units with the story of their making. `counts` says how many records were dropped or trimmed,
    and why; `left_out` names the reason for the index of each record that was dropped."""

    units: list[Unit]
    counts: Counter = field(default_factory=Counter)
    left_out: dict[int, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def lengths(self) -> Int[np.ndarray, "u"]:
        """Tokens of each unit."""
        return np.array([u.length for u in self.units])

    @property
    def most_segments(self) -> int:
        """Segments of the unit that has the most."""
        return max(len(u.segments) for u in self.units)


def encode_records(
    records: Sequence[Record],
    views: Callable[[Record], list[View]],
    tokenizer: Tokenizer,
    template: str,
    *,
    max_tokens: int,
    row_tokens: int,
    on_error: str = "stop",
) -> Encoded:
    """Records to units.

    A response ends with the token that the template ends an answer with (`templates.speaking`). A
    segment longer than `max_tokens` loses prompt tokens at its start after BOS, then its
    judgment, never its response (`overlong = trim_prompt`). A record whose response does not fit by
    itself, or whose segments do not fit one row of `row_tokens` together, is dropped and counted.

    Raises: RecordError for a record that lacks what the views need or has no supervised token,
    unless `on_error` is `skip`.
    """
    out = Encoded([])
    tokenizer = speaking(tokenizer, template)
    for index, record in enumerate(records):
        try:
            shown = views(record)
            unit, reason, trimmed = _encode(index, record, shown, tokenizer, template, max_tokens)
        except RecordError as error:
            if on_error == "stop":
                raise RecordError(
                    f"{error} (data.on_error=skip would leave it out and count it.)"
                ) from None
            out.skipped.append(str(error))
            out.left_out[index] = "malformed"
            continue
        if unit is not None and unit.length > row_tokens:
            unit, reason = None, "views do not fit one row"
        if unit is None:
            out.counts[reason] += 1
            out.left_out[index] = reason
        else:
            out.units.append(unit)
            out.counts["prompt trimmed"] += trimmed
    return out


def _encode(
    index, record, shown: list[View], tokenizer, template, max_tokens
) -> tuple[Unit | None, str, bool]:
    if not shown:
        return None, "not used by the method", False
    segments = _segments(shown, tokenizer, template)
    if len({tuple(s.ids[s.first :]) for s in segments if s.twin is not None}) > 1:
        # One of the prompts pulled the response's first characters into its last token: cut all
        # views at the border.
        segments = _segments(shown, tokenizer, template, split=True)
    for view, segment in zip(shown, segments):
        whose = f"record '{record.id}' of {record.source}: its {view.role.name} view"
        # The EOS alone does not count: a response that tokenizes to nothing teaches nothing.
        if segment.learned < 1 + view.ends:
            raise RecordError(f"{whose} has no supervised token.")
        if segment.first == 0:
            raise RecordError(f"{whose} has no token before the response to predict it from.")
        # Some tokenizers (Unigram, whole words) find the name of EOS in plain text.
        if tokenizer.eos in segment.ids[segment.first : len(segment.ids) - view.ends]:
            raise RecordError(f"{whose} has an end-of-sequence token inside of the response.")
    if any(len(s.ids) > max_tokens and v.overlong == "drop" for v, s in zip(shown, segments)):
        return None, "too long", False
    fitted = [trim(s, max_tokens, tokenizer.bos is not None) for s in segments]
    if None in fitted:
        compared = any(s.spare is not None for s in segments)
        return None, f"{'reference and ' if compared else ''}response too long", False
    trimmed = any(len(f.ids) < len(s.ids) for f, s in zip(fitted, segments))
    return Unit(index, tuple(fitted)), "", trimmed


def _segments(shown: list[View], tokenizer, template, split=False) -> list[Segment]:
    out = []
    for view in shown:
        prompt = render_prompt(template, view.prompt, view.judgment, tokenizer=tokenizer)
        pieces = [s.text for s in view.spans] or [view.response]
        ids, borders = encode_pieces(tokenizer, prompt, pieces, split=split)
        if view.ends:
            ids.append(tokenizer.eos)
            borders[-1] += 1
        counts = np.diff(borders).tolist()
        spans = tuple((n, int(s.role), s.weight) for n, s in zip(counts, view.spans))
        told = dict(pair=view.pair, spans=spans)
        ids = np.asarray(ids, np.int32)
        shown = Segment(ids, borders[0], int(view.role), view.weight, view.twin, **told)
        if view.kept:
            before = view.prompt[: -view.kept]
            shown = replace(shown, spare=spare_tokens(tokenizer, template, before))
        out.append(shown)
    return out


def spare_tokens(tokenizer: Tokenizer, template: str, messages: Sequence[Message]) -> int:
    """How many tokens after BOS a conversation has before the response to it, which may be lost.

    What a template says to ask for a response is left out: before one that is there it may say
    less, and so much would be lost of the response.
    """
    text = render_prompt(template, messages, tokenizer=tokenizer, respond=False)
    return len(tokenizer.encode_rendered(text))


def trim(segment: Segment, max_tokens: int, has_bos: bool) -> Segment | None:
    """Drop prompt tokens at the start, after BOS; None where the response alone, with what must
    stay before it, is too long.

    One token must stay before the response, to predict its first token.
    """
    excess = len(segment.ids) - max_tokens
    if excess <= 0:
        return segment
    start = int(has_bos)
    spare = segment.first - max(start, 1)
    if excess > (spare if segment.spare is None else min(spare, segment.spare)):
        return None
    ids = np.concatenate([segment.ids[:start], segment.ids[start + excess :]])
    return replace(segment, ids=ids, first=segment.first - excess, trimmed=excess)


def shift(ids: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The targets of a segment: every position predicts the next token, the last one nothing."""
    return np.append(ids[1:], np.int32(0))


def place(rows: Rows, unit: Unit, row: int, offset: int, number: int, normalize: str) -> int:
    """Write a unit into numpy rows at (row, offset), its segments numbered from `number`; the next
    free number of that row.

    With `normalize = example` a view's weight is spread over its targets and the example weighs 1;
    with `token` every target weighs what its view weighs and the example as much as its response
    has learned tokens; with `sum` and `pair` every target weighs what its view weighs and the
    example 1.
    """
    begin, tables = number - 1, rows.kind.shape[1] > 0
    starts = offset + np.cumsum([0] + [len(s.ids) for s in unit.segments])
    targets = [span(s) + start for s, start in zip(unit.segments, starts)]
    for s, start, here in zip(unit.segments, starts, targets):
        part = (row, slice(start, start + len(s.ids)))
        rows.tokens[part] = s.ids
        rows.targets[part] = shift(s.ids)
        rows.positions[part] = np.arange(len(s.ids))
        rows.segment[part] = number
        rows.weight[row, here] = s.weight / (s.learned if normalize == "example" else 1)
        rows.role[row, here] = s.role
        ends = np.cumsum([n for n, _, _ in s.spans])
        for (n, role, weight), end in zip(s.spans, ends):
            rows.weight[row, here[end - n : end]] *= weight
            rows.role[row, here[end - n : end]] = role
        if s.twin is not None:
            rows.twin[row, here] = targets[s.twin]
        if tables:
            rows.kind[row, number - 1] = s.role
            rows.pair[row, number - 1] = -1 if s.pair is None else begin + s.pair
            rows.score_at[row, number - 1] = start + len(s.ids) - 1
            rows.ref_logp[row, number - 1] = s.ref_logp
        number += 1
    rows.mass[row] += unit.segments[0].learned if normalize == "token" else 1
    return number


def span(segment: Segment) -> Int[np.ndarray, "m"]:
    """Positions that predict the segment's targets."""
    return np.arange(segment.first - 1, len(segment.ids) - 1)
