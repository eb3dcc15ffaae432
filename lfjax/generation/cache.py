"""Keys and values of the tokens so far, and attention of one new token a slot to them.

b slots, r prompts, t tokens of a prompt, p blocks, c columns of a block, n heads, k kv heads, g
query heads a kv head, h head size.

A layer's cache is p blocks of c columns, and the token at position i lies in column i mod p·c. A
layer with a window has only the blocks that hold it; the others have as many as the longest request
needs. Attention goes over blocks, no further than the longest request in the slots has come. What a
block adds to a slot for which all of it is masked is exactly nothing, so that how far others have
come, and what a column that was never written holds, changes no bit.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from lfjax.models.attention import attention
from lfjax.models.config import ModelConfig
from lfjax.sharding import BATCH

BLOCK = 64  # columns; on CPU 32 to 64 were 1.4 times as fast as 128 at 100 of 256 tokens
LOW = -1e30  # a logit that is masked; of two of them the difference is a number

Layer = tuple[Float[Array, "_ b k c h"], Float[Array, "_ b k c h"]]  # keys, values
Prompt = tuple[Float[Array, "r t k h"], Float[Array, "r t k h"]]


def empty(config: ModelConfig, slots: int, tokens: int, dtype) -> tuple[Layer, ...]:
    """A cache for requests of up to `tokens` tokens."""

    def layer(window):
        blocks = -(-min(tokens, window or tokens) // BLOCK)
        shape = (blocks, slots, config.n_kv_heads, BLOCK, config.head_dim)
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    return tuple(layer(window) for window in config.windows or (0,) * config.n_layers)


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

    def local(layer, position, reach, q, k, v):
        b, _, n, h = q.shape
        p, _, kv, c, _ = layer[0].shape
        column = position % (p * c)
        # Not under vmap: on CPU that copies the cache.
        here = column // c, jnp.arange(b), slice(None), column % c
        keys, values = layer[0].at[here].set(k[:, 0]), layer[1].at[here].set(v[:, 0])
        q = q.reshape(b, kv, n // kv, h) * (h**-0.5 if scale is None else scale)

        def add(i, carry):
            top, norm, out = carry
            logits = jnp.einsum("bkgh,bkch->bkgc", q, keys[i], preferred_element_type=jnp.float32)
            if softcap is not None:
                logits = softcap * jnp.tanh(logits / softcap)
            back = (position[:, None] - (i * c + jnp.arange(c))) % (p * c)  # tokens ago
            seen = back <= position[:, None]
            if window is not None:
                seen &= back < window
            logits = jnp.where(seen[:, None, None], logits, LOW)
            new_top = jnp.maximum(top, logits.max(-1))
            weights, kept = jnp.exp(logits - new_top[..., None]), jnp.exp(top - new_top)
            part = jnp.einsum("bkgc,bkch->bkgh", weights.astype(values.dtype), values[i])
            return new_top, norm * kept + weights.sum(-1), out * kept[..., None] + part

        zeros = jnp.zeros(q.shape[:3], jnp.float32)
        start = zeros + LOW, zeros, jnp.zeros(q.shape, jnp.float32)
        _, norm, out = lax.fori_loop(0, jnp.minimum(reach // c + 1, p), add, start)
        out = (out / norm[..., None]).astype(values.dtype)
        return out.reshape(b, 1, n, h), (keys, values)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        # Left to itself, a write into shards would gather what is written.
        heads, blocks = P(BATCH, None, "tensor", None), P(None, BATCH, "tensor", None, None)
        specs = (blocks, P(BATCH), P(), heads, heads, heads)
        how = dict(in_specs=specs, out_specs=(heads, blocks), check_vma=False)
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

    def one(kept, new):
        p, _, kv, c, h = kept.shape
        r, t = new.shape[:2]
        blocks = min(p, -(-t // c))
        # The last token whose column this is; before the first one, anything.
        last = lengths[:, None] - 1
        token = jnp.clip(last - (last - jnp.arange(blocks * c)) % (p * c), 0, t - 1)
        new = jnp.take_along_axis(new, token[:, :, None, None], axis=1)
        new = new.reshape(r, blocks, c, kv, h).transpose(1, 0, 3, 2, 4)
        return kept.at[:blocks, slots].set(new.astype(kept.dtype), mode="drop")

    return jax.tree.map(one, cache, prompts)
