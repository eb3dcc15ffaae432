"""Filters: pure functions from records to records, between the stages of a recipe."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from lfjax.data.records import Candidate, Record, RecordError

Filtered = tuple[list[Record], Counter]  # what is kept, and why the rest is not


def shuffled(records: Sequence[Record], seed: int) -> Filtered:
    """The feedback of flawed responses dealt out among them anew, so that it no longer belongs to
    what it is said of: a placebo with the same words. Each gets another one's."""
    flawed = [i for i, r in enumerate(records) if not r.satisfactory and r.feedback]
    if len(flawed) < 2:
        raise RecordError(f"{len(flawed)} flawed records: feedback can be exchanged between two.")
    order = random.Random(seed).sample(flawed, len(flawed))
    whose = dict(zip(order, (*order[1:], order[0])))  # one ring: nobody keeps his own
    out = [
        replace(r, feedback=records[whose[i]].feedback) if i in whose else r
        for i, r in enumerate(records)
    ]
    return out, Counter()


def satisfactory(records: Sequence[Record], seed: int) -> Filtered:
    """Satisfactory responses alone."""
    kept = [r for r in records if r.satisfactory]
    return kept, Counter({"not satisfactory": len(records) - len(kept)})


def compared(records: Sequence[Record], seed: int) -> Filtered:
    """The scored responses to one prompt as candidates of one record, from which pairs and best
    ones are made; the best is its response.

    Raises: RecordError for a response without a score.
    """
    groups = defaultdict(list)
    for r in records:
        score = r.feedback[-1].score if r.feedback else None
        if r.response is None or score is None:
            raise RecordError(
                f"record '{r.id}' of {r.source}: has no scored response; these are compared."
            )
        groups[r.meta.get("prompt_id", r.id)].append((score, r))
    out, left = [], Counter()
    for name, group in groups.items():
        if len({score for score, _ in group}) < 2:
            left["all responses of a prompt score the same"] += 1
            continue
        best = max(group, key=lambda item: item[0])[1]
        candidates = tuple(Candidate(r.response, r.model, score) for score, r in group)
        out.append(replace(best, id=str(name), candidates=candidates))
    return out, left
