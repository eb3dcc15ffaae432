"""ROUGE (Lin 2004) by the package rouge-score, the re-implementation of the original script that
papers on summaries use; and ROUGE-L without it, for a look at any texts.   n summaries."""

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


def rouge_l(a: str, b: str) -> float:
    """F1 of the words in the longest common subsequence: what stands apart in both texts counts,
    too. Words are what spaces part, not stemmed, in any language; 0 where one text has none.

    A column of the dynamic program's table is held in the bits of one number: bit i is 0 where the
    subsequence gets longer at word i of `a` (Hyyrö 2004).
    """
    ours, theirs = a.split(), b.split()
    places: dict[str, int] = {}
    for i, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(ours)) - 1
    column = every
    for word in theirs:
        here = column & places.get(word, 0)
        column = ((column + here) | (column - here)) & every
    common = len(ours) - column.bit_count()
    return 2 * common / max(len(ours) + len(theirs), 1)
