"""Pearson's correlation, also where there is none."""

import numpy as np
from jaxtyping import Num


def correlation(x: Num[np.ndarray, "n"], y: Num[np.ndarray, "n"], undefined: float = 0.0) -> float:
    """Pearson's.

    Args:
      undefined: what it is where one of the two does not vary.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return undefined
    return float(np.corrcoef(x, y)[0, 1])
