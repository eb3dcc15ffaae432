"""Maximum likelihood of a text: of responses (SFT), or of what was said or made of them.

With other targets this is the baseline of several papers: `refinement` is ILF-MLE (Scheurer et al.
2023, arXiv 2303.16755), `critique` critique fine-tuning (Wang et al. 2025, 2501.17703), `forward`
forward prediction (Weston 2016, 1604.06045), `best` of sampled candidates best-of-n or rejection
sampling; `improve` is the improver of PIT before its reinforcement learning (Wang et al. 2024,
2310.00898, section 3.2).   b rows, t tokens.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from lfjax.data import views as shown
from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.views import Role, View
from lfjax.errors import UserError, nearest
from lfjax.losses import Total, masked_mean
from lfjax.methods.method import Method

OPTIONS = {
    "target": "response",
    "satisfactory_only": False,  # leave responses out that were not judged satisfactory
}


def unless_fine(view: Callable[[Record], View], has: Callable[[Record], bool]):
    """The view, or none of a satisfactory record that does not have what it shows."""
    return lambda r: [] if r.satisfactory and not has(r) else [view(r)]


TARGETS = {
    "response": lambda r: [shown.plain(r)],  # x → y
    "refinement": unless_fine(shown.refined, lambda r: bool(r.refinement)),  # x → y′
    "best": shown.best,  # x → y⁺
    "critique": unless_fine(shown.critique, lambda r: any(f.text for f in r.feedback)),  # x, y → j
    "forward": lambda r: [shown.plain(r), *TARGETS["critique"](r)],  # x → y and x, y → j
    "refine": unless_fine(shown.refine, lambda r: bool(r.refinement)),  # x, y, j → y′
    "improve": shown.improve,  # x, y⁻ → y⁺
}


def views(record: Record, *, target: str, satisfactory_only: bool) -> list[View]:
    """The target as the option names it. A flawed record without it is an error; of a satisfactory
    one there may be nothing to say or to refine, and it is left out."""
    if satisfactory_only and not record.satisfactory:
        return []
    return TARGETS[target](record)


def loss(logp: Float[Array, "b t"], rows: Rows, **_) -> tuple[Total, dict[str, Total]]:
    """-log p of the target's tokens, averaged as the rows' weights say."""
    learned = rows.weight > 0
    token_loss = jnp.where(learned, -rows.weight * logp, 0.0)
    metrics = {
        "nll": masked_mean(-logp, learned),
        "nll_critique": masked_mean(-logp, rows.role == Role.CRITIQUE),
    }
    return Total(token_loss.sum(), rows.mass.sum()), metrics


def check(*, target, **_) -> None:
    """Raises: UserError for an unknown target."""
    if target not in TARGETS:
        raise UserError(f"method option target='{target}'. {nearest(target, TARGETS)}")


METHOD = Method(views, loss, OPTIONS, normalize="token", check=check)
