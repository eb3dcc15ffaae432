"""DPO and its relatives, on log-probabilities of whole responses.   p pairs.

Sources: Rafailov et al. 2023 (arXiv 2305.18290, equation 7) for `sigmoid`; Mitchell's note on cDPO
for label smoothing; Chowdhury et al. 2024 (2403.00409) for `robust`; Azar et al. 2023 (2310.12036,
equation 17) for `ipo`; Zhao et al. 2023 (2305.10425) for `hinge`; Park et al. 2024 (2403.19159) for
the length penalty.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfjax.errors import UserError

KINDS = ("sigmoid", "robust", "ipo", "hinge")


def margin(
    logp: tuple[Float[Array, "*p"], Float[Array, "*p"]],
    ref: tuple[Float[Array, "*p"], Float[Array, "*p"]],
    length: tuple[Float[Array, "*p"], Float[Array, "*p"]],
    *,
    per_token: bool = False,
    reference_free: bool = False,
) -> Float[Array, "*p"]:
    """h = [log π(c) − log π(r)] − [log π_ref(c) − log π_ref(r)], arguments as (chosen, rejected).

    With `per_token` every log-probability is divided by its response's tokens; `reference_free`
    leaves the second bracket out.
    """
    above = [p if reference_free else p - q for p, q in zip(logp, ref)]
    if per_token:
        above = [a / jnp.maximum(n, 1) for a, n in zip(above, length)]
    return above[0] - above[1]


def preference_loss(
    h: Float[Array, "*p"],
    *,
    beta: float,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
    length_penalty: Float[Array, "*p"] | float = 0.0,
) -> Float[Array, "*p"]:
    """The loss of each pair from its margin.

    Args:
      kind: sigmoid: −(1−ε) log σ(x) − ε log σ(−x) with x = βh + length_penalty, which is cDPO where
        ε > 0; robust: the same without the bias that ε brings; hinge: max(0, 1 − x);
        ipo: (h − 1/(2β))².
      label_smoothing: ε, the assumed share of pairs whose sides were exchanged.
      length_penalty: added to βh, a·(|c| − |r|) for R-DPO.

    Raises: UserError for an unknown kind.
    """
    x = beta * h + length_penalty
    if kind == "ipo":
        return jnp.square(h - 1 / (2 * beta))
    if kind == "hinge":
        return jnp.maximum(0.0, 1 - x)
    right, wrong = -jax.nn.log_sigmoid(x), -jax.nn.log_sigmoid(-x)
    eps = label_smoothing
    if kind == "sigmoid":
        return (1 - eps) * right + eps * wrong
    if kind == "robust":
        return ((1 - eps) * right - eps * wrong) / (1 - 2 * eps)
    raise UserError(f"method option kind='{kind}': expected {', '.join(KINDS)}.")
