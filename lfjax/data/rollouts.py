"""Responses that a policy drew, as rows: packed so that few shapes occur, and columns of their
tokens carried into rows and back.

n responses, r tokens of one, padded, b rows, t tokens of a row. A prompt and the response to it are
the ids that the sampler read and wrote: nothing is tokenised again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from lfjax.data.plan import first_fit_decreasing
from lfjax.data.rows import Rows, Segment, Unit, place
from lfjax.data.views import Role


@no_type_check  # tree.map also fills it with shardings and micro-batches
@struct.dataclass
class Rollouts:
    """A batch of a policy gradient. What describes a token of a response stands, as in `Rows`, at
    the position that predicts it, and is 0 elsewhere.

    Attributes:
      rows: every response weighs 1, and each of its tokens.
      old_logp: log-probabilities under the policy that drew the tokens.
      ref_logp: under the frozen reference.
      advantage: how much better a token's response was than expected.
    """

    rows: Rows
    old_logp: Float[Array | np.ndarray, "b t"]
    ref_logp: Float[Array | np.ndarray, "b t"]
    advantage: Float[Array | np.ndarray, "b t"]

    @staticmethod
    def empty(b: int, t: int) -> "Rollouts":
        zeros = np.zeros((b, t), np.float32)
        return Rollouts(Rows.empty(b, t), zeros, zeros, zeros)


@dataclass(frozen=True)
class Packed:
    """Responses in rows.

    Attributes:
      row, start, length: of each response, its row, the position that predicts its first token, and
        its tokens.
    """

    rows: Rows
    row: Int[np.ndarray, "n"]
    start: Int[np.ndarray, "n"]
    length: Int[np.ndarray, "n"]

    def gather(self, values: Float[np.ndarray, "b t"], width: int) -> Float[np.ndarray, "n r"]:
        """What rows hold of each response, padded with zeros to `width` tokens."""
        out = np.zeros((len(self.row), width), np.float32)
        for i, (row, start, n) in enumerate(zip(self.row, self.start, self.length)):
            out[i, :n] = values[row, start : start + n]
        return out

    def scatter(self, values: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "b t"]:
        """The rows that hold them; `gather` gives them back."""
        out = np.zeros(self.rows.tokens.shape, np.float32)
        for value, row, start, n in zip(values, self.row, self.start, self.length):
            out[row, start : start + n] = value[:n]
        return out


def padded(values: Sequence[Any], width: int) -> Float[np.ndarray, "n r"]:
    """A row for each series of numbers, filled up with zeros to `width`."""
    out = np.zeros((len(values), width), np.float32)
    for row, value in zip(out, values):
        row[: len(value)] = value
    return out


def pack(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    row_tokens: int,
    shapes: Sequence[int],
) -> Packed:
    """Every response after its prompt, a segment each, in as few rows as one of the shapes holds.

    Args:
      prompts: at least one token each.
      responses: at least one token each, with the one that ended it.
      shapes: numbers of rows that may occur, ascending; the last one holds everything.
    """
    lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)])
    row, offset = first_fit_decreasing(lengths, row_tokens)
    b = next(size for size in shapes if row.max() < size)
    rows, number = Rows.empty(b, row_tokens), np.ones(b, int)
    for prompt, response, r, at in zip(prompts, responses, row.tolist(), offset.tolist()):
        ids = np.array([*prompt, *response], np.int32)
        unit = Unit(0, (Segment(ids, len(prompt), int(Role.PLAIN), 1.0, None),))
        number[r] = place(rows, unit, r, at, int(number[r]), "pair")
    start = offset + np.array([len(p) for p in prompts]) - 1
    return Packed(rows, row, start, np.array([len(r) for r in responses]))


def row_shapes(responses: int, *, max_tokens: int, row_tokens: int, multiple: int) -> list[int]:
    """Numbers of rows for so many responses of at most `max_tokens` each: enough for the longest, a
    half and a quarter of it, each a multiple of `multiple`."""
    most = -(-responses // (row_tokens // max_tokens))
    return sorted({-(-most // (part * multiple)) * multiple for part in (1, 2, 4)})
