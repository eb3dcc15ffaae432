"""The gap reward: how much better one response is than another (Wang et al. 2024, arXiv 2310.00898,
equations 1 and 2).   p triples of a prompt, a better response w and a worse one l.

Gaps are given in the order (wl, ww, ll, lw): candidate first, reference second.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The higher gap of each comparison, and the lower one. Between ww and ll there is none: both lie
# between wl and lw, and so near each other.
HIGH = (0, 0, 0, 1, 2)
LOW = (1, 2, 3, 3, 3)
COMPARISONS = ("wl_ww", "wl_ll", "wl_lw", "ww_lw", "ll_lw")


def comparisons(gaps: Float[Array, "*p 4"]) -> Float[Array, "*p 5"]:
    """By how much each comparison comes out as it should: g_wl − g_ww, g_wl − g_ll, g_wl − g_lw,
    g_ww − g_lw, g_ll − g_lw."""
    return gaps[..., jnp.array(HIGH)] - gaps[..., jnp.array(LOW)]


def gap_loss(gaps: Float[Array, "*p 4"]) -> Float[Array, "*p"]:
    """Equation 2: the sum of five logistic comparisons, 5 log 2 where all gaps are equal. A number
    added to all gaps changes nothing."""
    return -jax.nn.log_sigmoid(comparisons(gaps)).sum(-1)


def difference_gaps(better: Float[Array, "*p"], worse: Float[Array, "*p"]) -> Float[Array, "*p 4"]:
    """The gaps that rewards of the two responses make: r_w − r_l, 0, 0, r_l − r_w. With these,
    equation 2 is −log σ(2d) − 4 log σ(d)."""
    d = better - worse
    return jnp.stack([d, jnp.zeros_like(d), jnp.zeros_like(d), -d], axis=-1)
