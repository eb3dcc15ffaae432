"""Bradley-Terry: a reward model from preferences.   p pairs.

Sources: Ouyang et al. 2022 (arXiv 2203.02155, equation 1); Touvron et al. 2023 (2307.09288, section
3.2.2) for the margin; Eisenstein et al. 2023 (2312.09244) for the centring.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def bradley_terry(
    better: Float[Array, "*p"],
    worse: Float[Array, "*p"],
    *,
    margin: float = 0.0,
    centring: float = 0.0,
) -> Float[Array, "*p"]:
    """−log σ(r_w − r_l − margin) + centring · (r_w + r_l)²: the loss of each pair.

    Args:
      margin: by how much the better response should win.
      centring: weight of a term that pulls rewards to a mean of 0, which preferences leave open.
    """
    pulled = centring * jnp.square(better + worse)
    return -jax.nn.log_sigmoid(better - worse - margin) + pulled
