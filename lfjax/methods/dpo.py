"""DPO: direct preference optimisation and its relatives (formulas and sources: losses/dpo.py).

A pair is two segments of one row, the chosen and the rejected response after the same prompt. The
reference is the model that training starts from; its log-probabilities are a column of the rows.
b rows, t tokens, s segments of a row.
"""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.self_refine import FEEDBACK_HEADING
from lfjax.data.views import Role, Span, View, pair
from lfjax.errors import UserError
from lfjax.losses import Total, at_pair, masked_mean, segment_sum
from lfjax.losses.dpo import KINDS, margin, preference_loss
from lfjax.methods.method import Method

OPTIONS = {
    "beta": 0.1,  # how closely the reference is followed; its scale depends on the kind
    "kind": "sigmoid",  # or robust, ipo, hinge
    "label_smoothing": 0.0,  # ε of cDPO (sigmoid) and robust: assumed share of wrong preferences
    "per_token": False,  # divide by lengths; β must then grow (5 is common)
    "ipo_average": True,  # ipo alone: divide by lengths, as TRL does
    "length_penalty": 0.0,  # R-DPO's a: a·(|chosen| − |rejected|) is added to βh
    "reference_free": False,
    "nll": 0.0,  # weight of the chosen responses' negative log-likelihood
    "nll_mean": "token",  # over the step's chosen tokens, or sequence: over each response first
    # what is scored after each response: eos; feedback_header, which for SRT keeps the model going
    # on to its feedback; or none
    "terminator": "eos",
    "overlong": "trim_prompt",  # what becomes of a pair that is too long: or drop
}
TERMINATORS = ("eos", "feedback_header", "none")


def views(record: Record, *, terminator, overlong, **_) -> list[View]:
    """x → y⁺ and x → y⁻. A satisfactory response that nothing is compared with is left out."""
    alone = not record.candidates and not record.refinement
    shown = [] if record.satisfactory and alone else pair(record)
    shown = [replace(v, overlong=overlong, ends=terminator == "eos") for v in shown]
    return [_headed(v) for v in shown] if terminator == "feedback_header" else shown


def _headed(view: View) -> View:
    """The response, and the heading of feedback after it."""
    texts = view.response.strip(), FEEDBACK_HEADING
    return replace(view, response="".join(texts), spans=tuple(Span(view.role, t) for t in texts))


def loss(
    logp: Float[Array, "b t"],
    rows: Rows,
    *,
    beta,
    kind,
    label_smoothing,
    per_token,
    ipo_average,
    length_penalty,
    reference_free,
    nll,
    nll_mean,
    **_,
) -> tuple[Total, dict[str, Total]]:
    """A mean over pairs, plus a multiple of the chosen responses' mean negative log-likelihood."""
    learned = rows.weight > 0
    count = rows.kind.shape[1]
    own = segment_sum(jnp.where(learned, logp, 0.0), rows.segment, count)
    size = segment_sum(learned.astype(logp.dtype), rows.segment, count)
    ref = rows.ref_logp
    # At a chosen segment: (its own value, that of the rejected one).
    both = [(x, at_pair(x, rows.pair)) for x in (own, ref, size)]
    divided = per_token or (kind == "ipo" and ipo_average)
    h = margin(*both, per_token=divided, reference_free=reference_free)
    longer = size - at_pair(size, rows.pair)
    how = dict(beta=beta, kind=kind, label_smoothing=label_smoothing)
    losses = preference_loss(h, length_penalty=length_penalty * longer, **how)
    here = rows.kind == Role.CHOSEN
    total = jnp.where(here, losses, 0.0).sum()
    if nll and nll_mean == "sequence":
        total -= nll * jnp.where(here, own / jnp.maximum(size, 1), 0.0).sum()
    elif nll:  # the weights of chosen tokens make this a mean over the step's
        chosen = learned & (rows.role == Role.CHOSEN)
        total -= nll * jnp.where(chosen, rows.weight * logp, 0.0).sum()
    rewards = beta * (own - (0.0 if reference_free else ref))
    return Total(total, rows.mass.sum()), {
        "accuracy": masked_mean((h > 0).astype(logp.dtype), here),
        "margin": masked_mean(beta * h, here),
        "reward_chosen": masked_mean(rewards, here),
        "reward_rejected": masked_mean(rewards, rows.kind == Role.REJECTED),
        "logp_chosen": masked_mean(own, here),
        "logp_rejected": masked_mean(own, rows.kind == Role.REJECTED),
        "nll_chosen": masked_mean(-logp, learned & (rows.role == Role.CHOSEN)),
        "length_chosen": masked_mean(size, here),
        "length_rejected": masked_mean(size, rows.kind == Role.REJECTED),
        "length_gap": masked_mean(longer, here),
    }


def check(*, beta, kind, label_smoothing, nll_mean, terminator, overlong, **_) -> None:
    """Raises: UserError for an option outside of its choices."""
    for name, value, known in (
        ("terminator", terminator, TERMINATORS),
        ("overlong", overlong, ("trim_prompt", "drop")),
    ):
        if value not in known:
            raise UserError(f"method option {name}='{value}': expected {', '.join(known)}.")
    if kind not in KINDS:
        raise UserError(f"method option kind='{kind}': expected {', '.join(KINDS)}.")
    if beta <= 0:
        raise UserError(f"method option beta={beta}: expected more than 0.")
    if not 0 <= label_smoothing < 0.5:
        raise UserError(
            f"method option label_smoothing={label_smoothing}: expected 0 to under 0.5."
        )
    if nll_mean not in ("token", "sequence"):
        raise UserError(f"method option nll_mean='{nll_mean}': expected token or sequence.")


METHOD = Method(
    views,
    loss,
    OPTIONS,
    normalize="pair",
    check=check,
    needs_reference=lambda *, reference_free, **_: not reference_free,
)
