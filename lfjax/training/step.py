"""The train step: gradients of (sum, weight) losses, micro-batches, the update, and what is skipped
when not finite.

b rows, t tokens.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from lfjax.losses import Total
from lfjax.sharding import BATCH, constrain, tree_shardings

# (params, batch) -> (loss, metrics), both as Totals
LossFn = Callable[[Any, Any], tuple[Total, dict[str, Total]]]


@no_type_check  # tree.map also fills it with shapes and shardings
@struct.dataclass
class TrainState:
    """All that a run needs to continue; nothing random is stored."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def init_state(params, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def abstract_state(params, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state of such parameters as ShapeDtypeStructs with shardings: what a checkpoint restores
    into. Nothing is allocated."""
    shapes = jax.eval_shape(lambda p: init_state(p, tx), params)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh),
    )


def new_state(params, tx: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """The state before the first step, its moments born on their shards. `params` is donated."""
    start = jax.jit(lambda p: init_state(p, tx), out_shardings=shardings, donate_argnums=0)
    return start(params)


def sum_and_grad(loss_fn: LossFn, micro_batches: int = 1):
    """(params, batch) -> ((loss, metrics), gradients of the loss's sum), over micro-batches.

    Sums and weights are added up before anything is divided, so that ragged micro-batches count
    their tokens, not themselves. Micro-batch i takes rows i, i + n, i + 2n, …: every device keeps
    its own rows.
    """

    def one(params, batch):
        def total(params):
            loss, metrics = loss_fn(params, batch)
            return loss.sum, (loss, metrics)

        grads, out = jax.grad(total, has_aux=True)(params)
        return out, grads

    if micro_batches == 1:
        return one

    def split(x):
        if x.shape[0] % micro_batches:
            raise ValueError(f"{x.shape[0]} rows do not split into {micro_batches} micro-batches")
        x = jnp.swapaxes(x.reshape(-1, micro_batches, *x.shape[1:]), 0, 1)
        return constrain(x, None, BATCH, *(None,) * (x.ndim - 2))

    def accumulated(params, batch):
        parts = jax.tree.map(split, batch)
        shapes = jax.eval_shape(one, params, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(carry, part):
            return jax.tree.map(jnp.add, carry, one(params, part)), None

        return jax.lax.scan(body, zeros, parts)[0]

    return accumulated


def make_train_step(loss_fn: LossFn, tx: optax.GradientTransformation, micro_batches: int = 1):
    """(state, batch) -> (state, metrics): one update, or none where loss or gradient is not finite.

    Metrics are Totals; `loss`, `grad_norm` and `finite` are always among them.
    """
    grad_fn = sum_and_grad(loss_fn, micro_batches)

    def train_step(state: TrainState, batch) -> tuple[TrainState, dict[str, Total]]:
        (loss, metrics), grads = grad_fn(state.params, batch)
        weight = jnp.where(loss.weight == 0, 1.0, loss.weight)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss.sum) & jnp.isfinite(norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        one = jnp.ones(())
        return state, {
            **metrics,
            "loss": loss,
            "grad_norm": Total(norm, one),
            "finite": Total(finite.astype(jnp.float32), one),
        }

    return train_step


def jit_train_step(train_step, state_shardings, batch_shardings, mesh: Mesh):
    """The step compiled with explicit shardings, its state donated."""
    return jax.jit(
        train_step,
        in_shardings=(state_shardings, batch_shardings),
        out_shardings=(state_shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
    )


def jit_eval_step(loss_fn: LossFn, param_shardings, batch_shardings, mesh: Mesh):
    """(params, batch) -> Totals of loss and metrics, without gradients."""

    def eval_step(params, batch):
        loss, metrics = loss_fn(params, batch)
        return {**metrics, "loss": loss}

    return jax.jit(
        eval_step,
        in_shardings=(param_shardings, batch_shardings),
        out_shardings=NamedSharding(mesh, P()),
    )


def batch_shardings(batch, mesh: Mesh):
    """Rows over the data and fsdp axes; everything else of a batch whole."""
    return jax.tree.map(
        lambda x: NamedSharding(mesh, P(BATCH, *(None,) * (len(x.shape) - 1))), batch
    )
