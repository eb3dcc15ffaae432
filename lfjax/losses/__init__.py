"""Pure functions over arrays: no model, no tokenizer, no configuration, no I/O.

A loss returns a `Total`, a (sum, weight) pair that is divided once, after micro-batches and devices
have been added up, so that its value does not depend on how a batch was cut. Metrics are Totals
too.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


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


def masked_mean(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Total:
    """The mean of `values` where `mask`, as a Total; what the mask hides may be anything, NaN
    included."""
    return Total(jnp.where(mask, values, 0.0).sum(), mask.sum().astype(values.dtype))
