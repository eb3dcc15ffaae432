"""Keys and values of the tokens so far, and attention of one new token a slot to them.

b slots, r prompts, t tokens of a prompt, c columns of a block, n heads, k kv heads, g query heads a
kv head, h head size.

A layer's cache is w columns, and the token at position i lies in column i mod w. A layer with a
window has only as many as hold it; the others have as many as the longest request needs. The
columns are cut into blocks, each as long as all before it together, and attention goes over blocks,
no further than the longest request in the slots has come. What a block adds to a slot for which all
of it is masked is exactly nothing, so that how far others have come, and what a column that was
never written holds, changes no bit.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from lfjax.models.attention import attention
from lfjax.models.config import ModelConfig
from lfjax.sharding import BATCH

FIRST = 64  # columns of the first block, of which every other is a multiple
LOW = -1e30  # a logit that is masked; of two of them the difference is a number

# Blocks are arrays of their own: on CPU a slice of one array is copied before it is multiplied,
# which takes four times as long as the product.
Block = tuple[Float[Array, "b k _ h"], Float[Array, "b k _ h"]]  # keys, values
Layer = tuple[Block, ...]
Prompt = tuple[Float[Array, "r t k h"], Float[Array, "r t k h"]]


def empty(config: ModelConfig, slots: int, tokens: int, dtype) -> tuple[Layer, ...]:
    """A cache for requests of up to `tokens` tokens."""

    def block(columns):
        shape = (slots, config.n_kv_heads, columns, config.head_dim)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    windows = config.windows or (0,) * config.n_layers
    return tuple(
        tuple(block(columns) for columns in block_sizes(min(tokens, window or tokens)))
        for window in windows
    )


def block_sizes(tokens: int) -> list[int]:
    """Columns of each block of a layer for so many tokens: 64, 64, 128, 256, …"""
    sizes: list[int] = []
    while (have := sum(sizes)) < tokens:
        sizes.append(min(max(FIRST, have), -(-(tokens - have) // FIRST) * FIRST))
    return sizes


def blocks_of(layer: Layer) -> tuple[list[int], int]:
    """(first column of each block, columns of all)."""
    starts, have = [], 0
    for keys, _ in layer:
        starts.append(have)
        have += keys.shape[2]
    return starts, have


def attend_prompt(q, k, v, segment, **how):
    """`attention`, and the keys and values to be kept."""
    return attention(q, k, v, segment, **how), (k, v)


def attend_cached(
    layer: Layer,
    position: Int[Array, "b"],
    reach: Int[Array, ""],
    q_btnh: Float[Array, "b 1 n h"],
    k_btkh: Float[Array, "b 1 k h"],
    v_btkh: Float[Array, "b 1 k h"],
    segment: Int[Array, "b 1"],
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Float[Array, "b 1 n h"], Layer]:
    """Attention of one new token a slot, at `position`, to itself and to what the layer holds; with
    the layer that holds it too.

    The softmax is summed up block by block (Milakov & Gimelshein 2018, arXiv 1805.02867, algorithm
    3), in float32.

    Args:
      reach: the largest position that counts; slots that are beyond it get arbitrary outputs.
    """
    starts, w = blocks_of(layer)

    def local(layer, position, reach, q, k, v):
        b, _, n, h = q.shape
        kv = k.shape[2]
        q = q.reshape(b, kv, n // kv, h) * (h**-0.5 if scale is None else scale)

        def write(block, start):
            # Not under vmap: on CPU that copies the block. Columns of other blocks are none of it.
            column = position % w - start
            column = jnp.where(column < 0, w, column)
            here = jnp.arange(b), slice(None), column
            return tuple(x.at[here].set(y[:, 0], mode="drop") for x, y in zip(block, (k, v)))

        def add(block, start, carry):
            (keys, values), (top, norm, out) = block, carry
            logits = jnp.einsum("bkgh,bkch->bkgc", q, keys, preferred_element_type=jnp.float32)
            if softcap is not None:
                logits = softcap * jnp.tanh(logits / softcap)
            column = start + jnp.arange(keys.shape[2])
            back = (position[:, None] - column) % w  # tokens ago
            seen = back <= position[:, None]
            if window is not None:
                seen &= back < window
            logits = jnp.where(seen[:, None, None], logits, LOW)
            new_top = jnp.maximum(top, logits.max(-1))
            weights, kept = jnp.exp(logits - new_top[..., None]), jnp.exp(top - new_top)
            part = jnp.einsum("bkgc,bkch->bkgh", weights.astype(values.dtype), values)
            return new_top, norm * kept + weights.sum(-1), out * kept[..., None] + part

        layer = tuple(write(block, start) for block, start in zip(layer, starts))
        zeros = jnp.zeros(q.shape[:3], jnp.float32)
        carry = zeros + LOW, zeros, jnp.zeros(q.shape, jnp.float32)
        for block, start in zip(layer, starts):
            step = lambda block, carry, start=start: add(block, start, carry)  # noqa: E731
            carry = lax.cond(start <= reach, step, lambda _, carry: carry, block, carry)
        _, norm, out = carry
        return (out / norm[..., None]).astype(v.dtype).reshape(b, 1, n, h), layer

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        # Left to itself, a write into shards would gather what is written.
        heads, columns = P(BATCH, None, "tensor", None), P(BATCH, "tensor", None, None)
        specs = (columns, P(BATCH), P(), heads, heads, heads)
        how = dict(in_specs=specs, out_specs=(heads, columns), check_vma=False)
        local = jax.shard_map(local, mesh=mesh, **how)
    return local(layer, position, reach, q_btnh, k_btkh, v_btkh)


def with_prompts(
    cache: tuple[Layer, ...],
    prompts: tuple[Prompt, ...],
    lengths: Int[Array, "r"],
    slots: Int[Array, "r"],
) -> tuple[Layer, ...]:
    """The cache with the slots' first columns replaced by keys and values of prompts of the given
    lengths; a slot beyond the last is left out."""
    last = lengths[:, None] - 1

    def with_prompt(layer, prompt):
        starts, w = blocks_of(layer)
        t = prompt[0].shape[1]

        def one(kept, new, start):
            column = start + jnp.arange(kept.shape[2])
            # The last token whose column this is; before the first one, anything.
            token = jnp.clip(last - (last - column) % w, 0, t - 1)
            new = jnp.take_along_axis(new, token[:, :, None, None], axis=1).transpose(0, 2, 1, 3)
            return kept.at[slots].set(new.astype(kept.dtype), mode="drop")

        return tuple(
            tuple(one(x, y, start) for x, y in zip(block, prompt)) if start < t else block
            for block, start in zip(layer, starts)
        )

    return tuple(with_prompt(layer, prompt) for layer, prompt in zip(cache, prompts))
