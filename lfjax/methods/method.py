"""What a method is: the views it needs and a pure loss over token log-probabilities."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lfjax.data.records import Record
from lfjax.data.views import View


@dataclass(frozen=True)
class Method:
    """One training objective.

    Attributes:
      views: (record, **options) -> the views to show; none leaves the record out.
      loss: (logp_bt, rows, **options) -> (Total, metrics as Totals).
      options: every option with its default; `views` and `loss` both get all of them.
      normalize: `example` (a mean over each response, then over examples) or `token`.
      check: (**options) raises a UserError for an option that makes no sense.
    """

    views: Callable[..., list[View]]
    loss: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    normalize: str = "example"
    check: Callable[..., None] = lambda **_: None

    def views_of(self, options: dict[str, Any]) -> Callable[[Record], list[View]]:
        return lambda record: self.views(record, **options)
