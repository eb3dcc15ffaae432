"""The device programs of a recipe's stages, ready to be compiled: shapes and shardings in place of
arrays. They are built by the functions that the stages run; no weight is read, and no record.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfjax.data.plan import make_plan
from lfjax.data.rows import Rows
from lfjax.errors import UserError
from lfjax.generation.engine import make_engine
from lfjax.methods import get_method
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import abstract_params, dtype_of
from lfjax.models.flops import matmul_params, train_flops
from lfjax.planning.shapes import shape_of
from lfjax.sharding import BATCH, DECODE_RULES, axis_size, tree_shardings
from lfjax.stages.reference import make_scorer
from lfjax.stages.trainable import check_heads, outline
from lfjax.training.optimizer import make_optimizer
from lfjax.training.step import (
    abstract_state,
    batch_shardings,
    jit_train_step,
    make_train_step,
)

SEGMENTS = 2  # of a record, where the loss reads whole segments: a pair


@dataclass(frozen=True)
class Program:
    """One compiled function of a stage.

    Attributes:
      stage, name: whose, and what it does.
      about: its shapes, for the reader.
      function: a jitted function.
      args: its arguments as ShapeDtypeStructs with shardings.
      parts: what of the arguments is the parameters, the optimizer's state, …, by name.
      tokens: that one call goes over, or draws.
      model_flops: that the arithmetic of one call needs, over all chips.
      config: of the stage.
    """

    stage: str
    name: str
    about: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    parts: dict[str, Any]
    tokens: int
    model_flops: float
    config: Any


def programs_of(config, name: str, mesh: Mesh, example_tokens: int) -> Iterator[Program]:
    """The programs of one stage of a recipe; none of a stage that runs no model, or asks a server.

    Args:
      example_tokens: of one example with all its views, where a batch is so many examples; 0 for a
        row's.

    Raises: UserError where model, mesh and sizes do not go together.
    """
    c = config.stages[name]
    if c.kind == "train":
        yield from _training(config, name, mesh, example_tokens)
    elif "slots" in c and "endpoint" in c and _asks_model(c):
        yield from _generation(config, name, mesh)


def _asks_model(c) -> bool:
    return bool(c.init) and not c.endpoint.url


def model_of(config, name: str) -> ModelConfig:
    """The shape of the model of a stage: that of the model block at the start of its line.

    Raises: UserError where that has no path, or no shape is known for it.
    """
    init = config.stages[name].init
    while isinstance(init, str) and init in config.order:
        init = config.stages[init].init
    path = init if isinstance(init, str) else init.path
    if not path:
        raise UserError(
            f"stage '{name}': model.path is not set: give a directory with the model's "
            "config.json, or a hub id, --config.model.path=DIR."
        )
    return shape_of(path)


# --- training ---------------------------------------------------------------------------------


def _training(config, name: str, mesh: Mesh, example_tokens: int) -> Iterator[Program]:
    c = config.stages[name]
    method, model = get_method(c.method), model_of(config, name)
    options = method.checked(c.options.to_dict())
    check_heads(model, mesh)
    shape = outline(c, model, scalar=method.scores)
    batch, lengths = _batch(c, method, mesh, config.seed, example_tokens)
    rows_sharding = batch_shardings(Rows.empty(1, 1), mesh)
    batch = _placed(batch, rows_sharding)
    frozen = None if shape.frozen is None else _split(shape.frozen, mesh)
    frozen_shardings = jax.tree.map(lambda x: x.sharding, frozen)

    def loss_fn(trained, rows, frozen, key):
        return method.loss(shape.logprobs(trained, rows, frozen, key), rows, **options)

    tx = make_optimizer(c.optimizer)
    state = abstract_state(shape.abstract, tx, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(loss_fn, tx, c.micro_batches)
    step = jit_train_step(step, shardings, rows_sharding, mesh, frozen_shardings)
    whole = NamedSharding(mesh, P())
    rate, key = _placed((np.float32(0), jax.eval_shape(jax.random.key, 0)), whole)
    parameters = {"parameters": state.params, "frozen parameters": frozen}
    flops = train_flops(model, lengths)
    if frozen is not None:  # no gradients of the base itself
        flops -= 2.0 * matmul_params(model) * sum(lengths)
    about = "{} rows × {:,} tokens".format(*batch.tokens.shape)
    shared = dict(stage=name, about=about, tokens=sum(lengths), config=c)
    yield Program(
        name="train step",
        function=step,
        args=(state, batch, rate, frozen, key),
        parts=parameters | {"optimizer": state.opt_state, "batch": batch},
        model_flops=flops,
        **shared,
    )
    if method.needs_reference(**options):
        both = (state.params, frozen)
        score = make_scorer(mesh, shape.logprobs, jax.tree.map(lambda x: x.sharding, both))
        yield Program(
            name="reference pass",
            function=score,
            args=(both, batch),
            parts=parameters | {"batch": batch},
            model_flops=train_flops(model, lengths) / 3,
            **shared,
        )


def _batch(c, method, mesh: Mesh, seed: int, example_tokens: int) -> tuple[Rows, list[int]]:
    """A step's rows, and the lengths of segments that would fill them."""
    multiple = axis_size(mesh, BATCH) * c.micro_batches
    if c.row_tokens < c.max_tokens:
        raise UserError(f"row_tokens={c.row_tokens} is less than max_tokens={c.max_tokens}.")
    one = min(example_tokens or c.row_tokens, c.row_tokens)
    count = c.batch_examples or c.batch_rows * (c.row_tokens // one)
    plan = make_plan(
        np.full(count, one),
        row_tokens=c.row_tokens,
        seed=seed,
        batch_examples=c.batch_examples,
        batch_rows=c.batch_rows,
        multiple=multiple,
        steps=1,
    )
    tables = plan.row_units * SEGMENTS if method.normalize == "pair" or method.scores else 0
    rows = Rows.empty(int(plan.rows[0]), c.row_tokens, tables)
    longest = min(c.max_tokens, one)
    whole, rest = divmod(c.row_tokens, longest)
    return rows, ([longest] * whole + [rest] * bool(rest)) * len(rows.mass)


# --- generation -------------------------------------------------------------------------------


def _generation(config, name: str, mesh: Mesh) -> Iterator[Program]:
    c, model = config.stages[name], model_of(config, name)
    engine = make_engine(model, mesh, slots=c.slots, max_tokens=c.max_tokens, dtype=c.dtype)
    cast = dtype_of(c.dtype)
    params = jax.eval_shape(engine.place, abstract_params(model))
    params = _split(params, mesh, DECODE_RULES)
    state = jax.eval_shape(lambda: engine.empty(c.max_tokens))
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(BATCH, None))
    columns = NamedSharding(mesh, P(BATCH, "tensor", None, None))
    state = state.replace(
        slots=_placed(state.slots, whole),
        seen=_placed(state.seen, rows),
        cache=_placed(state.cache, columns),
    )
    shared = dict(stage=name, config=c)
    bucket = engine.prompt_buckets[-1]
    prompts = engine.prefill_rows(bucket)
    tokens, lengths = np.zeros((prompts, bucket), np.int32), np.zeros(prompts, np.int32)
    forward = train_flops(model, [bucket] * prompts) / 3
    yield Program(
        name="prefill",
        about=f"{prompts} prompts × {bucket:,} tokens, {jnp.dtype(cast)}",
        function=engine.prefill,
        args=(params, *_placed((tokens, lengths), whole)),
        parts={"parameters": params},
        tokens=prompts * bucket,
        model_flops=forward - 2.0 * model.d_model * model.vocab_size * prompts * bucket,
        **shared,
    )
    alive, number = np.zeros(c.slots, bool), np.int32(0)
    reach = sum(min(window or c.max_tokens, c.max_tokens) for window in model.windows)
    reach = reach or model.n_layers * c.max_tokens
    attention = 4.0 * model.n_heads * model.head_dim * reach
    yield Program(
        name="decode",
        about=f"one token for {c.slots} slots of {c.max_tokens:,} tokens, {jnp.dtype(cast)}",
        function=engine.decode,
        args=(params, state, *_placed((alive, number, number), whole)),
        parts={"parameters": params, "cache": state.cache},
        tokens=c.slots,
        model_flops=c.slots * (2.0 * matmul_params(model) + attention),
        **shared,
    )


# --- shapes -----------------------------------------------------------------------------------


def _placed(tree, shardings):
    """ShapeDtypeStructs of the shapes of a tree, with one sharding or a tree of them."""
    if isinstance(shardings, NamedSharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _split(tree, mesh: Mesh, *rules):
    """The same, with the shardings of a rules table."""
    return _placed(tree, tree_shardings(tree, mesh, *rules))
