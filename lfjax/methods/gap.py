"""The gap reward of PIT: how much better is y than y_ref, given x (Wang et al. 2024, arXiv
2310.00898, section 3.3; formulas: losses/gap.py).

A triple is four segments of one row, both responses in all pairings, each laid out as the improver
sees it: x, reference, request, candidate. A scalar head scores each at its last token.   b rows, s
segments of a row, n scored segments.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfjax.data import views as shown
from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.views import GAPS, Role, View
from lfjax.errors import UserError
from lfjax.evaluation.correlation import correlation
from lfjax.losses import Total, at_pair, masked_mean
from lfjax.losses.gap import COMPARISONS, comparisons, difference_gaps, gap_loss
from lfjax.methods import reward
from lfjax.methods.method import Method

NAMES = ("wl", "ww", "ll", "lw")
OPTIONS = {
    "of": "texts",  # both read together; or rewards (ablation): the difference of two r(x, y)
}


def views(record: Record, *, of: str) -> list[View]:
    """x, y_ref → y in four pairings, or the two responses apart. A satisfactory response that
    nothing is compared with is left out."""
    alone = not record.candidates and not record.refinement
    if record.satisfactory and alone:
        return []
    return shown.gap(record) if of == "texts" else shown.pair(record)


def loss(scores: Float[Array, "b s"], rows: Rows, *, of: str) -> tuple[Total, dict[str, Total]]:
    """Equation 2: a sum of five comparisons, and a mean over triples."""
    if of == "texts":
        here, gaps = rows.kind == Role.GAP_WL, pairings(scores, rows)
    else:
        here = rows.kind == Role.CHOSEN
        gaps = difference_gaps(scores, at_pair(scores, rows.pair))
    total = jnp.where(here, gap_loss(gaps), 0.0).sum()
    above = comparisons(gaps)
    right = reward.win(above)
    accuracy = right[..., COMPARISONS.index("wl_lw")]
    return Total(total, rows.mass.sum()), {
        "accuracy": masked_mean(accuracy, here),
        "error": masked_mean(1 - accuracy, here),
        "accuracy_all": masked_mean((above > 0).all(-1).astype(scores.dtype), here),
        **{f"accuracy_{n}": masked_mean(right[..., i], here) for i, n in enumerate(COMPARISONS)},
        **{f"gap_{n}": masked_mean(gaps[..., i], here) for i, n in enumerate(NAMES)},
        "gap_ww_ll": masked_mean(jnp.abs(gaps[..., 1] - gaps[..., 2]), here),
    }


def pairings(scores: Float[Array, "b s"], rows: Rows) -> Float[Array, "b s 4"]:
    """At the first segment of each triple, the scores of its four: the ring of pairs is walked
    around."""
    out = [scores]
    for _ in NAMES[1:]:
        out.append(at_pair(out[-1], rows.pair))
    return jnp.stack(out, axis=-1)


def calibrate(scores: Float[np.ndarray, "n"], kind: Int[np.ndarray, "n"], *, of: str) -> dict:
    """What the gap of equally good responses is, c = ½ mean(g_ww + g_ll), how far gaps of held-out
    pairings spread, and whether what is gained one way is lost the other way: the correlation of
    g_wl with −g_lw, 0 where they do not vary."""
    if of == "texts":
        gaps = np.stack([scores[kind == role] for role in GAPS], axis=-1)
    else:
        sides = (scores[kind == role] for role in (Role.CHOSEN, Role.REJECTED))
        gaps = np.asarray(difference_gaps(*map(jnp.asarray, sides)))
    return {
        "kind": "gap" if of == "texts" else "difference",
        "offset": float(gaps[:, 1:3].mean()),
        "spread": float(gaps.std()),
        "antisymmetry": correlation(gaps[:, 0], -gaps[:, 3]),
        "means": {name: float(gaps[:, i].mean()) for i, name in enumerate(NAMES)},
    }


def check(*, of) -> None:
    """Raises: UserError for an option outside of its choices."""
    if of not in ("texts", "rewards"):
        raise UserError(f"method option of='{of}': expected texts or rewards.")


METHOD = Method(views, loss, OPTIONS, normalize="pair", check=check, calibrate=calibrate)
