"""One system against another, prompt by prompt.   p prompts of a seed.

A verdict is 1 where the system wins, 0 for a tie, -1 where it loses, and NaN where nobody judged:
what is missing is counted, and is neither a loss nor a tie.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from lfjax.evaluation import bootstrap
from lfjax.evaluation.correlation import correlation
from lfjax.evaluation.length_control import lc_noreg


def compare(
    verdicts: Sequence[Float[np.ndarray, "_"]],
    lengths: Sequence[Num[np.ndarray, "_"]],
    other_lengths: Sequence[Num[np.ndarray, "_"]],
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """What a table tells of two systems.

    Args:
      verdicts, lengths, other_lengths: per seed, a number for each prompt: who won, and the
        characters of the responses of both; NaN where there is none.

    Returns: `wins`, `ties`, `losses`, `missing`; `delta`, the share of wins less that of losses
    (each seed counts as much as any other), with its `interval`; `error_bound`, which the standard
    error of delta over prompts cannot exceed, whatever the judgments are (1/√n: 8.8 points at 128);
    `characters` and `other_characters`, the mean lengths on judged prompts; `length_correlation` of
    verdict and difference of lengths; `lc_noreg`, the length-controlled share of wins, a tie being
    half of one. None where there is nothing to compute it from; `notes` say why.
    """
    v, a, b = (np.concatenate([*x, []]).astype(float) for x in (verdicts, lengths, other_lengths))
    judged = ~np.isnan(v)
    missing = int((~judged).sum())
    v, a, b = v[judged], a[judged], b[judged]
    out = {
        "wins": int((v > 0).sum()),
        "ties": int((v == 0).sum()),
        "losses": int((v < 0).sum()),
        "missing": missing,
        "delta": number(bootstrap.mean_of(verdicts)),
        "interval": numbers(bootstrap.interval(verdicts, seed=seed, resamples=resamples)),
        "error_bound": number(1 / np.sqrt(len(v))) if len(v) else None,
        "characters": number(a.mean()) if len(v) else None,
        "other_characters": number(b.mean()) if len(v) else None,
        "length_correlation": number(correlation(v, a - b, undefined=np.nan)),
        "lc_noreg": number(lc_noreg((v + 1) / 2, a, b)[0]),
        "notes": [],
    }
    if not len(v):
        out["notes"].append("nothing was judged: no figure can be given.")
    elif not v.any():
        out["notes"].append(
            f"all {len(v)} judgments are ties: these prompts and this judge do not tell the two "
            "apart."
        )
    return out


def number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None


def numbers(values: Sequence[float]) -> list[float | None]:
    return [number(v) for v in values]
