"""The plan: which records a step takes and where they lie in its rows, computed once from lengths
and a seed.

Two plans. `batch_examples`: a step takes exactly that many records in shuffled order (the last of
an epoch takes the rest), in as few rows as hold them, so that schedules count what the papers
count. `batch_rows`: the whole epoch is packed first and a step takes that many full rows. Step n is
random access; at most three numbers of rows occur.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from lfjax.data.rows import Rows, Unit, place
from lfjax.data.views import Role
from lfjax.errors import UserError

SHAPES = 3


@dataclass(frozen=True)
class Plan:
    """Where every unit goes. The units of step n are entries `first[n]:first[n + 1]`.

    Attributes:
      unit, row, offset: per entry, which unit and where it starts.
      first: per step, its first entry; one more than there are steps.
      rows: per step, how many rows it has, filler included.
      row_tokens: tokens of a row.
      epoch_steps: steps of one epoch.
      epoch_examples: records of one epoch.
    """

    unit: Int[np.ndarray, "e"]
    row: Int[np.ndarray, "e"]
    offset: Int[np.ndarray, "e"]
    first: Int[np.ndarray, "s1"]
    rows: Int[np.ndarray, "s"]
    row_tokens: int
    epoch_steps: int
    epoch_examples: int

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def shapes(self) -> list[int]:
        """The numbers of rows that occur, each compiled once."""
        return sorted(set(self.rows.tolist()))

    @cached_property
    def row_units(self) -> int:
        """Units of the row that holds the most."""
        step = np.repeat(np.arange(self.steps), np.diff(self.first))
        return int(np.unique([step, self.row], axis=1, return_counts=True)[1].max())

    def units_of(self, step: int) -> Int[np.ndarray, "n"]:
        """Indices of the units that a step takes."""
        return self.unit[self.first[step] : self.first[step + 1]]


def make_plan(
    lengths: Int[np.ndarray, "u"],
    *,
    row_tokens: int,
    seed: int,
    batch_examples: int = 0,
    batch_rows: int = 0,
    multiple: int = 1,
    steps: int | None = None,
) -> Plan:
    """Plan steps over units of the given lengths, epoch after epoch, each in an order of its own.

    Args:
      batch_examples, batch_rows: exactly one is positive.
      multiple: the number of rows of a step is a multiple of this (batch shards × micro-batches).
      steps: how many; None for one epoch.

    Raises: UserError unless exactly one batch size is given, and every unit fits a row.
    """
    lengths = np.asarray(lengths)
    if min(batch_examples, batch_rows) != 0 or max(batch_examples, batch_rows) < 1:
        raise UserError(
            f"batch_examples={batch_examples}, batch_rows={batch_rows}: set one of them to a "
            "positive "
            "number and the other to 0."
        )
    if batch_rows % multiple:
        raise UserError(
            f"batch_rows={batch_rows} must be a multiple of {multiple} (batch shards × "
            "micro-batches)."
        )
    if not len(lengths) or lengths.max() > row_tokens:
        longest = lengths.max(initial=0)
        raise UserError(
            f"{len(lengths)} units, the longest {longest} tokens; rows have {row_tokens}."
        )
    laid = []  # per step: (unit, row, offset)
    for epoch in itertools.count():
        rng = np.random.default_rng([seed, epoch])
        if batch_rows:
            laid += _by_rows(lengths, row_tokens, batch_rows, rng)
        else:
            laid += _by_examples(lengths, row_tokens, batch_examples, rng)
        if epoch == 0:
            epoch_steps = len(laid)
            steps = steps or epoch_steps
        if len(laid) >= steps:
            break
    laid = laid[:steps]
    if batch_rows:
        rows = np.full(steps, batch_rows)
    else:
        rows = few_shapes(np.array([row.max() + 1 for _, row, _ in laid]), multiple)
    unit, row, offset = (np.concatenate(column).astype(np.int64) for column in zip(*laid))
    first = np.cumsum([0] + [len(u) for u, _, _ in laid])
    return Plan(unit, row, offset, first, rows, row_tokens, epoch_steps, len(lengths))


def _by_examples(lengths, row_tokens, batch_examples, rng):
    """One epoch in shuffled order, `batch_examples` a step, packed step by step."""
    order = rng.permutation(len(lengths))
    batches = (order[i : i + batch_examples] for i in range(0, len(order), batch_examples))
    return [(b, *first_fit_decreasing(lengths[b], row_tokens)) for b in batches]


def _by_rows(lengths, row_tokens, batch_rows, rng):
    """One epoch packed as a whole, its rows shuffled, `batch_rows` a step. The seed varies who
    shares a row."""
    order = rng.permutation(len(lengths))
    row, offset = first_fit_decreasing(lengths[order], row_tokens)
    shuffled = rng.permutation(row.max() + 1)
    row = shuffled[row]
    by_row = np.lexsort((offset, row))
    order, row, offset = order[by_row], row[by_row], offset[by_row]
    cuts = np.searchsorted(row, np.arange(batch_rows, row[-1] + 1, batch_rows))
    parts = zip(*(np.split(column, cuts) for column in (order, row % batch_rows, offset)))
    return list(parts)


def first_fit_decreasing(
    lengths: Int[np.ndarray, "n"], capacity: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Row and offset of each item: longest first, each into the first row that has room. O(n log
    n).

    The free space of the rows stands in the leaves of a tree whose nodes hold maxima, so that the
    first row with room is found by descending.
    """
    n = len(lengths)
    size = 1 << max(n - 1, 0).bit_length()
    free = [capacity] * (2 * size)
    rows, offsets = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for item in np.argsort(-np.asarray(lengths), kind="stable"):
        need, node = int(lengths[item]), 1
        while node < size:
            node = 2 * node if free[2 * node] >= need else 2 * node + 1
        rows[item], offsets[item] = node - size, capacity - free[node]
        free[node] -= need
        while node > 1:
            node //= 2
            free[node] = max(free[2 * node], free[2 * node + 1])
    return rows, offsets


def few_shapes(needed: Int[np.ndarray, "s"], multiple: int) -> Int[np.ndarray, "s"]:
    """Round each step's number of rows up to one of at most three multiples, with the least filler
    in total."""
    needed = -(-needed // multiple) * multiple
    values, counts = np.unique(needed, return_counts=True)

    def filler(chosen):
        return ((np.array(chosen)[np.searchsorted(chosen, values)] - values) * counts).sum()

    rest = itertools.combinations(values[:-1], min(SHAPES, len(values)) - 1)
    best = np.array(min(((*r, values[-1]) for r in rest), key=filler))
    return best[np.searchsorted(best, needed)]


def rows_of(plan: Plan, step: int, units: list[Unit], normalize: str, segments: int = 0) -> Rows:
    """The rows of one step as numpy arrays.

    Args:
      normalize: `example`, `token` or `pair`: what a token and an example weigh (`rows.place`).
        With `pair`, the chosen tokens together weigh as much as the step's examples, so that a
        weighted sum over them, divided like the rest, is their mean in the step.
      segments: the most that a unit has, where the loss reads whole segments; 0 leaves their tables
        without width.
    """
    width = plan.row_units * segments if segments else 0
    rows = Rows.empty(int(plan.rows[step]), plan.row_tokens, width)
    number = np.ones(len(rows.mass), int)
    part = slice(plan.first[step], plan.first[step + 1])
    columns = (column[part].tolist() for column in (plan.unit, plan.row, plan.offset))
    for unit, row, offset in zip(*columns):
        number[row] = place(rows, units[unit], row, offset, int(number[row]), normalize)
    if normalize == "pair":
        chosen = (rows.role == Role.CHOSEN) & (rows.weight > 0)
        rows.weight[chosen] *= rows.mass.sum() / max(chosen.sum(), 1)
    return rows


def density(plan: Plan, lengths: Int[np.ndarray, "u"]) -> float:
    """Share of all planned row positions that hold text."""
    return float(np.asarray(lengths)[plan.unit].sum() / (plan.rows.sum() * plan.row_tokens))
