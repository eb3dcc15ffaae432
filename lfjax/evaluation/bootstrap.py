"""Percentile intervals by resampling.   s seeds, p prompts of a seed, r resamples."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
LEVEL = 0.95


def mean_of(values: Sequence[Float[np.ndarray, "_"]]) -> float:
    """Mean over seeds of the means over their prompts; NaNs, which are missing, are left out. NaN
    where nothing is left."""
    present = _present(values)
    return float(np.mean([x.mean() for x in present])) if present else float("nan")


def interval(
    values: Sequence[Float[np.ndarray, "_"]], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % interval of `mean_of`. (NaN, NaN) where nothing is there.

    Seeds are drawn first, then prompts within each drawn one: prompts alone would say nothing of
    what another run of training had given. With one seed it is of prompts only.

    Args:
      values: per seed, a number for each prompt; NaN where it is missing.
      seed: of the draws.
    """
    drawn = draws(values, seed=seed, resamples=resamples)
    return quantiles(drawn) if len(drawn) else (float("nan"), float("nan"))


def draws(
    values: Sequence[Float[np.ndarray, "_"]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Float[np.ndarray, "r"]:
    """`mean_of` in every resample; none where nothing is there."""
    present = _present(values)
    if not present:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(present), size=(resamples, len(present)))
    means = np.empty(chosen.shape)
    for s, x in enumerate(present):
        where = chosen == s
        means[where] = x[rng.integers(len(x), size=(where.sum(), len(x)))].mean(axis=1)
    return means.mean(axis=1)


def quantiles(statistics: Float[np.ndarray, "r"]) -> tuple[float, float]:
    """The ends of the interval. They are among the statistics, which may be infinite."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(statistics, (tail, 1 - tail), method="inverted_cdf")
    return float(low), float(high)


def _present(values):
    kept = [x[~np.isnan(x)] for x in values]
    return [x for x in kept if len(x)]
