"""SFT: maximum likelihood of responses given their prompts.   b rows, t tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.views import View, plain
from lfjax.losses import Total, masked_mean
from lfjax.methods.method import Method


def views(record: Record, *, satisfactory_only: bool) -> list[View]:
    """x → y; with `satisfactory_only`, responses that were not judged satisfactory are left out."""
    return [plain(record)] if record.satisfactory or not satisfactory_only else []


def loss(
    logp: Float[Array, "b t"], rows: Rows, *, satisfactory_only: bool
) -> tuple[Total, dict[str, Total]]:
    """-log p(y_t | y_<t, x), averaged as the rows' weights say."""
    learned = rows.weight > 0
    token_loss = jnp.where(learned, -rows.weight * logp, 0.0)
    return Total(token_loss.sum(), rows.mass.sum()), {"nll": masked_mean(-logp, learned)}


METHOD = Method(views, loss, {"satisfactory_only": False}, normalize="token")
