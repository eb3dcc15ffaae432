"""A reward model r(x, y) by Bradley-Terry (formulas and sources: losses/reward.py).

A pair is two segments of one row, as for DPO; a scalar head scores each at its last token.   b
rows, s segments of a row, n scored segments.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.views import Role, View, pair
from lfjax.errors import UserError
from lfjax.losses import Total, at_pair, masked_mean
from lfjax.losses.reward import bradley_terry
from lfjax.methods.method import Method

OPTIONS = {
    "margin": 0.0,  # by how much the better response should win
    "centring": 0.0,  # weight of (r_w + r_l)², which pulls rewards to a mean of 0 (0.01 is common)
}


def views(record: Record, **_) -> list[View]:
    """x → y⁺ and x → y⁻. A satisfactory response that nothing is compared with is left out."""
    alone = not record.candidates and not record.refinement
    return [] if record.satisfactory and alone else pair(record)


def loss(
    scores: Float[Array, "b s"], rows: Rows, *, margin, centring
) -> tuple[Total, dict[str, Total]]:
    """A mean over pairs."""
    here = rows.kind == Role.CHOSEN
    worse = at_pair(scores, rows.pair)
    losses = bradley_terry(scores, worse, margin=margin, centring=centring)
    above = scores - worse
    right = win(above)
    return Total(jnp.where(here, losses, 0.0).sum(), rows.mass.sum()), {
        "accuracy": masked_mean(right, here),
        "error": masked_mean(1 - right, here),
        "ties": masked_mean((above == 0).astype(scores.dtype), here),
        "margin": masked_mean(above, here),
        "reward_chosen": masked_mean(scores, here),
        "reward_rejected": masked_mean(scores, rows.kind == Role.REJECTED),
    }


def win(above: Float[Array, "*p"]) -> Float[Array, "*p"]:
    """1 where the difference is positive, ½ where it is 0: of ties half are right."""
    return (above > 0) + 0.5 * (above == 0)


def calibrate(scores: Float[np.ndarray, "n"], kind: Int[np.ndarray, "n"], **_) -> dict:
    """What an ordinary reward is: the mean and the standard deviation over held-out responses."""
    means = {
        name: float(scores[kind == role].mean())
        for name, role in (("chosen", Role.CHOSEN), ("rejected", Role.REJECTED))
    }
    return {
        "kind": "reward",
        "offset": float(scores.mean()),
        "spread": float(scores.std()),
        "means": means,
    }


def check(*, margin, centring, **_) -> None:
    """Raises: UserError for an option that makes no sense."""
    if margin < 0 or centring < 0:
        raise UserError(
            f"method options margin={margin}, centring={centring}: expected at least 0."
        )


METHOD = Method(views, loss, OPTIONS, normalize="pair", check=check, calibrate=calibrate)
