"""The exact KL divergence of two models' next tokens, without a `[b, t, v]` array.

b rows, t tokens, d model, v vocabulary, c tokens of a chunk.

As in `logprobs`, logits exist for one chunk at a time and the backward pass computes them again.
Under a mesh both heads are gathered over `fsdp` once, before the loop over chunks.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from lfjax.losses.logprobs import CHUNK
from lfjax.sharding import BATCH

Output = tuple[Float[Array, "b t _"], Float[Array, "v _"]]


def exact_kl(
    policy: Output,
    reference: Output,
    *,
    chunk: int = CHUNK,
    softcap: tuple[float | None, float | None] = (None, None),
) -> Float[Array, "b t"]:
    """Σ_v π(v) (log π(v) − log π_ref(v)) at every position, float32, with a gradient for the
    policy and none for the reference.

    Args:
      policy, reference: (final hidden states, output embedding), over the same vocabulary.
      chunk: tokens whose logits exist at once, per device.
      softcap: of each model's logits.
    """
    mesh = jax.sharding.get_abstract_mesh()
    arrays = (*policy, *lax.stop_gradient(reference))

    def local(hidden_p, head_p, hidden_q, head_q):
        if not mesh.empty:
            head_p, head_q = _gathered(head_p), _gathered(head_q)

        @jax.checkpoint
        def one(x):
            logp = _log_softmax(x[0], head_p, softcap[0], mesh)
            logq = _log_softmax(x[1], head_q, softcap[1], mesh)
            kl = (jnp.exp(logp) * (logp - logq)).sum(-1)
            return kl if mesh.empty else lax.psum(kl, "tensor")

        b, t, _ = hidden_p.shape
        c = min(chunk, b * t)
        flat = (x.reshape(b * t, -1) for x in (hidden_p, hidden_q))
        chunks = tuple(
            jnp.pad(x, ((0, -(b * t) % c), (0, 0))).reshape(-1, c, x.shape[1]) for x in flat
        )
        return lax.map(one, chunks).reshape(-1)[: b * t].reshape(b, t)

    if not mesh.empty:
        states, head = P(BATCH, None, None), P("tensor", "fsdp")
        specs = (states, head, states, head)
        local = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(BATCH, None))
    return local(*arrays)


def _gathered(head):
    """Whole columns, and of each device its own: else a chunk's gradients would be summed over
    devices at once, in every turn of the loop."""
    head = lax.all_gather(head, "fsdp", axis=1, tiled=True)
    return lax.pcast(head, "data", to="varying")


def _log_softmax(hidden_cd, head_vd, softcap, mesh):
    """Of this device's part of the vocabulary. The head is cast chunk by chunk, so that its
    gradient is added up in its own dtype."""
    head = head_vd.astype(hidden_cd.dtype)
    logits = jnp.einsum("cd,vd->cv", hidden_cd, head, preferred_element_type=jnp.float32)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    top = lax.stop_gradient(logits.max(-1, keepdims=True))
    if not mesh.empty:
        top = lax.pmax(top, "tensor")
    norm = jnp.exp(logits - top).sum(-1, keepdims=True)
    if not mesh.empty:
        norm = lax.psum(norm, "tensor")
    return logits - top - jnp.log(norm)
