"""Pure functions over arrays: no model, no tokenizer, no configuration, no I/O.

A loss returns a `Total`, a (sum, weight) pair that is divided once, after micro-batches and devices
have been added up, so that its value does not depend on how a batch was cut. Metrics are Totals
too.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Total(NamedTuple):
    """A mean before its division."""

    sum: Float[Array, ""]
    weight: Float[Array, ""]

    def __add__(self, other: "Total") -> "Total":
        return Total(self.sum + other.sum, self.weight + other.weight)

    @property
    def mean(self) -> Float[Array, ""]:
        """sum / weight, and 0 where nothing was counted."""
        return jnp.where(
            self.weight == 0, 0.0, self.sum / jnp.where(self.weight == 0, 1.0, self.weight)
        )

    def __float__(self) -> float:
        """The mean of a Total on the host, where a call of jax would take a thousand times as
        long as the division."""
        weight = float(self.weight)
        return float(self.sum) / weight if weight else 0.0


def masked_mean(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Total:
    """The mean of `values` where `mask`, as a Total; what the mask hides may be anything, NaN
    included."""
    return Total(jnp.where(mask, values, 0.0).sum(), mask.sum().astype(values.dtype))


def segment_sum(
    values: Float[Array, "b t"], segment: Int[Array, "b t"], count: int
) -> Float[Array, "b {count}"]:
    """Sums over the tokens of each segment of a row, entry i for segment number i + 1; padding
    (number 0) is in none. Not valued tokens should be 0."""
    one_row = partial(jax.ops.segment_sum, num_segments=count + 1)
    return jax.vmap(one_row)(values, segment)[:, 1:]


def at_pair(values: Float[Array, "b s"], pair: Int[Array, "b s"]) -> Float[Array, "b s"]:
    """The value of the segment that each one is compared with; 0 where there is none."""
    found = jnp.take_along_axis(values, jnp.maximum(pair, 0), axis=1)
    return jnp.where(pair >= 0, found, 0.0)
