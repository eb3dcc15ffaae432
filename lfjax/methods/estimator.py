"""What an estimator of a policy's gradient is: from rewards to advantages, and from these to a
loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lfjax.errors import UserError, nearest


@dataclass(frozen=True)
class Estimator:
    """One way to learn from rewards.   g prompts, k responses of each, r tokens of the longest, b
    rows, t tokens of a row.

    Attributes:
      advantages: (rewards [g, k], divergence [g, k, r], mask [g, k, r], **options) -> advantages
        [g, k, r]; divergence is the KL of each token, as `kl` estimates it. Pure.
      loss: (logp [b, t], exact_kl [b, t] or None, `Rollouts`, **options) -> (Total, metrics as
        Totals). Pure.
      options: every option with its default; both functions get all of them. `kl`, `kl_in` and
        `beta` are always among them.
      check: (**options) raises a UserError for an option that makes no sense.
    """

    advantages: Callable[..., Any]
    loss: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    check: Callable[..., None] = lambda **_: None

    def checked(self, given: dict[str, Any]) -> dict[str, Any]:
        """All options, those not given at their defaults.

        Raises: UserError for one that there is not, or that makes no sense.
        """
        for name in given:
            if name not in self.options:
                raise UserError(
                    f"estimator option '{name}': unknown. {nearest(name, self.options)}"
                )
        options = {**self.options, **given}
        self.check(**options)
        return options
