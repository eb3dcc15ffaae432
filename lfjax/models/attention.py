"""Causal attention within segments, computed block by block of queries.

b rows, t tokens, s keys of one block, n heads, k kv heads, g query heads a kv head, h head size.

No `[t, t]` array is kept: every block recomputes its weights in the backward pass.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 128


def attention(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkh: Float[Array, "b t k h"],
    segment_bt: Int[Array, "b t"],
    *,
    lookback: int | None = None,
    block: int = BLOCK,
) -> Float[Array, "b t n h"]:
    """softmax(q·k / √h)·v over the tokens of the same segment up to the query, softmax in float32.

    Args:
      lookback: how far back a segment's start can be, at most; keys before are not read. A promise
        of the caller about `segment`, not a window: it saves work and does not change the result.
      block: queries at a time.
    """
    b, t, n, h = q_btnh.shape
    kv = k_btkh.shape[2]
    block = min(block, t)
    steps = -(-t // block)
    width = min(t, block + (t if lookback is None else lookback))
    # Heads first: on CPU three times as fast as tokens first, elsewhere XLA chooses anyway.
    q = q_btnh.reshape(b, t, kv, n // kv, h).transpose(0, 2, 3, 1, 4) * h**-0.5
    q = jnp.pad(q, ((0, 0),) * 3 + ((0, steps * block - t), (0, 0)))
    k, v = k_btkh.transpose(0, 2, 1, 3), v_btkh.transpose(0, 2, 1, 3)
    # Padding queries get a segment of their own; their rows are cut off below.
    q_segment = jnp.pad(segment_bt, ((0, 0), (0, steps * block - t)), constant_values=-1)

    @jax.checkpoint
    def one_block(i):
        start = jnp.clip((i + 1) * block - width, 0, t - width)
        rows = i * block + jnp.arange(block)
        columns = start + jnp.arange(width)
        here = jax.lax.dynamic_slice_in_dim
        qi, ki, vi = (
            here(q, i * block, block, 3),
            here(k, start, width, 2),
            here(v, start, width, 2),
        )
        same = (
            here(q_segment, i * block, block, 1)[:, :, None]
            == here(segment_bt, start, width, 1)[:, None]
        )
        mask = same & (rows[:, None] >= columns)
        logits = jnp.einsum("bkgqh,bksh->bkgqs", qi, ki, preferred_element_type=jnp.float32)
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(vi.dtype)
        return jnp.einsum("bkgqs,bksh->bkgqh", weights, vi)

    out = jax.lax.map(one_block, jnp.arange(steps)) if steps > 1 else one_block(0)[None]
    # [steps, b, k, g, block, h] -> [b, t, n, h]
    return out.transpose(1, 0, 4, 2, 3, 5).reshape(b, steps * block, n, h)[:, :t]
