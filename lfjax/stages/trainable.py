"""What a train stage trains: all parameters, or adapters on frozen ones, with a scalar head or
without; where they come from, and how they leave."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfjax.errors import UserError
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import (
    DTYPES,
    Decoder,
    abstract_lora,
    abstract_params,
    dtype_of,
    init_lora,
    init_params,
    logprob_fn,
)
from lfjax.models.hf import load_params
from lfjax.models.lora import LoraConfig, load_peft, merge, merge_by_layer, save_peft
from lfjax.models.quantize import QUANTISED, is_kernel, quantised
from lfjax.models.scalar import abstract_head, apart, has_head, load_head, score_fn
from lfjax.sharding import HEADS, axis_size, on_shards, path_str, tree_shardings
from lfjax.stages.artifacts import Stage


@dataclass(frozen=True)
class Trainable:
    """The split of a model into what is trained and what is not.

    Attributes:
      abstract: what is trained, as ShapeDtypeStructs; a scalar head is an entry of it.
      frozen: the base under adapters, on its shards; None where all is trained.
      logprobs: (trained, rows, frozen, key) -> log-probability of every target; or, with a scalar
        head, the score of every segment.
      fresh: () -> what is trained, before the first step, on its shards.
      merged: (trained, folder) -> all parameters but those of a head. With adapters these are
        written to the folder in peft's format, and the base is used up.
    """

    abstract: Any
    frozen: Any
    logprobs: Callable[..., jax.Array]
    fresh: Callable[[], Any]
    merged: Callable[[Any, Path], Any]


@dataclass(frozen=True)
class Outline:
    """What `Trainable` says of a model before any weight is there.

    Attributes:
      abstract, logprobs: as of `Trainable`.
      frozen: the base under adapters, as ShapeDtypeStructs; None where all is trained.
    """

    abstract: Any
    frozen: Any
    logprobs: Callable[..., jax.Array]


def outline(c, config: ModelConfig, *, scalar: bool = False) -> Outline:
    """The model of a stage with the config `c`; with `scalar`, one that scores segments.

    Raises: UserError for adapter settings or files that make no sense.
    """
    lora = lora_config(c.lora, config)
    decoder = Decoder(config, c.dtype, c.remat, lora, c.attention)
    forward = _forward(decoder, c.logprob_chunk, scalar)
    head = abstract_head(config) if scalar else {}
    if lora is None:
        return Outline(
            abstract_params(config) | head,
            None,
            lambda trained, rows, frozen, key=None: forward(*apart(trained), rows),
        )

    def logprobs(trained, rows, frozen, key=None):
        adapters, score = apart(trained)
        return forward(frozen, score, rows, adapters, key)

    base = abstract_frozen(config, c.lora.base_dtype)
    return Outline(abstract_lora(config, lora) | head, base, logprobs)


def make_trainable(stage: Stage, config: ModelConfig, *, scalar: bool = False) -> Trainable:
    """The model of a stage, adapters and all; with `scalar`, one that scores segments.

    Raises: UserError for weights or adapter files that make no sense.
    """
    c, source = stage.config, stage.inputs["init"]
    shape = outline(c, config, scalar=scalar)
    start = partial(initial_head, stage, config) if scalar else dict
    if shape.frozen is None:
        return Trainable(
            shape.abstract,
            None,
            shape.logprobs,
            lambda: initial_params(stage, config) | start(),
            lambda trained, folder: apart(trained)[0],
        )
    lora = lora_config(c.lora, config)
    base = initial_params(stage, config, c.lora.base_dtype)

    def merged(trained, folder):
        adapters = apart(trained)[0]
        save_peft(folder, adapters, lora, source)
        if c.lora.base_dtype in QUANTISED:
            return merge_by_layer(base, adapters, lora)
        return jax.jit(partial(merge, config=lora), donate_argnums=0)(base, adapters)

    return Trainable(
        shape.abstract,
        base,
        shape.logprobs,
        lambda: initial_lora(stage, config, lora) | start(),
        merged,
    )


def _forward(model: Decoder, chunk: int, scalar: bool) -> Callable[..., jax.Array]:
    """(params, head, rows, lora, key) -> what the loss reads."""
    if scalar:
        return score_fn(model)
    logprobs = logprob_fn(model, chunk=chunk)
    return lambda params, head, rows, lora=None, key=None: logprobs(params, rows, lora, key)


def initial_head(stage: Stage, config: ModelConfig) -> dict[str, Any]:
    """The head of the model directory, where it has one, or zeros: on its shards."""
    abstract = abstract_head(config)
    shardings = tree_shardings(abstract, stage.mesh)
    if has_head(stage.inputs["init"]):
        found = {"score": load_head(stage.inputs["init"], config)[0]}
        return jax.tree.map(on_shards, found, shardings)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), abstract)
    return jax.tree.map(jax.device_put, zeros, shardings)


def check_model(config: ModelConfig, c, tokenizer, mesh, source: str) -> None:
    """Raises: UserError where model, tokenizer, mesh and lengths do not go together, or the export
    could not be written."""
    if c.export_dtype not in ("", "float32", "bfloat16", "float16"):
        raise UserError(f"export_dtype='{c.export_dtype}': expected float32, bfloat16 or float16.")
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"{source}: the tokenizer has {tokenizer.size} tokens, the model's vocabulary "
            f"{config.vocab_size}; ids beyond it have no embedding. Is it this model's tokenizer?"
        )
    check_heads(config, mesh)
    if "row_tokens" in c and c.row_tokens % axis_size(mesh, "seq"):
        raise UserError(
            f"mesh.seq={axis_size(mesh, 'seq')} does not divide row_tokens={c.row_tokens}."
        )
    if c.max_tokens > config.max_positions:
        print(
            f"  note: max_tokens={c.max_tokens} is beyond the {config.max_positions} positions "
            "that the model was made for; longer texts are out of its experience.",
            flush=True,
        )


def check_heads(config: ModelConfig, mesh) -> None:
    """Raises: UserError where the mesh's tensor and seq axes do not divide the heads."""
    heads = config.n_kv_heads
    for axes in ("tensor", HEADS):
        if heads % (parts := axis_size(mesh, axes)):
            what = "mesh.tensor" if axes == "tensor" else "mesh.tensor × mesh.seq"
            raise UserError(f"{what}={parts} does not divide the model's {heads} key/value heads.")


def lora_config(c, config: ModelConfig) -> LoraConfig | None:
    """The adapters of a stage: those of a given adapter's files, or of the settings; None where the
    rank is 0.

    Raises: UserError for settings or files that make no sense.
    """
    known = (*DTYPES, *QUANTISED)
    if c.base_dtype not in known:
        raise UserError(f"lora.base_dtype='{c.base_dtype}': expected one of {', '.join(known)}.")
    if c.adapter:
        return load_peft(c.adapter, config)[1]
    return LoraConfig(c.rank, c.alpha, c.dropout, c.pattern) if c.rank else None


def initial_lora(stage: Stage, config: ModelConfig, lora: LoraConfig):
    """Adapters on their shards, read from a peft directory or drawn from the seed."""
    shardings = tree_shardings(abstract_lora(config, lora), stage.mesh)
    if stage.config.lora.adapter:
        found = load_peft(stage.config.lora.adapter, config)[0]
        return jax.tree.map(on_shards, found, shardings)
    draw = jax.jit(partial(init_lora, config, lora), out_shardings=shardings)
    return draw(jax.random.key(stage.seed))


def abstract_base(config: ModelConfig, dtype: str = "float32"):
    """All parameters of the decoder as ShapeDtypeStructs of a dtype."""
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, dtype_of(dtype)), abstract_params(config)
    )


def abstract_frozen(config: ModelConfig, dtype: str):
    """The same of a base that is not trained, which may be quantised."""
    if dtype not in QUANTISED:
        return abstract_base(config, dtype)
    return jax.eval_shape(partial(quantised, kind=dtype), abstract_base(config, "bfloat16"))


def initial_params(stage: Stage, config: ModelConfig, dtype: str = "float32"):
    """Parameters on their shards, read from the model directory or drawn from the seed; a quantised
    kernel is made as soon as its floats are there."""
    kind, dtype = (dtype, "bfloat16") if dtype in QUANTISED else ("", dtype)
    abstract = abstract_base(config, dtype)
    shardings = tree_shardings(abstract, stage.mesh)

    def made(name, x):
        if not kind or not is_kernel(name):
            return x
        shrink = partial(quantised, kind=kind)
        tree = {name: x}
        out = tree_shardings(jax.eval_shape(shrink, tree), stage.mesh)
        return jax.jit(shrink, out_shardings=out)(tree)[name]

    init = stage.config.init
    weights = "pretrained" if isinstance(init, str) else init.weights
    if weights == "pretrained":
        return load_params(stage.inputs["init"], config, abstract, shardings, made)
    if weights == "random":

        def draw(key):
            return jax.tree.map(lambda x: x.astype(DTYPES[dtype]), init_params(config, key))

        drawn = jax.jit(draw, out_shardings=shardings)(jax.random.key(stage.seed))
        return jax.tree_util.tree_map_with_path(lambda p, x: made(path_str(p), x), drawn)
    raise UserError(f"model.weights='{weights}': expected pretrained or random.")
