"""Trials of settings, as many for every method."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

# Method -> two of its options, and the values of each.
Grid = Mapping[str, tuple[str, Sequence[float], str, Sequence[float]]]


def trials(grid: Grid, method: str) -> Iterator[tuple[str, dict[str, float]]]:
    """The name and the settings of every trial of a method of the grid, in its order."""
    first, values, second, others = grid[method]
    for v, w in product(values, others):
        yield f"{method}_{v:g}_{w:g}".replace(".", "p"), {first: v, second: w}
