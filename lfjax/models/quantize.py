"""Frozen weights in 4 or 8 bits, under adapters (QLoRA: Dettmers et al. 2023, arXiv 2305.14314).

A kernel `[L, i, o]` of the layers becomes a `QArray` of qwix: values of few bits, and scales, of
which each output has one, or one for each `TILE` inputs. A product makes floats of them as it reads
them. Embeddings, norms and biases stay as they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lfjax.sharding import path_str

TILE = 64  # inputs that share a scale, as in the paper; or the largest divisor below it
# name -> what scales are kept in, and whether they are of tiles
QUANTISED = {
    "int8": (jnp.float32, False),
    "int4": (jnp.bfloat16, True),
    "nf4": (jnp.bfloat16, True),
}


def is_quantised(x: Any) -> bool:
    """Whether a parameter is a QArray."""
    return hasattr(x, "qvalue")


def quantise(kernel: Float[Array, "L i o"], kind: str):
    """The QArray of a stacked kernel; layer by layer, so that no float32 copy of all exists."""
    import qwix

    dtype, tiled = QUANTISED[kind]
    inputs = kernel.shape[1]
    tile = next(n for n in range(min(TILE, inputs), 0, -1) if inputs % n == 0)

    def one(layer):
        return qwix.quantize(
            layer.astype(jnp.float32),
            kind if kind == "nf4" else jnp.dtype(kind),
            channelwise_axes=(1,),
            tiled_axes={0: tile} if tiled else {},
            scale_dtype=dtype,
        )

    return lax.map(one, kernel)


def quantised(params: Any, kind: str) -> Any:
    """Parameters of a decoder with its layers' kernels as QArrays."""

    def one(path, x):
        return quantise(x, kind) if is_kernel(path_str(path)) else x

    return jax.tree_util.tree_map_with_path(one, params)


def is_kernel(path: str) -> bool:
    """Whether a parameter is one that is quantised: a projection of the layers."""
    return path.startswith("layers/") and path.endswith("/kernel")


def product(x: Float[Array, "b t i"], kernel: Any) -> Float[Array, "b t o"]:
    """x · kernel in x's dtype; the kernel is an array or a QArray."""
    if not is_quantised(kernel):
        return x @ kernel.astype(x.dtype)
    import qwix

    return qwix.einsum("bti,io->bto", x, kernel.astype(x.dtype))


def floats(kernel: Any) -> Float[Array, "..."]:
    """A kernel in float32, quantised or not."""
    if not is_quantised(kernel):
        return kernel.astype(jnp.float32)
    import qwix

    return qwix.dequantize(kernel.astype(jnp.float32))


class ByLayer:
    """A stacked parameter of which one layer exists at a time: `x[i]` computes layer i.

    Attributes:
      parts: stacked arrays that it is made of.
      make: (parts of one layer, stacked still) -> that layer, stacked still.
    """

    def __init__(self, make: Callable[..., Array], *parts: Any):
        def one(i, parts):
            return make(*jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i, 1), parts))[0]

        self.parts, self.one = parts, jax.jit(one)

    def __getitem__(self, i: int) -> Array:
        return self.one(i, self.parts)
