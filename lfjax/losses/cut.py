"""CUT's token loss on arrays: which tokens a judgment blames, and what happens to them.

Source: Xu et al., "Reasons to Reject? Aligning Language Models with Judgments", arXiv 2312.14591
v4, equations 5-7, and the authors' released code (github wwxu21/CUT, commit bb1d5de). p_J is the
probability of a response token with the judgment in the prompt, p_X without it.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def blamed(
    logp_judged: Float[Array, "*s"],
    logp_plain: Float[Array, "*s"],
    threshold: float,
    detect: str = "ratio",
) -> Bool[Array, "*s"]:
    """The set U: p_J > threshold · p_X, strictly, compared as logs because p_X may underflow; with
    `detect = all`, every token (the paper's ablation without detection). No gradient."""
    ratio = lax.stop_gradient(logp_judged) - lax.stop_gradient(logp_plain)
    return (ratio > jnp.log(threshold)) | (detect == "all")


def log1m_exp(logp: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log(1 - p) from log p.

    Clipped at log p = -1e-6: float32 log-probabilities of sure tokens are exactly 0, where the
    derivative is infinite.
    """
    clipped = jnp.minimum(logp, -1e-6)
    # expm1 is exact near 0 and log1p far from it.
    return jnp.where(clipped > -0.693, jnp.log(-jnp.expm1(clipped)), jnp.log1p(-jnp.exp(clipped)))


def unlikelihood(
    logp_judged: Float[Array, "*s"], logp_plain: Float[Array, "*s"], *, alpha: float, gamma: float
) -> Float[Array, "*s"]:
    """-α · p_J^γ · log(1 - p_X) of a blamed token (equation 6).

    The paper does not say whether p_J^γ is differentiated; here it is a weight, without gradient. γ
    = 0 is the released code.
    """
    return -alpha * jnp.exp(gamma * lax.stop_gradient(logp_judged)) * log1m_exp(logp_plain)


def misalign_loss(
    logp_judged: Float[Array, "*s"],
    logp_plain: Float[Array, "*s"],
    in_u: Bool[Array, "*s"],
    *,
    alpha: float,
    gamma: float,
) -> Float[Array, "*s"]:
    """L1 per token of a flawed response: unlikelihood where blamed, negative log-likelihood
    elsewhere.

    Its mean over the response's tokens is the paper's L1.
    """
    return jnp.where(
        in_u, unlikelihood(logp_judged, logp_plain, alpha=alpha, gamma=gamma), -logp_plain
    )
