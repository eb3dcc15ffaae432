"""Keys and values of the tokens so far, and attention of one new token a slot to them.

b slots, r prompts, t tokens of a prompt, w columns of a layer's cache, n heads, k kv heads, h head
size.

The token at position p lies in column p mod w. A layer with a window keeps no more columns than its
window; the others have as many as the longest request, and there p mod w is p. Columns that were
never written, or hold another request's tokens, are masked: what they hold changes nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfjax.models.attention import attention
from lfjax.models.config import ModelConfig

Cache = tuple[tuple[Float[Array, "b k w h"], Float[Array, "b k w h"]], ...]  # a pair a layer


def empty(config: ModelConfig, slots: int, tokens: int, dtype) -> Cache:
    """A cache for requests of up to `tokens` tokens."""
    windows = config.windows or (0,) * config.n_layers
    shapes = [
        (slots, config.n_kv_heads, min(tokens, window or tokens), config.head_dim)
        for window in windows
    ]
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for shape in shapes)


def attend_prompt(q, k, v, segment, **how):
    """`attention`, and the keys and values to be kept."""
    return attention(q, k, v, segment, **how), (k, v)


def attend_cached(
    cache: tuple[Float[Array, "b k w h"], Float[Array, "b k w h"]],
    position: Int[Array, "b"],
    q_btnh: Float[Array, "b 1 n h"],
    k_btkh: Float[Array, "b 1 k h"],
    v_btkh: Float[Array, "b 1 k h"],
    segment,
    *,
    window,
    scale: float | None,
    softcap: float | None,
):
    """Attention of one new token a slot, at `position`, to itself and what the cache holds; with
    the cache that holds it too. The window is the cache's width, or there is none."""
    b, _, n, h = q_btnh.shape
    keys, values = cache
    kv, w = keys.shape[1:3]
    rows, column = jnp.arange(b), position % w
    keys = keys.at[rows, :, column].set(k_btkh[:, 0])
    values = values.at[rows, :, column].set(v_btkh[:, 0])
    q = q_btnh.reshape(b, kv, n // kv, h) * (h**-0.5 if scale is None else scale)
    logits = jnp.einsum("bkgh,bkwh->bkgw", q, keys, preferred_element_type=jnp.float32)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    back = (position[:, None] - jnp.arange(w)) % w  # tokens since the column was written
    written = (back <= position[:, None])[:, None, None]
    logits = jnp.where(written, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    out = jnp.einsum("bkgw,bkwh->bkgh", weights, values)
    return out.reshape(b, 1, n, h), (keys, values)


def with_prompts(
    cache: Cache,
    prompts: tuple[tuple[Float[Array, "r t k h"], Float[Array, "r t k h"]], ...],
    lengths: Int[Array, "r"],
    slots: Int[Array, "r"],
) -> Cache:
    """The cache with the slots' columns replaced by keys and values of prompts of the given
    lengths; a slot beyond the last is left out."""

    def one(kept, new):
        w = kept.shape[2]
        # The last token whose column this is; before the first one, anything.
        last = lengths[:, None] - 1
        token = last - (last - jnp.arange(w)) % w
        token = jnp.clip(token, 0, new.shape[1] - 1)
        columns = jnp.take_along_axis(new, token[:, :, None, None], axis=1)
        return kept.at[slots].set(columns.transpose(0, 2, 1, 3).astype(kept.dtype), mode="drop")

    return jax.tree.map(one, cache, prompts)
