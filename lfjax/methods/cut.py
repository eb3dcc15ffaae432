"""CUT: contrastive unlikelihood training from judgments (Xu et al. 2024, arXiv 2312.14591 v4).

A flawed response is shown twice, with its judgment and without. Tokens that the judgment makes much
more likely are to blame; without the judgment they are pushed down and the others up.   b rows, t
tokens.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.views import Role, View, judged, need_judgment, plain
from lfjax.errors import UserError
from lfjax.losses import Total, masked_mean
from lfjax.losses.cut import blamed, misalign_loss
from lfjax.methods.method import Method
from lfjax.training.alarms import Means

OPTIONS = {
    "mode": "code",  # code: (L1 + L2) / 2 for a flawed response, as released; paper: L1 + L2
    "threshold": 1.1,  # λ: a token is blamed if its judgment makes it more than λ times as likely
    "alpha": 1.0,  # weight of the unlikelihood term
    "gamma": 0.0,  # exponent of p_J in that weight; the released code has none
    "detect": "ratio",  # or all: every token of a flawed response is blamed (ablation; diverges)
    "misalign": "none",  # or fake_positive: detection compares with undeserved praise in the prompt
    "praise": "The response carries out the instruction without a flaw.",
    "use_l1": True,  # ablations: without detection (hindsight),
    "use_align_n": True,  # without L2 of flawed responses,
    "use_align_p": True,  # without satisfactory ones
}
MOST_BLAMED, LEAST_KEPT = 0.9, 0.5  # beyond these a model collapses (alarm)


def views(
    record: Record, *, mode, misalign, praise, use_l1, use_align_n, use_align_p, **_
) -> list[View]:
    """Align-P: x → y. Align-N and Misalign: x, j → y and x → y, twins in one row.

    Twins form a ring: a plain token points to its judged twin, and that one to the token that
    detection compares it with, which is the plain one unless `misalign` is `fake_positive`.
    Mode `code` averages the terms of a flawed response that are in use, `paper` adds them.
    """
    if record.satisfactory:
        return [plain(record)] if use_align_p else []
    terms = use_l1 + use_align_n
    if not terms:
        return []
    weight = 1 / terms if mode == "code" else 1.0
    judgment = need_judgment(record)
    if not use_l1:  # nothing to detect
        return [judged(record, judgment, weight=weight)]
    fake = misalign == "fake_positive"
    shown = [
        plain(record, Role.FLAWED, weight=weight, twin=1),
        judged(record, judgment, weight=weight * use_align_n, twin=2 if fake else 0),
    ]
    if fake:
        shown.append(judged(record, praise, Role.PRAISED, weight=0.0, twin=0))
    return shown


def loss(
    logp: Float[Array, "b t"], rows: Rows, *, threshold, alpha, gamma, detect, misalign, **_
) -> tuple[Total, dict[str, Total]]:
    """Equations 5-7 by tokens; means over a response and the ½ of the released code are in the
    rows' weights."""
    flawed = rows.role == Role.FLAWED
    logp_judged = at_twin(logp, rows.twin)
    # At a flawed token the twin is judged; the twin's twin is what it is compared with.
    compared = at_twin(logp_judged, rows.twin) if misalign == "fake_positive" else logp
    in_u = flawed & blamed(logp_judged, compared, threshold, detect)
    token_loss = misalign_loss(logp_judged, logp, in_u, alpha=alpha, gamma=gamma)
    learned = rows.weight > 0
    total = Total(jnp.where(learned, rows.weight * token_loss, 0.0).sum(), rows.mass.sum())
    return total, {
        "blamed": masked_mean(in_u.astype(logp.dtype), flawed),
        "misalign": masked_mean(token_loss, flawed),
        "nll_judged": masked_mean(-logp, rows.role == Role.JUDGED),
        "nll_satisfactory": masked_mean(-logp, rows.role == Role.PLAIN),
        "log_ratio": masked_mean(logp_judged - logp, flawed),
        "p_blamed": masked_mean(jnp.exp(logp), in_u),
        "p_unblamed": masked_mean(jnp.exp(logp), flawed & ~in_u),
    }


def at_twin(values: Float[Array, "b t"], twin: Int[Array, "b t"]) -> Float[Array, "b t"]:
    """The value at each token's twin, without gradient; 0 where there is none."""
    found = jnp.take_along_axis(lax.stop_gradient(values), jnp.maximum(twin, 0), axis=1)
    return jnp.where(twin >= 0, found, 0.0)


def check(*, mode, detect, misalign, threshold, alpha, **_) -> None:
    """Raises: UserError for an option outside of its choices."""
    for name, value, known in (
        ("mode", mode, ("code", "paper")),
        ("detect", detect, ("ratio", "all")),
        ("misalign", misalign, ("none", "fake_positive")),
    ):
        if value not in known:
            raise UserError(f"method option {name}='{value}': expected {' or '.join(known)}.")
    if threshold < 0 or alpha < 0:
        raise UserError(
            f"method options threshold={threshold}, alpha={alpha}: expected at least 0."
        )


def alarm(first: Means, now: Means) -> str:
    """Whether the model collapses: nearly all is blamed, or what is not blamed is lost.

    A token's ratio cannot exceed 1 / p, so that what the model does surely stays, while rare tokens
    can be blamed although they are right; then the model says less and less of anything.
    """
    if now["blamed"] > MOST_BLAMED:
        return (
            f"{now['blamed']:.0%} of the tokens of flawed responses are blamed; above "
            f"{MOST_BLAMED:.0%} hardly anything is left to imitate, and the model collapses. "
            "Raise threshold, or lower alpha or learning_rate."
        )
    if now["p_unblamed"] < LEAST_KEPT * first["p_unblamed"]:
        return (
            f"tokens that are not blamed fell from a mean probability of "
            f"{first['p_unblamed']:.2f} to {now['p_unblamed']:.2f}: the model unlearns what was "
            "right. Lower learning_rate or alpha, and look at the page of blame: are right words "
            "blamed, as happens where judgments praise?"
        )
    return ""


METHOD = Method(views, loss, OPTIONS, check=check, alarm=alarm)
