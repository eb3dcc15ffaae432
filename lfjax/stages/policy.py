"""The models of a policy-gradient stage: what is trained, the frozen reference, and the forward
passes over both.   b rows, t tokens of a row, n rollouts, r tokens of one.

All log-probabilities are those of the distribution that rollouts are drawn from: logits are divided
by the temperature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from lfjax.data.rollouts import Packed, pack, row_shapes
from lfjax.data.rows import Rows
from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.losses.kl import exact_kl
from lfjax.losses.logprobs import token_logprobs
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder, abstract_params
from lfjax.models.hf import load_params
from lfjax.models.lora import merge
from lfjax.sharding import BATCH, put, tree_shardings
from lfjax.stages.artifacts import Stage
from lfjax.stages.rollouts import Rollout
from lfjax.stages.scoring import same_tokens
from lfjax.stages.trainable import Trainable, abstract_base, lora_config, make_trainable
from lfjax.training.step import batch_shardings


@dataclass(frozen=True)
class Policy:
    """A policy and its reference.

    Attributes:
      model: what is trained.
      frozen: what is not: the base under adapters, and the reference, each None where there is
        none; on their shards.
      outputs: (trained, rows, frozen) -> (log-probabilities [b, t], exact KL [b, t] or None).
      measured: the same for rollouts, compiled: (trained, rows, frozen) -> columns `[b, t]` by
        name. `logp` of the policy, `ref_logp` of the reference, `plain_logp` of the policy at
        temperature 1, and `exact`, if it is wanted.
      whole: (trained, frozen) -> all parameters, for the sampler.
    """

    model: Trainable
    frozen: dict[str, Any]
    outputs: Callable[..., tuple[jax.Array, jax.Array | None]]
    measured: Callable[..., dict[str, jax.Array]]
    whole: Callable[[Any, Any], Any]


def make_policy(stage: Stage, config: ModelConfig, *, exact: bool) -> Policy:
    """The models of a stage on its mesh.

    Args:
      exact: compute the exact KL.

    Raises: UserError for models that make no sense, or not together.
    """
    c = stage.config
    if c.lora.dropout:
        raise UserError(
            f"lora.dropout={c.lora.dropout}: a policy gradient takes what the policy drew by the "
            "log-probability that it had; set it to 0."
        )
    model, lora = make_trainable(stage, config), lora_config(c.lora, config)
    same = stage.inputs["kl_to"] == stage.inputs["init"]
    shared = lora is not None and same and not c.lora.adapter
    ref_config, reference = (config, None) if shared else load_reference(stage, config)
    frozen = {"base": model.frozen, "reference": reference}
    outputs, measured = forwards(c, config, ref_config, lora, shared=shared, exact=exact)
    mesh = stage.mesh
    trained = tree_shardings(model.abstract, mesh)
    held = jax.tree.map(lambda x: x.sharding, frozen)
    measured = jit_measured(measured, trained, held, mesh)
    whole = tree_shardings(abstract_params(config), mesh)
    merged = jax.jit(partial(merge, config=lora), out_shardings=whole)
    return Policy(
        model,
        frozen,
        outputs,
        measured,
        lambda trained, frozen: trained if lora is None else merged(frozen["base"], trained),
    )


def forwards(c, config: ModelConfig, ref_config: ModelConfig, lora, *, shared: bool, exact: bool):
    """`outputs` and `measured` of a `Policy`, the latter not compiled.

    Args:
      c: configuration of the stage.
      shared: the reference is the base under the policy's adapters.
      exact: with the exact KL.
    """
    decoder = Decoder(config, c.dtype, c.remat, lora, c.attention)
    ref_decoder = Decoder(ref_config, c.dtype)

    def hidden(decoder, params, rows: Rows, lora=None):
        variables = {"params": params} | ({} if lora is None else {"lora": lora})
        return decoder.apply(variables, rows.tokens, rows.positions, rows.segment)

    def of_policy(trained, rows, frozen):
        if lora is None:
            return hidden(decoder, trained, rows)
        return hidden(decoder, frozen["base"], rows, trained)

    def of_reference(rows, frozen):
        return hidden(ref_decoder, frozen["base" if shared else "reference"], rows)

    def logprobs(output, rows, softcap, temperature=c.temperature):
        states, cap = at(output[0], softcap, temperature)
        return token_logprobs(states, output[1], rows.targets, chunk=c.logprob_chunk, softcap=cap)

    def divergence(policy, reference):
        states, cap = at(policy[0], config.final_softcap, c.temperature)
        ref_states, ref_cap = at(reference[0], ref_config.final_softcap, c.temperature)
        both = (states, policy[1]), (ref_states, reference[1])
        return exact_kl(*both, chunk=c.logprob_chunk, softcap=(cap, ref_cap))

    def outputs(trained, rows, frozen):
        policy = of_policy(trained, rows, frozen)
        logp = logprobs(policy, rows, config.final_softcap)
        return logp, divergence(policy, of_reference(rows, frozen)) if exact else None

    def measured(trained, rows, frozen):
        policy, reference = of_policy(trained, rows, frozen), of_reference(rows, frozen)
        out = {
            "logp": logprobs(policy, rows, config.final_softcap),
            "ref_logp": logprobs(reference, rows, ref_config.final_softcap),
        }
        if c.temperature != 1:
            out["plain_logp"] = logprobs(policy, rows, config.final_softcap, 1.0)
        return out | ({"exact": divergence(policy, reference)} if exact else {})

    return outputs, measured


def jit_measured(measured, trained, held, mesh):
    """Compiled with explicit shardings: of what is trained, and of what is not."""
    return jax.jit(
        measured,
        in_shardings=(trained, batch_shardings(Rows.empty(1, 1), mesh), held),
        out_shardings=NamedSharding(mesh, P()),
    )


def at(states, softcap, temperature: float):
    """(states, soft cap) of which the logits are divided by the temperature: as
    c·tanh(x / c) / T = (c / T)·tanh((x / T) / (c / T))."""
    if temperature == 1:
        return states, softcap
    return states / jnp.asarray(temperature, states.dtype), softcap and softcap / temperature


def load_reference(stage: Stage, policy: ModelConfig) -> tuple[ModelConfig, Any]:
    """(configuration, parameters on their shards) of the frozen reference.

    Raises: UserError for one of other tokens than the policy's.
    """
    c, path = stage.config, stage.inputs["kl_to"]
    config = ModelConfig.from_hf(read_hf_config(path), path)
    tokenizers = (load_tokenizer(p) for p in (path, stage.inputs["init"]))
    if config.vocab_size != policy.vocab_size or not same_tokens(*tokenizers):
        raise UserError(
            f"kl_to: the tokens of {path} are not those of {stage.inputs['init']}; a KL is between "
            "models of one vocabulary."
        )
    abstract = abstract_base(config, c.kl_dtype)
    return config, load_params(path, config, abstract, tree_shardings(abstract, stage.mesh))


# --- rows of a step ---------------------------------------------------------------------------


def make_rows(c, rollouts: Sequence[Rollout], multiple: int) -> list[tuple[slice, Packed]]:
    """(which rollouts, their rows) of every mini-batch; all rollouts of a task are in one."""
    size = len(rollouts) // c.mini_batches
    how = dict(row_tokens=c.row_tokens)
    shapes = row_shapes(size, max_tokens=c.max_tokens, multiple=multiple, **how)
    out = []
    for first in range(0, len(rollouts), size):
        part = rollouts[first : first + size]
        rows = pack([r.task.ids for r in part], [r.ids for r in part], shapes=shapes, **how)
        out.append((slice(first, first + size), rows))
    return out


def measure(
    policy: Policy, trained, packed: list[tuple[slice, Packed]], mesh, width: int
) -> dict[str, Float[np.ndarray, "n r"]]:
    """The columns of `Policy.measured` for every rollout, padded with zeros to `width` tokens."""
    parts = []
    for _, p in packed:
        found = policy.measured(trained, put(p.rows, mesh, P(BATCH)), policy.frozen)
        parts.append({name: p.gather(np.asarray(x), width) for name, x in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
