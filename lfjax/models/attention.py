"""Causal attention within segments, a block of queries at a time.

b rows, t tokens, p tokens with padding at the end, s keys and q queries of one block, n heads, k kv
heads, g query heads a kv head, h head size.

No `[t, t]` array is kept: the backward pass computes a block's weights again from the saved
normaliser (FlashAttention, arXiv 2205.14135, algorithms 1 and 4). A block reads only as many keys
as the longest segment that reaches into it or the window needs, rounded up to one of a few widths,
so that packed rows cost about what their segments would cost alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

CONTEXT = "context"  # the name under which rematerialisation may keep what attention returns
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
    Query head i reads kv head i // (n / k). For the backward pass the output and the normaliser
    are kept, and named `CONTEXT`.

    Args:
      window: number of keys that a query sees, itself included, counted in tokens; may be traced.
      scale: of the logits; 1 / √h unless given.
      softcap: c in logits c·tanh(x / c).
      block: queries whose logits exist at once.
    """
    b, t, n, h = q_btnh.shape
    kv = k_btkh.shape[2]
    # Heads first: on CPU three times as fast as tokens first, elsewhere XLA chooses anyway.
    q = q_btnh.reshape(b, t, kv, n // kv, h).transpose(0, 2, 3, 1, 4)
    q *= h**-0.5 if scale is None else scale
    k, v = k_btkh.transpose(0, 2, 1, 3), v_btkh.transpose(0, 2, 1, 3)
    out = _attend(q, k, v, segment_bt, window, softcap, min(block, t))
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, segment, window, softcap, block):
    return _forward(q, k, v, segment, window, softcap, block)[0]


def _forward(q, k, v, segment, window, softcap, block):
    # A scan over layers would hoist what is the same in all of them: the masks of all blocks.
    q, segment = lax.optimization_barrier((q, segment))
    blocks = _Blocks(segment, window, softcap, block)
    padded = blocks.padded(q)

    def step(width, _, i):
        logits, _ = blocks.logits(i, width, padded, k)
        top = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - top)
        norm = weights.sum(-1, keepdims=True)
        vi = blocks.keys(i, width, v)
        out = jnp.einsum("bkgqs,bksh->bkgqh", (weights / norm).astype(v.dtype), vi)
        return None, (out, (top + jnp.log(norm))[..., 0])

    _, (out, lse) = blocks.scan(step, None)
    out, lse = blocks.joined(out), blocks.joined(lse)
    # The output needs the normaliser, whether or not a backward pass will: alone, its sums would be
    # fused and rounded in another way, and a policy be off its reference before the first update.
    out = jnp.where(jnp.isfinite(lse)[..., None], out, jnp.nan)
    # Both come from one loop: it would run again for one of them alone.
    out, lse = checkpoint_name(out, CONTEXT), checkpoint_name(lse, CONTEXT)
    return out, (q, k, v, segment, window, out, lse)


def _backward(softcap, block, saved, d_out):
    q, k, v, segment, window, out, lse = saved
    blocks = _Blocks(segment, window, softcap, block)
    mean = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)  # over keys, of p · dp
    q_all, d_out_all, lse, mean = (blocks.padded(x) for x in (q, d_out, lse, mean))

    def step(width, sums, i):
        of_queries, of_keys = partial(blocks.queries, i), partial(blocks.keys, i, width)
        logits, mask = blocks.logits(i, width, q_all, k)
        p = jnp.where(mask, jnp.exp(logits - of_queries(lse)[..., None]), 0.0)
        d_out_i = of_queries(d_out_all)
        dp = jnp.einsum(
            "bkgqh,bksh->bkgqs", d_out_i, of_keys(v), preferred_element_type=jnp.float32
        )
        ds = p * (dp - of_queries(mean)[..., None])
        if softcap is not None:
            ds *= 1 - jnp.square(jnp.where(mask, logits, 0.0) / softcap)
        p, ds = p.astype(v.dtype), ds.astype(q.dtype)
        to_keys = partial(jnp.einsum, "bkgqs,bkgqh->bksh", preferred_element_type=jnp.float32)
        more = to_keys(ds, of_queries(q_all)), to_keys(p, d_out_i)
        sums = tuple(blocks.add_to_keys(i, width, *pair) for pair in zip(sums, more))
        return sums, jnp.einsum("bkgqs,bksh->bkgqh", ds, of_keys(k))

    zeros = jnp.zeros(k.shape, jnp.float32)
    (dk, dv), dq = blocks.scan(step, (zeros, zeros))
    return blocks.joined(dq), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


class _Blocks:
    """Blocks of queries, and the keys that each of them reads."""

    def __init__(self, segment: Int[Array, "b t"], window, softcap: float | None, block: int):
        self.segment, self.window, self.softcap, self.block = segment, window, softcap, block
        self.tokens = segment.shape[1]
        self.steps = -(-self.tokens // block)
        self.tail = self.steps * block - self.tokens
        # Padding queries get a segment of their own.
        self.q_segment = jnp.pad(segment, ((0, 0), (0, self.tail)), constant_values=-1)

    def padded(self, x: Float[Array, "b k g t ..."]) -> Float[Array, "b k g p ..."]:
        return jnp.pad(x, ((0, 0),) * 3 + ((0, self.tail),) + ((0, 0),) * (x.ndim - 4))

    def joined(self, x: Float[Array, "steps b k g q ..."]) -> Float[Array, "b k g t ..."]:
        """What the blocks gave, without what belongs to padding queries."""
        x = jnp.moveaxis(x, 0, 3)
        return x.reshape(*x.shape[:3], -1, *x.shape[5:])[:, :, :, : self.tokens]

    def queries(self, i, x: Float[Array, "b k g p ..."]) -> Float[Array, "b k g q ..."]:
        return lax.dynamic_slice_in_dim(x, i * self.block, self.block, 3)

    def keys(self, i, width: int, x: Float[Array, "b k t h"]) -> Float[Array, "b k s h"]:
        return lax.dynamic_slice_in_dim(x, self.start(i, width), width, 2)

    def add_to_keys(self, i, width: int, x, y: Float[Array, "b k s h"]) -> Float[Array, "b k t h"]:
        y = self.keys(i, width, x) + y
        return lax.dynamic_update_slice_in_dim(x, y, self.start(i, width), 2)

    def start(self, i, width: int) -> Int[Array, ""]:
        return jnp.maximum(jnp.minimum((i + 1) * self.block, self.tokens) - width, 0)

    def logits(
        self, i, width: int, q: Float[Array, "b k g p h"], k: Float[Array, "b k t h"]
    ) -> tuple[Float[Array, "b k g q s"], Bool[Array, "b 1 1 q s"]]:
        """Those of block i, lowest where they are masked, and the mask."""
        start, take = self.start(i, width), lax.dynamic_slice_in_dim
        q_index, k_index = i * self.block + jnp.arange(self.block), start + jnp.arange(width)
        back = q_index[:, None] - k_index
        mask = (back >= 0) if self.window is None else (back >= 0) & (back < self.window)
        q_segment = take(self.q_segment, i * self.block, self.block, 1)
        mask &= q_segment[:, :, None] == take(self.segment, start, width, 1)[:, None]
        mask = mask[:, None, None]
        qi, ki = self.queries(i, q), self.keys(i, width, k)
        logits = jnp.einsum("bkgqh,bksh->bkgqs", qi, ki, preferred_element_type=jnp.float32)
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        return jnp.where(mask, logits, jnp.finfo(jnp.float32).min), mask

    def scan(self, step: Callable[[int, Any, Any], tuple[Any, Any]], carry):
        """`step(width, carry, i)` -> (carry, what the block gives) for all blocks, each with as few
        keys as will do."""
        t, block = self.tokens, self.block
        if self.steps == 1:
            carry, out = step(t, carry, 0)
            return carry, jax.tree.map(lambda x: x[None], out)
        widths = sorted({min(t, block + -(-t // 2**i)) for i in range(WIDTHS)})
        first = jnp.arange(self.steps) * block
        back = (first - segment_start(self.segment)[:, first]).max(axis=0)
        if self.window is not None:
            back = jnp.minimum(back, self.window - 1)
        choices = jnp.searchsorted(jnp.array(widths), block + back)

        def one(carry, xs):
            i, choice = xs
            return lax.switch(choice, [partial(step, width) for width in widths], carry, i)

        return lax.scan(one, carry, (jnp.arange(self.steps), choices))


def segment_start(segment_bt: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """Index in its row at which each token's segment starts; a padding token is one by itself."""
    t = segment_bt.shape[1]
    begins = jnp.pad(
        segment_bt[:, 1:] != segment_bt[:, :-1], ((0, 0), (1, 0)), constant_values=True
    )
    begins |= segment_bt == 0  # a row's empty end needs no keys
    return lax.cummax(jnp.where(begins, jnp.arange(t), 0), axis=1)
