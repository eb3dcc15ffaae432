"""Sampling rules: what of the model's distribution a token is drawn from.

b slots, v vocabulary.

Every rule is an array over slots, so that one compiled program serves all requests. They apply in
the order of `Rules`' fields, which is that of transformers and vLLM.
"""

from dataclasses import dataclass, fields

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


GREEDY = Sampling(temperature=0.0)


@struct.dataclass
class Rules:
    """`Sampling` of every slot."""

    repetition_penalty: Float[Array, "b"]
    temperature: Float[Array, "b"]
    top_k: Int[Array, "b"]
    top_p: Float[Array, "b"]
    min_p: Float[Array, "b"]

    @staticmethod
    def of(samplings: list[Sampling]) -> "Rules":
        kinds = {"top_k": np.int32}
        return Rules(
            **{
                f.name: np.array([getattr(s, f.name) for s in samplings], kinds.get(f.name, "f4"))
                for f in fields(Sampling)
            }
        )


LIKELIEST, DRAWN, SORTED = range(3)  # what a batch needs, the cheapest first


def needed(rules: Rules, active: Bool[Array, "b"]) -> Int[Array, ""]:
    """Which of `LIKELIEST` (only the largest logit counts), `DRAWN` and `SORTED` (somebody cuts the
    distribution at a rank) serves every active slot."""
    drawn = active & ((rules.temperature > 0) | (rules.repetition_penalty != 1))
    cut = active & (rules.temperature > 0) & ((rules.top_k > 0) | (rules.top_p < 1))
    return drawn.any().astype(jnp.int32) + cut.any()


def pick(
    logits: Float[Array, "b v"],
    rules: Rules,
    seen: Bool[Array, "b v"],
    keys: UInt32[Array, "b 2"],
    number: Int[Array, "b"],
    need: Int[Array, ""],
) -> Int[Array, "b"]:
    """A token for every slot. Which of the ways `need` names is taken does not change the token of
    a slot that a cheaper one would have served.

    Args:
      logits: of the model, float32.
      seen: tokens that prompt or response hold.
      keys: random bits of the request.
      number: how many tokens of the response there are; with the key it determines the draw.
      need: `needed(rules)`.
    """

    def draw(kept_logits):
        noise = jax.vmap(_gumbel, (0, 0, None))(keys, number, logits.shape[1])
        greedy = (rules.temperature == 0)[:, None]
        return jnp.argmax(kept_logits + jnp.where(greedy, 0.0, noise), axis=1)

    ways = {
        LIKELIEST: lambda: jnp.argmax(logits, axis=1),
        DRAWN: lambda: draw(_above(_tempered(logits, rules, seen), rules.min_p)),
        SORTED: lambda: draw(_ranked(_tempered(logits, rules, seen), rules)),
    }
    return lax.switch(need, [ways[way] for way in sorted(ways)]).astype(jnp.int32)


def _gumbel(key, number, size):
    key = jax.random.fold_in(jax.random.wrap_key_data(key), number)
    return jax.random.gumbel(key, (size,), jnp.float32)


def _tempered(logits, rules: Rules, seen):
    r = rules.repetition_penalty[:, None]
    logits = jnp.where(seen, jnp.where(logits > 0, logits / r, logits * r), logits)
    return logits / jnp.where(rules.temperature == 0, 1.0, rules.temperature)[:, None]


def _above(logits, share):
    """Logits of less than `share` of the largest probability become -∞."""
    return jnp.where(
        logits >= logits.max(1, keepdims=True) + jnp.log(share)[:, None], logits, -jnp.inf
    )


def _ranked(logits, rules: Rules):
    """Logits that top-k, then top-p, then min-p leave out become -∞."""
    v = logits.shape[1]
    falling = -jnp.sort(-logits, axis=1)
    last = jnp.where(rules.top_k == 0, v, jnp.minimum(rules.top_k, v)) - 1
    kth = jnp.take_along_axis(falling, last[:, None], axis=1)
    p = jax.nn.softmax(jnp.where(falling >= kth, falling, -jnp.inf), axis=1)
    before = jnp.cumsum(p, axis=1) - p
    # Rounding may leave all of them below 1: top_p = 1 keeps everything, whatever the sum.
    enough = (before < rules.top_p[:, None]) | (rules.top_p == 1)[:, None]
    lowest = jnp.where(enough & (falling >= kth), falling, jnp.inf).min(axis=1, keepdims=True)
    return _above(jnp.where(logits >= lowest, logits, -jnp.inf), rules.min_p)
