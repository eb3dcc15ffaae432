"""Token log-probabilities without a `[b, t, v]` array, forward and backward.

b rows, t tokens, d model, v vocabulary, n tokens of all local rows, c tokens of one chunk.

Logits exist for one chunk of tokens at a time; the backward pass computes them again from the saved
normaliser. Under a mesh the head is gathered over `fsdp` once, before the loop over chunks, and its
gradient, accumulated in float32 on each device, is scattered back once after it, so that no loop
body holds a collective of the head's size.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from lfjax.sharding import BATCH, tokens_axis

CHUNK = 512  # tokens: at 128 K words one chunk of float32 logits is 262 MB


def token_logprobs(
    hidden: Float[Array, "b t d"],
    head: Float[Array, "v d"],
    targets: Int[Array, "b t"],
    *,
    chunk: int = CHUNK,
    softcap: float | None = None,
) -> Float[Array, "b t"]:
    """log softmax(hidden · headᵀ)[target] in float32.

    Args:
      hidden: final hidden states in the compute dtype, which is the dtype of the matrix products.
      head: output embedding.
      targets: the token that each position predicts, in [0, v).
      chunk: tokens whose logits exist at once, per device.
      softcap: c, where logits are c·tanh(hidden · headᵀ / c).
    """
    mesh = jax.sharding.get_abstract_mesh()
    return _logprobs(hidden, head, targets, chunk, softcap, None if mesh.empty else mesh)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _logprobs(hidden, head, targets, chunk, softcap, mesh):
    return _forward(hidden, head, targets, chunk, softcap, mesh)[0]


def _forward(hidden, head, targets, chunk, softcap, mesh):
    def local(hidden, head, targets):
        head = _gathered(head, hidden.dtype, mesh)
        flat = hidden.reshape(-1, hidden.shape[-1])
        logp, lse = _scan_forward(flat, head, targets.reshape(-1), chunk, softcap, mesh)
        return logp.reshape(targets.shape), lse.reshape(targets.shape)

    if mesh is not None:
        seq = tokens_axis(mesh, targets.shape[1])
        tokens = P(BATCH, seq)
        specs = (P(BATCH, seq, None), P("tensor", "fsdp"), tokens)
        local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(tokens, tokens))
    logp, lse = local(hidden, head, targets)
    return logp, (hidden, head, targets, lse)


def _backward(chunk, softcap, mesh, saved, g):
    hidden, head, targets, lse = saved
    seq = None if mesh is None else tokens_axis(mesh, targets.shape[1])

    def local(hidden, head, targets, lse, g):
        full = _gathered(head, hidden.dtype, mesh)
        flat = hidden.reshape(-1, hidden.shape[-1])
        columns = (x.reshape(-1) for x in (targets, lse, g))
        d_hidden, d_head = _scan_backward(flat, full, *columns, chunk, softcap, mesh, seq)
        if mesh is not None:
            d_hidden = lax.psum(d_hidden, "tensor")
            d_head = lax.psum_scatter(d_head, "fsdp", scatter_dimension=1, tiled=True)
            d_head = lax.psum(d_head, ("data", seq) if seq else "data")
        return d_hidden.reshape(hidden.shape).astype(hidden.dtype), d_head.astype(head.dtype)

    if mesh is not None:
        rows, tokens, words = P(BATCH, seq, None), P(BATCH, seq), P("tensor", "fsdp")
        specs = (rows, words, tokens, tokens, tokens)
        local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(rows, words))
    # The head's gradient is whole on each device until it is scattered: not only after the layers'.
    d_hidden, d_head = lax.optimization_barrier(local(hidden, head, targets, lse, g))
    return d_hidden, d_head, None


_logprobs.defvjp(_forward, _backward)


def _gathered(head, dtype, mesh):
    head = head.astype(dtype)  # before the gather: half the bytes in bfloat16
    return head if mesh is None else lax.all_gather(head, "fsdp", axis=1, tiled=True)


def _chunks(chunk: int, *arrays):
    """[n, …] arrays as [n / c, c, …], padded with zeros."""
    n = arrays[0].shape[0]
    c = min(chunk, n)
    pad = -n % c
    return tuple(
        jnp.pad(a, ((0, pad),) + ((0, 0),) * (a.ndim - 1)).reshape(-1, c, *a.shape[1:])
        for a in arrays
    )


def _logits(hidden_cd, head_vd, softcap):
    logits = jnp.einsum("cd,vd->cv", hidden_cd, head_vd, preferred_element_type=jnp.float32)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _local_targets(targets_c, head_vd, mesh):
    """Indices into this device's part of the vocabulary; out of range where another device holds
    the word."""
    return targets_c if mesh is None else targets_c - lax.axis_index("tensor") * head_vd.shape[0]


def _scan_forward(hidden_nd, head_vd, targets_n, chunk, softcap, mesh):
    def body(_, xs):
        hidden_cd, targets_c = xs
        logits = _logits(hidden_cd, head_vd, softcap)
        index = _local_targets(targets_c, head_vd, mesh)
        here = (index >= 0) & (index < head_vd.shape[0])
        picked = jnp.take_along_axis(logits, jnp.where(here, index, 0)[:, None], axis=1)[:, 0]
        picked = jnp.where(here, picked, 0.0)
        top = logits.max(axis=1)
        if mesh is not None:
            top = lax.pmax(top, "tensor")
        norm = jnp.exp(logits - top[:, None]).sum(axis=1)
        if mesh is not None:
            norm, picked = lax.psum((norm, picked), "tensor")
        lse = top + jnp.log(norm)
        return None, (picked - lse, lse)

    n = targets_n.shape[0]
    _, (logp, lse) = lax.scan(body, None, _chunks(chunk, hidden_nd, targets_n))
    return logp.reshape(-1)[:n], lse.reshape(-1)[:n]


def _scan_backward(hidden_nd, head_vd, targets_n, lse_n, g_n, chunk, softcap, mesh, seq):
    def body(d_head, xs):
        hidden_cd, targets_c, lse_c, g_c = xs
        index = _local_targets(targets_c, head_vd, mesh)
        # The comparison fuses into the subtraction: no one-hot array is stored. Target and softmax
        # are combined before the cast, because their difference is small where the model is
        # confident.
        is_target = jnp.arange(head_vd.shape[0])[None] == index[:, None]
        logits = _logits(hidden_cd, head_vd, softcap)
        d_logits = g_c[:, None] * (is_target - jnp.exp(logits - lse_c[:, None]))
        if softcap is not None:
            d_logits *= 1 - jnp.square(logits / softcap)
        d_logits = d_logits.astype(hidden_cd.dtype)
        d_hidden = jnp.einsum("cv,vd->cd", d_logits, head_vd, preferred_element_type=jnp.float32)
        d_head += jnp.einsum("cv,cd->vd", d_logits, hidden_cd, preferred_element_type=jnp.float32)
        return d_head, d_hidden

    zeros = jnp.zeros(head_vd.shape, jnp.float32)
    if mesh is not None:
        varying = (*BATCH, "tensor", *([seq] if seq else []))
        zeros = lax.pcast(zeros, varying, to="varying")
    d_head, d_hidden = lax.scan(body, zeros, _chunks(chunk, hidden_nd, targets_n, lse_n, g_n))
    return d_hidden.reshape(-1, hidden_nd.shape[-1])[: hidden_nd.shape[0]], d_head
