"""Tables of token blame, made up."""

import math

import numpy as np

from lfjax.stages.blame import to_table

RULE = {"threshold": 1.1, "detect": "ratio", "misalign": "none"}
ABOUT = {"stage": "cut", "step": 6, "flawed": 2, "heldout": True, **RULE}
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> <!-- & \"q\" 'r' \u2028 {{ 7 }}"
)


def table_of(*texts, ratios=None, about=ABOUT):
    """A table of one record per text, a token per character."""
    rows = []
    for i, text in enumerate(texts):
        n = len(text) + 1
        ratio = np.linspace(-1, 1, n) * (i + 1) if ratios is None else np.asarray(ratios[i])
        rows.append(
            {
                "record": f"r{i}",
                "source": text,
                "prompt": text * 9,
                "judgment": text,
                "response": text,
                "token": list(range(n)),
                "piece": [*text, "</s>"],
                "start": list(range(n)),
                "end": [*range(1, n), n - 1],
                "logp_plain": [-1.0] * n,
                "logp_judged": (ratio - 1).tolist(),
                "logp_praised": None,
                "log_ratio": ratio.tolist(),
                "blamed": (ratio > math.log(1.1)).tolist(),
            }
        )
    return to_table(rows, about)
