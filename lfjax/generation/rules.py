"""Sampling rules: what of the model's distribution a token is drawn from.

b slots, v vocabulary.

Every rule is an array over slots, so that one compiled program serves all requests. They apply in
the order of `Rules`' fields, which is that of transformers and vLLM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from lfjax.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """The rules of one request. The defaults draw from the model's own distribution.

    Attributes:
      repetition_penalty: r, by which positive logits of tokens that prompt or response hold are
        divided and negative ones multiplied (Keskar et al. 2019, arXiv 1909.05858, §4.1); 1 is off.
      temperature: logits are divided by it; 0 takes the likeliest token.
      top_k: only the k likeliest tokens, and those as likely as the k-th; 0 is off.
      top_p: only the likeliest tokens that are needed to make up this probability, and those as
        likely as the last of them (Holtzman et al. 2020, arXiv 1904.09751, equation 2); 1 is off.
      min_p: only tokens at least this share of the likeliest one's probability; 0 is off.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        ranges = {
            "repetition_penalty": (self.repetition_penalty > 0, "a positive number"),
            "temperature": (self.temperature >= 0, "0 (the likeliest token) or more"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "0 (off) to 1"),
        }
        for name, (fits, expected) in ranges.items():
            if not fits:
                raise UserError(f"sampling: {name}={getattr(self, name)}; expected {expected}.")


FULL = Sampling()
GREEDY = Sampling(temperature=0.0)


@no_type_check  # also filled with numpy arrays, and by tree.map with shardings
@struct.dataclass
class Rules:
    """`Sampling` of every slot."""

    repetition_penalty: Float[Array, "b"]
    temperature: Float[Array, "b"]
    top_k: Int[Array, "b"]
    top_p: Float[Array, "b"]
    min_p: Float[Array, "b"]

    @staticmethod
    def of(samplings: Sequence[Sampling]) -> "Rules":
        def column(name):
            kind = np.int32 if name == "top_k" else np.float32
            return np.array([getattr(s, name) for s in samplings], kind)

        return Rules(**{f.name: column(f.name) for f in fields(Sampling)})

    def only(self, active: Bool[Array, "b"]) -> "Rules":
        """Those of active slots; the others want the likeliest token, which costs least."""
        idle = Rules.of([GREEDY])
        return jax.tree.map(lambda x, y: jnp.where(active, x, y), self, idle)


def pick(
    logits: Float[Array, "b v"],
    rules: Rules,
    seen: Bool[Array, "b v"],
    keys: UInt32[Array, "b 2"],
    number: Int[Array, "b"],
) -> Int[Array, "b"]:
    """A token for every slot.

    What no slot asks for is not computed, and what some slot asks for changes nothing of the
    others, in no bit: each step leaves their logits as they were.

    Args:
      logits: of the model, float32.
      seen: tokens that prompt or response hold.
      keys: random bits of the request.
      number: how many tokens of the response there are; with the key it determines the draw.
    """
    greedy = rules.temperature == 0

    def by_rules():
        kept = _tempered(_penalised(logits, rules, seen), rules)
        kept = _where_any(rules.top_k > 0, _top_k, kept, rules)
        kept = _where_any(rules.top_p < 1, _top_p, kept, rules)
        kept = _min_p(kept, rules)
        return jnp.where(greedy, likeliest(kept), _draw(kept, keys, number))

    plain = greedy & (rules.repetition_penalty == 1)
    return lax.cond(plain.all(), lambda: likeliest(logits), by_rules)


def likeliest(logits: Float[Array, "b v"]) -> Int[Array, "b"]:
    """The first of the largest. Two reductions: on CPU one argmax takes five times as long."""
    v = logits.shape[1]
    top = logits.max(axis=1, keepdims=True)
    return jnp.where(logits == top, jnp.arange(v), v - 1).min(axis=1)


def _draw(logits, keys, number):
    """From softmax(logits): first a part of the vocabulary by its sum, then a token of the part, so
    that random numbers are drawn for √v things rather than for v."""
    b, v = logits.shape
    size = math.isqrt(v - 1) + 1
    parts = jnp.pad(logits, ((0, 0), (0, -v % size)), constant_values=-jnp.inf)
    parts = parts.reshape(b, -1, size)

    def one(key, number, parts, weight):
        key = jax.random.fold_in(jax.random.wrap_key_data(key), number)
        which, token = jax.random.split(key)
        part = jax.random.categorical(which, weight)
        return part * size + jax.random.categorical(token, parts[part])

    return jax.vmap(one)(keys, number, parts, jax.nn.logsumexp(parts, axis=2))


def _penalised(logits, rules: Rules, seen):
    r = rules.repetition_penalty[:, None]
    return jnp.where(seen & (r != 1), jnp.where(logits > 0, logits / r, logits * r), logits)


def _tempered(logits, rules: Rules):
    return logits / jnp.where(rules.temperature == 0, 1.0, rules.temperature)[:, None]


def _where_any(wanted, rule, logits, rules: Rules):
    """The rule's logits where a slot wants it."""
    return lax.cond(
        wanted.any(), lambda x: jnp.where(wanted[:, None], rule(x, rules), x), lambda x: x, logits
    )


def _top_k(logits, rules: Rules):
    return _down_to(logits, lambda kept: kept.sum(axis=1) >= rules.top_k)


def _top_p(logits, rules: Rules):
    p = jax.nn.softmax(logits, axis=1)
    return _down_to(logits, lambda kept: jnp.where(kept, p, 0.0).sum(axis=1) >= rules.top_p)


def _down_to(logits: Float[Array, "b v"], enough):
    """Only the largest logits, as few as are `enough(kept [b, v]) -> [b]`; the others are -∞.

    The threshold is found bit by bit: 32 sums, where sorting would need v·log v steps.
    """
    bits = lax.bitcast_convert_type(logits, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    rank = jnp.where(bits < sign, bits | sign, ~bits)  # in the order of the logits

    def narrow(i, threshold):
        higher = threshold | (sign >> i)
        return jnp.where(enough(rank >= higher[:, None]), higher, threshold)

    threshold = lax.fori_loop(0, 32, narrow, jnp.zeros(logits.shape[0], jnp.uint32))
    return jnp.where(rank >= threshold[:, None], logits, -jnp.inf)


def _min_p(logits, rules: Rules):
    lowest = logits.max(axis=1, keepdims=True) + jnp.log(rules.min_p)[:, None]
    return jnp.where(logits >= lowest, logits, -jnp.inf)
