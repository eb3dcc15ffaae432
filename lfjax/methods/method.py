"""What a method is: the views it needs and a pure loss over token log-probabilities, or over
scores of whole segments."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lfjax.data.records import Record
from lfjax.data.views import View
from lfjax.errors import UserError, nearest
from lfjax.training.alarms import Means


@dataclass(frozen=True)
class Method:
    """One training objective.

    Attributes:
      views: (record, **options) -> the views to show; none leaves the record out.
      loss: (logp_bt, rows, **options) -> (Total, metrics as Totals). A method that calibrates is
        given scores `[b, s]` of the segments instead, from a scalar head that is trained too.
      options: every option with its default; `views` and `loss` both get all of them.
      normalize: `example` (a mean over each response, then over examples), `token`, `sum` (over
        each response, then a mean over examples), or, where the loss compares whole responses,
        `pair`.
      check: (**options) raises a UserError for an option that makes no sense.
      needs_reference: (**options) -> whether the loss reads the column `ref_logp`.
      calibrate: (scores of held-out records, their kinds, **options) -> what is kept beside the
        weights of a model that scores, to know what its numbers mean.
      alarm: (means of the metrics over the first steps, over the latest) -> what is going wrong, or
        nothing.
    """

    views: Callable[..., list[View]]
    loss: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    normalize: str = "example"
    check: Callable[..., None] = lambda **_: None
    needs_reference: Callable[..., bool] = lambda **_: False
    calibrate: Callable[..., dict[str, Any]] | None = None
    alarm: Callable[[Means, Means], str] | None = None

    @property
    def scores(self) -> bool:
        """Trains a model that scores whole segments."""
        return self.calibrate is not None

    def checked(self, given: dict[str, Any]) -> dict[str, Any]:
        """All options, those not given at their defaults.

        Raises: UserError for one that the method does not have, or that makes no sense.
        """
        for name in given:
            if name not in self.options:
                raise UserError(f"method option '{name}': unknown. {nearest(name, self.options)}")
        options = {**self.options, **given}
        self.check(**options)
        return options

    def views_of(self, options: dict[str, Any]) -> Callable[[Record], list[View]]:
        """`views` with its options filled in."""
        return lambda record: self.views(record, **options)

    def checked_normalize(self, given: str) -> str:
        """Raises: UserError for a normalisation that the loss cannot be given."""
        known = ("pair",) if self.normalize == "pair" else ("example", "token", "sum")
        if given not in known:
            raise UserError(f"normalize='{given}': expected {' or '.join(known)} with this method.")
        return given
