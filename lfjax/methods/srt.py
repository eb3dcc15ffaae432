"""SRT, stage 1: a model learns to answer, to criticise its answer and to refine it, as one text (Hu
et al. 2024, arXiv 2406.07168, equation 1). Stage 2 is `dpo` on its own refinements.

b rows, t tokens.
"""

from jaxtyping import Array, Float

from lfjax.data.records import Record
from lfjax.data.rows import Rows
from lfjax.data.self_refine import LEAVE_OUT, self_refine
from lfjax.data.views import Role, View
from lfjax.errors import UserError
from lfjax.losses import Total, masked_mean
from lfjax.methods import sft
from lfjax.methods.method import Method

OPTIONS = {
    "loss_on_response": True,  # the first response is learned too, as in the paper
    # ablations (table 6): score, suggestions, weaknesses; feedback: x → y, y′; draft: x → y′; and
    # words: a feedback of the score alone
    "leave_out": "",
}


def views(record: Record, *, leave_out: str, loss_on_response: bool) -> list[View]:
    """x → y, j, y′; none of a record without a refinement that was found to need none."""
    if record.satisfactory and not record.refinement:
        return []
    return [self_refine(record, leave_out=leave_out, loss_on_response=loss_on_response)]


def loss(logp: Float[Array, "b t"], rows: Rows, **_) -> tuple[Total, dict[str, Total]]:
    """Equation 1: −log p of response, feedback and refinement, averaged as the rows' weights say.
    With `normalize=sum` it is the paper's mean over examples of sums over tokens."""
    total, metrics = sft.loss(logp, rows)
    return total, {
        "nll": metrics["nll"],
        "nll_response": masked_mean(-logp, rows.role == Role.DRAFT),
        "nll_feedback": masked_mean(-logp, rows.role == Role.CRITIQUE),
        "nll_refinement": masked_mean(-logp, rows.role == Role.REFINED),
    }


def check(*, leave_out, loss_on_response) -> None:
    """Raises: UserError for an option outside of its choices."""
    if leave_out not in LEAVE_OUT:
        known = ", ".join(f"'{name}'" for name in LEAVE_OUT)
        raise UserError(f"method option leave_out='{leave_out}': expected one of {known}.")
    if leave_out == "draft" and not loss_on_response:
        raise UserError("leave_out=draft shows no response; loss_on_response=false is for others.")


METHOD = Method(views, loss, OPTIONS, normalize="token", check=check)
