"""RLOO: REINFORCE with the other responses to a prompt as the baseline (Ahmadian et al. 2024, arXiv
2402.14740; formulas and sources: losses/policy_gradient.py).

    R_i = r_i − β Σ_t KL_t        A_i = R_i − mean of the other R of the prompt
    loss = − mean over responses of Σ_t min(ρ_t A_i, clip(ρ_t) A_i)

The response is one action: all of its tokens have its advantage. g prompts, k responses of each, r
tokens of the longest, b rows, t tokens of a row.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfjax.data.rollouts import Rollouts
from lfjax.errors import UserError
from lfjax.losses import Total, masked_mean
from lfjax.losses.policy_gradient import (
    ESTIMATES,
    clipped_objective,
    is_clipped,
    kl_estimate,
    leave_one_out,
)
from lfjax.methods.estimator import Estimator

OPTIONS = {
    "beta": 0.05,  # what a nat of KL to the reference costs
    "kl": "k1",  # how KL is estimated: or k2, k3, exact
    "kl_in": "reward",  # subtracted from it; or loss: differentiated, or both (exact alone)
    "clip": 0.2,  # how far a token's probability may move before its gradient stops
}
# Where each estimate leads where it should. k1 alone has an unbiased gradient inside the reward.
# In the loss the gradient of k1 has the mean 0. The exact one depends on the prefix alone: inside
# the reward it says what a token does to later ones, in the loss what it does to its own.
PLACES = {"k1": ("reward",), "k2": ("reward", "loss"), "k3": ("reward", "loss")}
PLACES["exact"] = ("loss", "both")


def advantages(
    rewards: Float[Array, "g k"],
    divergence: Float[Array, "g k r"],
    mask: Float[Array, "g k r"],
    *,
    beta: float,
    kl_in: str,
    **_,
) -> Float[Array, "g k r"]:
    """Of every token, that of its response; 0 where there is none.

    Args:
      divergence: KL to the reference of every token, as `kl` estimates it.
    """
    if kl_in in ("reward", "both"):
        rewards = rewards - beta * jnp.where(mask > 0, divergence, 0.0).sum(-1)
    return leave_one_out(rewards)[..., None] * mask


def loss(
    logp: Float[Array, "b t"],
    exact_kl: Float[Array, "b t"] | None,
    batch: Rollouts,
    *,
    beta: float,
    kl: str,
    kl_in: str,
    clip: float,
) -> tuple[Total, dict[str, Total]]:
    """A sum over tokens and a mean over responses."""
    here = batch.rows.weight > 0
    how = (logp, batch.old_logp, batch.advantage, clip)
    token_loss = -clipped_objective(*how)
    if kl_in in ("loss", "both"):
        own = exact_kl if kl == "exact" else kl_estimate(logp, batch.ref_logp, kl)
        token_loss += beta * own
    total = jnp.where(here, token_loss, 0.0).sum()
    return Total(total, batch.rows.mass.sum()), {
        "clipped": masked_mean(is_clipped(*how), here),
        "ratio": masked_mean(jnp.exp(logp - batch.old_logp), here),
    }


def check(*, beta, kl, kl_in, clip) -> None:
    """Raises: UserError for an option outside of its choices."""
    if kl not in PLACES:
        raise UserError(f"estimator option kl='{kl}': expected {', '.join((*ESTIMATES, 'exact'))}.")
    if kl_in not in PLACES[kl]:
        raise UserError(
            f"estimator option kl_in='{kl_in}': expected {' or '.join(PLACES[kl])} with kl='{kl}'; "
            "elsewhere its gradient is not that of a KL (docs/rl.md)."
        )
    if beta < 0 or not 0 < clip < 1:
        raise UserError(
            f"estimator options beta={beta}, clip={clip}: expected at least 0, and 0 to 1."
        )


ESTIMATOR = Estimator(advantages, loss, OPTIONS, check)
