"""Causal attention within segments, a block of queries at a time.

b rows, t tokens, s keys of one block, n heads, k kv heads, g query heads a kv head, h head size.

No `[t, t]` array is kept: every block recomputes its weights in the backward pass. A block reads
only as many keys as the longest segment that reaches into it or the window needs, rounded up to one
of a few widths, so that packed rows cost about what their segments would cost alone.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

BLOCK = 64  # queries; on CPU 64 was 1.3 times as fast as 128 and 1.6 times as fast as 256
WIDTHS = 5  # numbers of keys that are compiled: t, t/2, t/4, …


def attention(
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkh: Float[Array, "b t k h"],
    segment_bt: Int[Array, "b t"],
    *,
    window: int | Int[Array, ""] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    block: int = BLOCK,
) -> Float[Array, "b t n h"]:
    """softmax(scale · q·k)·v over the tokens of the query's segment up to the query; float32
    softmax.

    A segment is a run of equal numbers in `segment_bt`; 0 is padding, whose outputs are arbitrary.
    Query head i reads kv head i // (n / k).

    Args:
      window: number of keys that a query sees, itself included, counted in tokens; may be traced.
      scale: of the logits; 1 / √h unless given.
      softcap: c in logits c·tanh(x / c).
      block: queries whose logits exist at once.
    """
    b, t, n, h = q_btnh.shape
    kv = k_btkh.shape[2]
    block = min(block, t)
    steps = -(-t // block)
    # Heads first: on CPU three times as fast as tokens first, elsewhere XLA chooses anyway.
    q = q_btnh.reshape(b, t, kv, n // kv, h).transpose(0, 2, 3, 1, 4)
    q *= h**-0.5 if scale is None else scale
    k, v = k_btkh.transpose(0, 2, 1, 3), v_btkh.transpose(0, 2, 1, 3)
    # Padding queries get a segment of their own; their results are cut off below.
    tail = steps * block - t
    q = jnp.pad(q, ((0, 0),) * 3 + ((0, tail), (0, 0)))
    q_segment = jnp.pad(segment_bt, ((0, 0), (0, tail)), constant_values=-1)

    def with_width(width):
        def run(i):
            end = jnp.minimum((i + 1) * block, t)
            start = jnp.maximum(end - width, 0)
            take = lax.dynamic_slice_in_dim
            qi = take(q, i * block, block, 3)
            ki, vi = take(k, start, width, 2), take(v, start, width, 2)
            q_index, k_index = i * block + jnp.arange(block), start + jnp.arange(width)
            same = (
                take(q_segment, i * block, block, 1)[:, :, None]
                == take(segment_bt, start, width, 1)[:, None]
            )
            back = q_index[:, None] - k_index
            mask = same & ((back >= 0) if window is None else (back >= 0) & (back < window))
            logits = jnp.einsum("bkgqh,bksh->bkgqs", qi, ki, preferred_element_type=jnp.float32)
            if softcap is not None:
                logits = softcap * jnp.tanh(logits / softcap)
            logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
            weights = jax.nn.softmax(logits, axis=-1).astype(vi.dtype)
            return jnp.einsum("bkgqs,bksh->bkgqh", weights, vi)

        return run

    widths = sorted({min(t, block + -(-t // 2**i)) for i in range(WIDTHS)})

    @jax.checkpoint
    def one_block(i, choice):
        return lax.switch(choice, [with_width(w) for w in widths], i)

    if steps == 1:
        out = jax.checkpoint(with_width(t))(0)[None]
    else:
        first = jnp.arange(steps) * block
        back = (first - segment_start(segment_bt)[:, first]).max(axis=0)
        if window is not None:
            back = jnp.minimum(back, window - 1)
        needed = block + back
        choices = jnp.searchsorted(jnp.array(widths), needed)
        out = lax.map(lambda xs: one_block(*xs), (jnp.arange(steps), choices))
    # [steps, b, k, g, block, h] -> [b, t, n, h]
    return out.transpose(1, 0, 4, 2, 3, 5).reshape(b, steps * block, n, h)[:, :t]


def segment_start(segment_bt: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """Index in its row at which each token's segment starts; a padding token is one by itself."""
    t = segment_bt.shape[1]
    begins = jnp.pad(
        segment_bt[:, 1:] != segment_bt[:, :-1], ((0, 0), (1, 0)), constant_values=True
    )
    begins |= segment_bt == 0  # a row's empty end needs no keys
    return lax.cummax(jnp.where(begins, jnp.arange(t), 0), axis=1)
