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
from jaxtyping import Array, Float, Int

from lfjax.compiling import compiler_options
from lfjax.losses import Total
from lfjax.sharding import BATCH, constrain, tree_shardings

# (params, batch, frozen, key) -> (loss, metrics), as Totals. `frozen` are arrays that are not
# trained, `key` is for dropout; both may be None.
LossFn = Callable[[Any, Any, Any, Any], tuple[Total, dict[str, Total]]]


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
    """(params, batch, frozen, key) -> ((loss, metrics), gradients of the loss's sum).

    Over micro-batches, sums and weights are added up before anything is divided, so that ragged
    ones count their tokens, not themselves. Micro-batch i takes rows i, i + n, i + 2n, …: every
    device keeps its own rows. Each has its own dropout.
    """

    def one(params, batch, frozen, key):
        def total(params):
            loss, metrics = loss_fn(params, batch, frozen, key)
            return loss.sum, (loss, metrics)

        grads, out = jax.grad(total, has_aux=True)(params)
        return out, grads

    def split(x):
        if x.shape[0] % micro_batches:
            raise ValueError(f"{x.shape[0]} rows do not split into {micro_batches} micro-batches")
        x = x.reshape(x.shape[0] // micro_batches, micro_batches, *x.shape[1:])
        x = jnp.swapaxes(x, 0, 1)
        return constrain(x, None, BATCH, *(None,) * (x.ndim - 2))

    def accumulated(params, batch, frozen=None, key=None):
        if micro_batches == 1:
            return one(params, batch, frozen, key)
        parts = jax.tree.map(split, batch)
        shapes = jax.eval_shape(one, params, jax.tree.map(lambda x: x[0], parts), frozen, key)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(carry, xs):
            i, part = xs
            own = None if key is None else jax.random.fold_in(key, i)
            return jax.tree.map(jnp.add, carry, one(params, part, frozen, own)), None

        return jax.lax.scan(body, zeros, (jnp.arange(micro_batches), parts))[0]

    return accumulated


def make_train_step(loss_fn: LossFn, tx: optax.GradientTransformation, micro_batches: int = 1):
    """(state, batch, rate, frozen, key) -> (state, metrics): one update against the direction of
    `tx`, or none where loss or gradient is not finite. Dropout depends on the key and the state's
    step alone.

    Metrics are Totals; `loss`, `grad_norm` and `finite` are always among them.
    """
    grad_fn = sum_and_grad(loss_fn, micro_batches)

    def train_step(
        state: TrainState, batch, rate: Float[Array, ""], frozen=None, key=None
    ) -> tuple[TrainState, dict[str, Total]]:
        own = None if key is None else jax.random.fold_in(key, state.step)
        (loss, metrics), grads = grad_fn(state.params, batch, frozen, own)
        weight = jnp.where(loss.weight == 0, 1.0, loss.weight)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss.sum) & jnp.isfinite(norm)
        direction, opt_state = tx.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda d: -rate * d, direction)
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


def jit_train_step(
    train_step, state_shardings, batch_shardings, mesh: Mesh, frozen=None, tuned: bool = True
):
    """The step compiled with explicit shardings (`frozen`: those of the frozen arrays), its state
    donated; `tuned`, with the compiler's options for the mesh's devices."""
    whole = NamedSharding(mesh, P())
    return jax.jit(
        train_step,
        in_shardings=(state_shardings, batch_shardings, whole, frozen, whole),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
        compiler_options=compiler_options(mesh) if tuned else None,
    )


def jit_eval_step(loss_fn: LossFn, param_shardings, batch_shardings, mesh: Mesh, frozen=None):
    """(params, batch, frozen) -> Totals of loss and metrics, without gradients and dropout."""

    def eval_step(params, batch, frozen):
        loss, metrics = loss_fn(params, batch, frozen, None)
        return {**metrics, "loss": loss}

    return jax.jit(
        eval_step,
        in_shardings=(param_shardings, batch_shardings, frozen),
        out_shardings=NamedSharding(mesh, P()),
    )


def batch_shardings(batch, mesh: Mesh):
    """Rows over the data and fsdp axes; everything else of a batch whole."""
    return jax.tree.map(
        lambda x: NamedSharding(mesh, P(BATCH, *(None,) * (len(x.shape) - 1))), batch
    )
