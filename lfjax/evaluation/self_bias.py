"""How far a model's opinion of its own text can be trusted: how its scores spread, whether they
follow length, and whether they agree with what is known.

Sources: Hu et al. 2024 (arXiv 2406.07168), table 5 and figure 3; Xu et al. 2024 (2402.11436) on
self-bias that grows with self-refinement.   n pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lfjax.evaluation.compare import number
from lfjax.evaluation.correlation import correlation

COLLAPSED = 0.6  # share of one score, above which scores tell little
SCORES = range(1, 11)


def of_scores(scores: Float[np.ndarray, "n"]) -> dict[str, Any]:
    """How scores from 1 to 10 spread: `histogram` (rounded), `mean`, `entropy` in bits,
    `largest_share` of one score, and the score that has it."""
    rounded = np.rint(scores).astype(int)
    counts = np.array([(rounded == s).sum() for s in SCORES])
    share = counts / max(counts.sum(), 1)
    known = share[share > 0]
    return {
        "histogram": counts.tolist(),
        "mean": number(scores.mean()) if len(scores) else None,
        "entropy": float(-(known * np.log2(known)).sum()) + 0.0,
        "largest_share": float(share.max()),
        "largest": int(SCORES[int(share.argmax())]),
    }


def of_gains(
    before: Float[np.ndarray, "n"],
    after: Float[np.ndarray, "n"],
    lengths: Int[np.ndarray, "n"],
    new_lengths: Int[np.ndarray, "n"],
) -> dict[str, float | None]:
    """What refinement does to scores, and whether the gain follows length.

    Args:
      before, after: scores of responses and of their refinements.
      lengths, new_lengths: in characters.

    Returns: `gain`, `ties` and `worse` (shares), `length_gap` (mean characters that refinements are
    longer), `gain_length_correlation` (Pearson's; None where one of the two does not vary).
    """
    gain, longer = after - before, new_lengths - lengths
    return {
        "gain": number(gain.mean()),
        "ties": number((gain == 0).mean()),
        "worse": number((gain < 0).mean()),
        "length_gap": number(longer.mean()),
        "gain_length_correlation": number(correlation(gain, longer, undefined=np.nan)),
    }


def of_agreement(
    opinion: Float[np.ndarray, "n"], truth: Float[np.ndarray, "n"]
) -> dict[str, float | int | None]:
    """Of pairs that the truth tells apart, how often the opinion says the same. A tie is wrong, and
    so is an opinion that is missing (NaN); both are counted, too.

    Args:
      opinion, truth: positive where the first of a pair is better, negative where the other is.
    """
    told = truth != 0
    opinion, truth = opinion[told], truth[told]
    missing = np.isnan(opinion)
    same = np.sign(np.where(missing, 0.0, opinion)) == np.sign(truth)
    if not len(truth):
        return {"pairs": 0, "agreement": None, "agreement_ties": None, "missing": 0}
    return {
        "pairs": len(truth),
        "agreement": float(same.mean()),
        "agreement_ties": float((opinion == 0).mean()),
        "missing": int(missing.sum()),
    }


def notes(scores: dict[str, dict[str, Any]]) -> list[str]:
    """What should worry a reader.

    Args:
      scores: `of_scores` by the name of what was scored.
    """
    return [
        f"{found['largest_share']:.0%} of the scores of {name} are {found['largest']}: "
        "they tell little apart."
        for name, found in scores.items()
        if found["largest_share"] > COLLAPSED
    ]


def pairwise(
    scores: Sequence[tuple[str, str, float | None]], known: Sequence[str]
) -> Float[np.ndarray, "n"]:
    """Score of the chosen side less that of the rejected one, NaN where one is missing.

    Args:
      scores: (pair, `chosen` or `rejected`, score).
      known: all pairs.
    """
    given = {(pair, side): s for pair, side, s in scores if s is not None}
    nan = float("nan")
    return np.array(
        [given.get((p, "chosen"), nan) - given.get((p, "rejected"), nan) for p in known], float
    )
