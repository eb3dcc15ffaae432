"""ROUGE (Lin 2004) by the package rouge-score, the re-implementation of the original script that
papers on summaries use.   n summaries."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lfjax.errors import UserError

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(
    predictions: Sequence[str], references: Sequence[str]
) -> dict[str, Float[np.ndarray, "_"]]:
    """F1 of every summary against its reference, from 0 to 1, by kind.

    Words are stemmed (Porter). rougeLsum takes each line of a text for a sentence.

    Raises: UserError where the package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError(
            'rouge: the package rouge-score is not installed; pip install "lfjax[eval]".'
        ) from None
    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    scores = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
    return {kind: np.array([s[kind].fmeasure for s in scores], float) for kind in KINDS}
