"""Policy gradients on arrays: estimators of KL, advantages, and the clipped objective.

b rows, t tokens, g groups (responses of one prompt), k responses of a group.

Sources: Ahmadian et al. 2024 (arXiv 2402.14740) for RLOO; Schulman et al. 2017 (1707.06347,
equation 7) for the clipped objective; Schulman's note "Approximating KL Divergence" for k1 to k3.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lfjax.errors import UserError

ESTIMATES = ("k1", "k2", "k3")
MOST = 10.0  # of a log-ratio, where it is exponentiated or squared


def kl_estimate(
    logp: Float[Array, "*s"], ref_logp: Float[Array, "*s"], kind: str
) -> Float[Array, "*s"]:
    """KL(π ‖ π_ref) from tokens that π drew, each by its own estimate; with r = π_ref / π:

    k1 = −log r, unbiased, negative of some tokens; k2 = ½ (log r)², biased, of whose gradient the
    mean is the KL's; k3 = r − 1 − log r, unbiased, never negative, of a biased gradient. Log-ratios
    of k2 and k3 are cut at ±10.

    Raises: UserError for another kind.
    """
    above = logp - ref_logp
    if kind == "k1":
        return above
    above = jnp.clip(above, -MOST, MOST)
    if kind == "k2":
        return jnp.square(above) / 2
    if kind == "k3":
        return jnp.expm1(-above) + above
    raise UserError(f"kl='{kind}': expected {', '.join(ESTIMATES)}.")


def leave_one_out(rewards: Float[Array, "*g k"]) -> Float[Array, "*g k"]:
    """RLOO's advantages: each reward minus the mean of the others of its group; k is at least 2."""
    k = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdims=True)) * (k / (k - 1))


def clipped_objective(
    logp: Float[Array, "*s"],
    old_logp: Float[Array, "*s"],
    advantage: Float[Array, "*s"],
    clip: float,
) -> Float[Array, "*s"]:
    """What is maximised: min(ρA, clip(ρ, 1 − ε, 1 + ε) A), where ρ = π / π_old.

    At ρ = 1 its gradient is A ∇log π.

    Args:
      old_logp: of the policy that drew the tokens.
      clip: ε.
    """
    ratio = jnp.exp(logp - lax.stop_gradient(old_logp))
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def is_clipped(
    logp: Float[Array, "*s"],
    old_logp: Float[Array, "*s"],
    advantage: Float[Array, "*s"],
    clip: float,
) -> Float[Array, "*s"]:
    """1 where the objective has no gradient any more."""
    ratio = jnp.exp(logp - old_logp)
    out = jnp.where(advantage > 0, ratio > 1 + clip, ratio < 1 - clip)
    return (out & (advantage != 0)).astype(logp.dtype)
