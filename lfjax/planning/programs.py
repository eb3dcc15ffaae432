"""The device programs of a recipe's stages, ready to be compiled: shapes and shardings in place of
arrays. They are built by the functions that the stages run; no weight is read, and no record.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
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
from lfjax.models.flops import matmul_params, train_flops
from lfjax.models.hf import frozen_shapes
from lfjax.models.scalar import NAME as HEAD
from lfjax.models.scalar import abstract_head
from lfjax.planning.generation import generation, sampler_params
from lfjax.planning.program import Program, placed, split
from lfjax.planning.shapes import shape_of
from lfjax.sharding import BATCH, axis_size, make_mesh
from lfjax.stages.policy import forwards, jit_measured
from lfjax.stages.reference import make_scorer
from lfjax.stages.scoring import BATCH_TOKENS, jit_scores, widest_rows
from lfjax.stages.trainable import abstract_base, check_heads, lora_config, outline
from lfjax.training.optimizer import make_optimizer
from lfjax.training.step import (
    abstract_state,
    batch_shardings,
    jit_train_step,
    make_train_step,
)

SEGMENTS = 2  # of a record, where the loss reads whole segments: a pair


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
        yield from _rl(config, name, mesh)
    elif c.kind in ("rank", "gaps"):
        yield _scoring(config, name, c.init, mesh, c.dtype)
    elif "slots" in c and "endpoint" in c and _asks_model(c):
        own = _one_host(config, mesh) if c.per_host else mesh
        where = f", on the {own.size} chip(s) of a host" * c.per_host
        for program in generation(c, name, model_of(config, c.init), own, c.dtype):
            yield replace(program, about=program.about + where)


def _asks_model(c) -> bool:
    return bool(c.init) and not c.endpoint.url


def _one_host(config, mesh: Mesh) -> Mesh:
    """As `lfjax.sharding.host_mesh`, of the first host of a mesh."""
    devices = sorted(mesh.devices.flat, key=lambda d: d.id)
    own = [d for d in devices if d.process_index == devices[0].process_index]
    return make_mesh({"data": 1, "fsdp": -1, "tensor": config.mesh.tensor}, own)


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
    batch, filled, lengths = _batch(c, method, mesh, config.seed, example_tokens)
    rows_sharding = batch_shardings(Rows.empty(1, 1), mesh)
    batch = placed(batch, rows_sharding)
    frozen = None if shape.frozen is None else split(shape.frozen, mesh)
    frozen_shardings = jax.tree.map(lambda x: x.sharding, frozen)

    def loss_fn(trained, rows, frozen, key):
        return method.loss(shape.logprobs(trained, rows, frozen, key), rows, **options)

    key = placed(jax.eval_shape(jax.random.key, 0), NamedSharding(mesh, P()))
    step, state, rate = _step(c, loss_fn, shape.abstract, rows_sharding, mesh, frozen_shardings)
    parameters = {"parameters": state.params, "frozen parameters": frozen}
    about = _told(batch, filled)
    lengths = lengths * filled
    shared = dict(stage=name, about=about, tokens=sum(lengths), config=c, mesh=mesh)
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
    return step, state, placed(np.float32(0), NamedSharding(mesh, P()))


def _step_flops(model: ModelConfig, lengths: list[int], *, adapters: bool) -> float:
    flops = train_flops(model, lengths)
    # Of a base under adapters there are no gradients.
    return flops - 2.0 * matmul_params(model) * sum(lengths) if adapters else flops


def _batch(c, method, mesh: Mesh, seed: int, example_tokens: int) -> tuple[Rows, int, list[int]]:
    """A step's rows, how many of them examples take, and the lengths of segments that would fill
    one of these."""
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
    return rows, int(plan.row.max()) + 1, _lengths(c.row_tokens, min(c.max_tokens, one))


def _told(rows: Rows, filled: int, what: str = "rows") -> str:
    """Rows beyond the filled ones are there for the mesh to divide them."""
    b, t = rows.tokens.shape
    return f"{b} {what} × {t:,} tokens" + (f", {filled} of them filled" if filled < b else "")


def _lengths(row_tokens: int, longest: int) -> list[int]:
    """Of segments that fill a row."""
    whole, rest = divmod(row_tokens, longest)
    return [longest] * whole + [rest] * bool(rest)


# --- policy gradients -------------------------------------------------------------------------


def _rl(config, name: str, mesh: Mesh) -> Iterator[Program]:
    """From rollouts to the update. Between its programs a stage keeps the training state, the
    frozen models and those that judge on the devices; the sampler's weights go with its last
    token."""
    c = config.stages[name]
    drawing = list(generation(c, name, model_of(config, c.init), mesh, c.rollout_dtype))
    measured, step = _policy(config, name, mesh)
    state, _, _, frozen, _ = step.args
    held = {"parameters": state.params, "optimizer": state.opt_state}
    held |= {"frozen parameters": frozen["base"], "reference": frozen["reference"]}
    scores = []
    for role, block in (*c.rewards.items(), *c.monitor.items()):
        if block.model in config.order:
            scores.append(_scoring(config, name, block.model, mesh, block.dtype))
            held[f"reward '{role}'"] = scores[-1].args[0]
        elif block.model or (block.judge and _asks_model(block)):
            held[f"reward '{role}'"] = _judging(config, block, mesh)
    for program in (*drawing, measured, step, *scores):
        yield replace(program, resident=program.resident | _besides(held, program.args))


def _besides(held: dict[str, Any], args) -> dict[str, Any]:
    """What of `held` is not among the arguments, which are the same objects where they are."""
    own = {id(x) for x in jax.tree.leaves(args)}
    rest = {k: [x for x in jax.tree.leaves(t) if id(x) not in own] for k, t in held.items()}
    return {name: leaves for name, leaves in rest.items() if leaves}


def _judging(config, block, mesh: Mesh):
    """The weights of a reward model from elsewhere, or of a model that judges in words."""
    if block.model:
        return split(frozen_shapes(model_of(config, block.model), block.dtype), mesh)
    model = model_of(config, block.init)
    return sampler_params(make_engine(model, mesh, dtype=block.dtype), mesh)


def _policy(config, name: str, mesh: Mesh) -> tuple[Program, Program]:
    """What a stage does with its rollouts: their log-probabilities, and the update."""
    c = config.stages[name]
    estimator, model = get_estimator(c.estimator), model_of(config, c.init)
    options = estimator.checked(c.options.to_dict())
    check_heads(model, mesh)
    shape, lora = outline(c, model), lora_config(c.lora, model)
    shared = lora is not None and c.kl_to == c.init and not c.lora.adapter
    ref_model = model_of(config, c.kl_to)
    reference = None if shared else abstract_base(ref_model, c.kl_dtype)
    frozen = split({"base": shape.frozen, "reference": reference}, mesh)
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
    batch = placed(batch, batch_sharding)
    step, state, rate = _step(c, loss_fn, shape.abstract, batch_sharding, mesh, frozen_shardings)
    held = {"frozen parameters": shape.frozen and frozen["base"], "reference": frozen["reference"]}
    parts = {"parameters": state.params, **held, "batch": batch.rows}
    filled = -(-responses // (c.row_tokens // c.max_tokens))
    lengths, about = _lengths(c.row_tokens, c.max_tokens) * filled, _told(batch.rows, filled)
    told = dict(stage=name, about=about, tokens=sum(lengths), config=c, mesh=mesh)
    trained_shardings = jax.tree.map(lambda x: x.sharding, state.params)
    logprobs = Program(
        name="log-probabilities",
        function=jit_measured(measured, trained_shardings, frozen_shardings, mesh),
        args=(state.params, batch.rows, frozen),
        parts=parts,
        model_flops=(train_flops(model, lengths) + train_flops(ref_model, lengths)) / 3,
        **told,
    )
    update = Program(
        name="train step",
        function=step,
        args=(state, batch, rate, frozen, None),
        parts=parts | {"optimizer": state.opt_state},
        model_flops=_step_flops(model, lengths, adapters=lora is not None),
        **told,
    )
    return logprobs, update


def _scoring(config, name: str, scorer: str, mesh: Mesh, dtype: str) -> Program:
    """The forward pass of a reward model that an earlier stage trained, over the longest texts."""
    trained = config.stages[scorer]
    model = model_of(config, trained.init)
    rows = widest_rows(trained.max_tokens, axis_size(mesh, BATCH))
    batch = placed(rows, batch_shardings(rows, mesh))
    params = split(frozen_shapes(model, dtype), mesh)
    head = placed(abstract_head(model)[HEAD], NamedSharding(mesh, P()))
    b, t = rows.tokens.shape
    filled = min(b, max(BATCH_TOKENS // t, 1))
    forward = train_flops(model, [t] * filled) / 3
    return Program(
        stage=name,
        name=f"scores of {scorer}",
        about=_told(rows, filled, "texts"),
        function=jit_scores(model, dtype, mesh),
        args=((params, head), batch),
        parts={"parameters": params, "batch": batch},
        tokens=filled * t,
        model_flops=forward - 2.0 * model.d_model * model.vocab_size * filled * t,
        config=trained,
        mesh=mesh,
    )
