"""The sampler's device programs: reading prompts, and drawing tokens."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfjax.generation.engine import Engine, make_engine
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import abstract_params, dtype_of
from lfjax.models.flops import matmul_params, train_flops
from lfjax.planning.program import Program, placed, split
from lfjax.sharding import BATCH, DECODE_RULES


def generation(c, name: str, model: ModelConfig, mesh: Mesh, dtype: str) -> Iterator[Program]:
    engine = make_engine(model, mesh, slots=c.slots, max_tokens=c.max_tokens, dtype=dtype)
    cast = dtype_of(dtype)
    params = sampler_params(engine, mesh)
    state = jax.eval_shape(lambda: engine.empty(c.max_tokens))
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(BATCH, None))
    columns = NamedSharding(mesh, P(BATCH, "tensor", None, None))
    state = state.replace(
        slots=placed(state.slots, whole),
        seen=placed(state.seen, rows),
        cache=placed(state.cache, columns),
    )
    shared = dict(stage=name, config=c, mesh=mesh)
    bucket = engine.prompt_buckets[-1]
    prompts = engine.prefill_rows(bucket)
    tokens, lengths = np.zeros((prompts, bucket), np.int32), np.zeros(prompts, np.int32)
    forward = train_flops(model, [bucket] * prompts) / 3
    yield Program(
        name="prefill",
        about=f"{prompts} prompts × {bucket:,} tokens, {jnp.dtype(cast)}",
        function=engine.prefill,
        args=(params, *placed((tokens, lengths), whole)),
        parts={"parameters": params},
        resident={"cache": state},  # of those whose answers are under way
        tokens=prompts * bucket,
        model_flops=forward - 2.0 * model.d_model * model.vocab_size * prompts * bucket,
        **shared,
    )
    alive, number = np.zeros(engine.slots, bool), np.int32(0)
    reach = sum(min(window or c.max_tokens, c.max_tokens) for window in model.windows)
    reach = reach or model.n_layers * c.max_tokens
    attention = 4.0 * model.n_heads * model.head_dim * reach
    yield Program(
        name="decode",
        about=f"one token for {engine.slots} slots of {c.max_tokens:,} tokens, {jnp.dtype(cast)}",
        function=engine.decode,
        args=(params, state, *placed((alive, number, number), whole)),
        parts={"parameters": params, "cache": state.cache},
        tokens=engine.slots,
        model_flops=engine.slots * (2.0 * matmul_params(model) + attention),
        **shared,
    )


def sampler_params(engine: Engine, mesh: Mesh):
    """The weights that decoding reads."""
    return split(jax.eval_shape(engine.place, abstract_params(engine.config)), mesh, DECODE_RULES)
