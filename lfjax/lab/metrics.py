"""What the lab measures: how right responses are, by groups and tiers of what was asked for, and
whether blame falls on the tokens that a judgment is about.

n tokens of a response, r responses.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from lfjax.data.records import Record
from lfjax.lab.oracle import Oracle, parts_of
from lfjax.lab.world import faults


def score_responses(records: Sequence[Record], responses: Sequence[str]) -> dict[str, float]:
    """Means over responses to the prompts of records of the lab's worlds.

    Returns: for every group of what is asked for, `GROUP/right`, the share of its parts that are
    right, and `GROUP/TIER/right`; for every group of prompts, `GROUP/all_right`, the share of
    responses without a fault, and `GROUP/responses`, their number.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for record, response in zip(records, responses, strict=True):
        parts = parts_of(record, response)
        right[f"{record.meta.get('group', 'other')}/all_right"].append(not faults(parts))
        for part in parts:
            if part.group:
                right[f"{part.group}/right"].append(part.right)
                right[f"{part.group}/{part.tier}/right"].append(part.right)
    scores = {name: float(np.mean(values)) for name, values in sorted(right.items())}
    counts = {
        name.replace("all_right", "responses"): float(len(values))
        for name, values in right.items()
        if name.endswith("/all_right")
    }
    return scores | counts


def fault_tokens(
    oracle: Oracle, record: Record, text: str, start: Sequence[int], end: Sequence[int]
) -> Bool[np.ndarray, "n"]:
    """Which tokens of a record's response are the first wrong one of a fault that the judgment
    names. What follows such a token follows from it, and is no fault of its own.

    Args:
      oracle: who judged.
      text: the response as its tokens spell it, perhaps with more space before it.
      start, end: the characters of each token in `text`, as a table of blame has them.
    """
    spans = [p.span for p in faults(oracle.called_wrong(record, text.lstrip())) if p.span]
    return tokens_at(spans, text, start, end)


def tokens_at(
    spans: Iterable[tuple[int, int]], text: str, start: Sequence[int], end: Sequence[int]
) -> Bool[np.ndarray, "n"]:
    """Which tokens share a character with one of the spans, which are of the text without the space
    before it. `text`, `start` and `end` are as of `fault_tokens`."""
    shift = len(text) - len(text.lstrip())
    inside = [(first + shift, last + shift) for first, last in spans]
    return np.array([any(a < y and b > x for x, y in inside) for a, b in zip(start, end)], bool)


def blame_scores(
    log_ratio: Sequence[Float[np.ndarray, "n"]],
    is_fault: Sequence[Bool[np.ndarray, "n"]],
    threshold: float,
) -> dict[str, float]:
    """How well log p_judged − log p_plain finds the tokens that the judgments are about.

    Returns: `precision`, the share of blamed tokens (above log `threshold`) that are such tokens;
    `recall`, the share of such tokens that are blamed; `average_precision` of the ranking by the
    ratio (the area under precision over recall, no threshold); `blamed`, the share of all tokens.
    NaN where there is nothing to take a share of.
    """
    ratio, fault = np.concatenate(log_ratio), np.concatenate(is_fault)
    blamed = ratio > np.log(threshold)
    hit = fault[np.argsort(-ratio, kind="stable")]
    precision_at = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return {
        "precision": _mean(fault[blamed]),
        "recall": _mean(blamed[fault]),
        "average_precision": _mean(precision_at[hit]),
        "blamed": _mean(blamed),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
