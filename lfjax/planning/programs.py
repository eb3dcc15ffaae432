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
from lfjax.data.rollouts import Rollouts, row_shapes
from lfjax.data.rows import Rows
from lfjax.errors import UserError
from lfjax.generation.engine import make_engine
from lfjax.methods import get_estimator, get_method
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import abstract_params, dtype_of
from lfjax.models.flops import matmul_params, train_flops
from lfjax.models.hf import frozen_shapes
from lfjax.models.scalar import NAME as HEAD
from lfjax.models.scalar import abstract_head
from lfjax.planning.shapes import shape_of
from lfjax.sharding import BATCH, DECODE_RULES, axis_size, tree_shardings
from lfjax.stages.policy import forwards, jit_measured
from lfjax.stages.reference import make_scorer
from lfjax.stages.scoring import jit_scores, widest_rows
from lfjax.stages.trainable import abstract_base, check_heads, lora_config, outline
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
    elif c.kind == "rl":
        yield from _generation(c, name, model_of(config, c.init), mesh, c.rollout_dtype)
        yield from _policy(config, name, mesh)
        for block in c.rewards.values():
            if block.model in config.order:
                yield _scoring(config, name, block.model, mesh, block.dtype)
    elif c.kind in ("rank", "gaps"):
        yield _scoring(config, name, c.init, mesh, c.dtype)
    elif "slots" in c and "endpoint" in c and _asks_model(c):
        yield from _generation(c, name, model_of(config, c.init), mesh, c.dtype)


def _asks_model(c) -> bool:
    return bool(c.init) and not c.endpoint.url


def model_of(config, init) -> ModelConfig:
    """The shape of a stage's model, by its `init`: that of the model block at the start of its
    line.

    Raises: UserError where that has no path, or no shape is known for it.
    """
    while isinstance(init, str) and init in config.order:
        init = config.stages[init].init
    path = init if isinstance(init, str) else init.path
    if not path:
        raise UserError(
            "model.path is not set: give a directory with the model's config.json, or a hub id, "
            "--config.model.path=DIR."
        )
    return shape_of(path)


# --- training ---------------------------------------------------------------------------------


def _training(config, name: str, mesh: Mesh, example_tokens: int) -> Iterator[Program]:
    c = config.stages[name]
    method, model = get_method(c.method), model_of(config, c.init)
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

    key = _placed(jax.eval_shape(jax.random.key, 0), NamedSharding(mesh, P()))
    step, state, rate = _step(c, loss_fn, shape.abstract, rows_sharding, mesh, frozen_shardings)
    parameters = {"parameters": state.params, "frozen parameters": frozen}
    about = "{} rows × {:,} tokens".format(*batch.tokens.shape)
    shared = dict(stage=name, about=about, tokens=sum(lengths), config=c)
    yield Program(
        name="train step",
        function=step,
        args=(state, batch, rate, frozen, key),
        parts=parameters | {"optimizer": state.opt_state, "batch": batch},
        model_flops=_step_flops(model, lengths, adapters=frozen is not None),
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


def _step(c, loss_fn, trained, batch_sharding, mesh: Mesh, frozen_shardings):
    """(a train step, its state, its rate)."""
    tx = make_optimizer(c.optimizer)
    state = abstract_state(trained, tx, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(loss_fn, tx, c.micro_batches)
    how = (mesh, frozen_shardings, c.compiler_options)
    step = jit_train_step(step, shardings, batch_sharding, *how)
    return step, state, _placed(np.float32(0), NamedSharding(mesh, P()))


def _step_flops(model: ModelConfig, lengths: list[int], *, adapters: bool) -> float:
    flops = train_flops(model, lengths)
    # Of a base under adapters there are no gradients.
    return flops - 2.0 * matmul_params(model) * sum(lengths) if adapters else flops


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
    return rows, _lengths(c.row_tokens, min(c.max_tokens, one)) * len(rows.mass)


def _lengths(row_tokens: int, longest: int) -> list[int]:
    """Of segments that fill a row."""
    whole, rest = divmod(row_tokens, longest)
    return [longest] * whole + [rest] * bool(rest)


# --- policy gradients -------------------------------------------------------------------------


def _policy(config, name: str, mesh: Mesh) -> Iterator[Program]:
    """What a stage does with its rollouts; the models that reward them are not among it."""
    c = config.stages[name]
    estimator, model = get_estimator(c.estimator), model_of(config, c.init)
    options = estimator.checked(c.options.to_dict())
    check_heads(model, mesh)
    shape, lora = outline(c, model), lora_config(c.lora, model)
    shared = lora is not None and c.kl_to == c.init and not c.lora.adapter
    ref_model = model_of(config, c.kl_to)
    reference = None if shared else abstract_base(ref_model, c.kl_dtype)
    frozen = _split({"base": shape.frozen, "reference": reference}, mesh)
    frozen_shardings = jax.tree.map(lambda x: x.sharding, frozen)
    how = dict(shared=shared, exact=options["kl"] == "exact")
    outputs, measured = forwards(c, model, ref_model, lora, **how)

    def loss_fn(trained, batch, frozen, key):
        return estimator.loss(*outputs(trained, batch.rows, frozen), batch, **options)

    responses = c.prompts * c.samples // c.mini_batches
    multiple = axis_size(mesh, BATCH) * c.micro_batches
    sizes = dict(max_tokens=c.max_tokens, row_tokens=c.row_tokens, multiple=multiple)
    batch = Rollouts.empty(row_shapes(responses, **sizes)[-1], c.row_tokens)
    batch_sharding = batch_shardings(batch, mesh)
    batch = _placed(batch, batch_sharding)
    step, state, rate = _step(c, loss_fn, shape.abstract, batch_sharding, mesh, frozen_shardings)
    held = {"frozen parameters": shape.frozen and frozen["base"], "reference": frozen["reference"]}
    parts = {"parameters": state.params, **held, "batch": batch.rows}
    lengths = _lengths(c.row_tokens, c.max_tokens) * len(batch.rows.mass)
    about = "{} rows × {:,} tokens".format(*batch.rows.tokens.shape)
    told = dict(stage=name, about=about, tokens=sum(lengths), config=c)
    trained_shardings = jax.tree.map(lambda x: x.sharding, state.params)
    yield Program(
        name="log-probabilities",
        function=jit_measured(measured, trained_shardings, frozen_shardings, mesh),
        args=(state.params, batch.rows, frozen),
        parts=parts,
        model_flops=(train_flops(model, lengths) + train_flops(ref_model, lengths)) / 3,
        **told,
    )
    yield Program(
        name="train step",
        function=step,
        args=(state, batch, rate, frozen, None),
        parts=parts | {"optimizer": state.opt_state},
        model_flops=_step_flops(model, lengths, adapters=lora is not None),
        **told,
    )


def _scoring(config, name: str, scorer: str, mesh: Mesh, dtype: str) -> Program:
    """The forward pass of a reward model that an earlier stage trained, over the longest texts."""
    trained = config.stages[scorer]
    model = model_of(config, trained.init)
    rows = widest_rows(trained.max_tokens, axis_size(mesh, BATCH))
    batch = _placed(rows, batch_shardings(rows, mesh))
    params = _split(frozen_shapes(model, dtype), mesh)
    head = _placed(abstract_head(model)[HEAD], NamedSharding(mesh, P()))
    b, t = rows.tokens.shape
    forward = train_flops(model, [t] * b) / 3
    return Program(
        stage=name,
        name=f"scores of {scorer}",
        about=f"{b} texts × {t:,} tokens",
        function=jit_scores(model, dtype, mesh),
        args=((params, head), batch),
        parts={"parameters": params, "batch": batch},
        tokens=b * t,
        model_flops=forward - 2.0 * model.d_model * model.vocab_size * b * t,
        config=trained,
    )


# --- generation -------------------------------------------------------------------------------


def _generation(c, name: str, model: ModelConfig, mesh: Mesh, dtype: str) -> Iterator[Program]:
    engine = make_engine(model, mesh, slots=c.slots, max_tokens=c.max_tokens, dtype=dtype)
    cast = dtype_of(dtype)
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
