"""Filters: pure functions from records to records, between the stages of a recipe."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from lfjax.data.critiques import PARTS, parts_left
from lfjax.data.records import Candidate, Record, RecordError
from lfjax.data.self_refine import TAKEN
from lfjax.data.views import need_response
from lfjax.errors import UserError

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


TIES = ("keep", "drop", "expected")
EXPECTED, EXPECTED_REFINED = "expected_score", "expected_refined"  # in a record's meta


def refined(
    records: Sequence[Record],
    seed: int,
    *,
    ties: str,
    unchanged: str = "drop",
    leave_out: str = "",
    cut: str = "keep",
    most_times: float = 0.0,
    scores: Sequence[float] = (),
    at_most: int = 0,
    share: float = 1.0,
) -> Filtered:
    """Responses with a critique of the right form and a refinement that scores better (Hu et al.
    2024, section 4.1), each as a pair whose chosen side is the refinement.

    Args:
      ties: what becomes of a refinement that scores the same: keep (the paper's rule 2); drop; or
        expected: keep it if the model expected a higher score (`judge(expected_score=True)`).
      unchanged: what becomes of one that is the response: keep or drop.
      leave_out: what of a critique is not asked for (`self_refine.LEAVE_OUT`).
      cut: what becomes of a response that ended at the limit of tokens: keep or drop. (A critic's
        answer that did is none.)
      most_times: drop pairs in which one text is so many times as long as the other, in characters;
        0 for no such bound.
      scores: keep refinements with these scores alone (the paper's figure 6).
      at_most: keep the first so many; 0 for all.
      share: look at the first such share of the records alone (figure 5).

    Raises: UserError for an unknown choice or no share, and where ties are to be broken by expected
    scores that are not there.
    """
    for name, value, known in (
        ("ties", ties, TIES),
        ("unchanged", unchanged, TIES[:2]),
        ("cut", cut, TIES[:2]),
    ):
        if value not in known:
            raise UserError(f"filter: {name}='{value}'; expected {' or '.join(known)}.")
    if not 0 < share <= 1:
        raise UserError(f"filter: share={share}; expected more than 0, and 1 at most.")
    kept, left = [], Counter()
    few = math.ceil(share * len(records))
    if few < len(records):
        left[f"beyond the first {100 * share:g} %"] = len(records) - few
    for r in records[:few]:
        reason = unrefined(r, ties, unchanged, leave_out, cut, most_times, scores)
        if not reason and at_most and len(kept) == at_most:
            reason = f"beyond the first {at_most}"
        if reason:
            left[reason] += 1
            continue
        own, better = _scored_sides(r)
        pair = (replace(better, preferred=True), replace(own, preferred=False))
        kept.append(replace(r, candidates=pair))
    return kept, left


def unrefined(
    r: Record,
    ties: str,
    unchanged: str,
    leave_out: str,
    cut: str,
    most_times: float,
    scores: Sequence[float],
) -> str | None:
    """Why a record is no pair; None if it is one."""
    response, refinement = (r.response or "").strip(), (r.refinement or "").strip()
    if not response or not refinement:
        return "no response" if not response else "no refinement"
    if cut == "drop" and r.meta.get("finish") == "length":
        return "response was cut at the token limit"
    text = "\n".join(f.text for f in r.feedback).lower()
    needed = parts_left(leave_out)
    for part, words in zip(PARTS, (("weakness",), ("advice", "suggest"))):
        named = any(getattr(f, part) for f in r.feedback) or any(w in text for w in words)
        if part in needed and not named:
            return f"no {part}"
    own, better = _scored_sides(r)
    if "score" in needed:
        if own.score is None:
            return "no score"
        if better.score is None:
            return "refinement not scored"
        if not all(1 <= c.score <= 10 for c in (own, better)):
            return "score is not from 1 to 10"
    if unchanged == "drop" and response.split() == refinement.split():
        return "refinement is the response"
    said = (m.content for m in r.prompt)
    if any(TAKEN.search(t) for t in (*said, response, text, refinement)):
        return "a text has a heading of its own"
    sizes = sorted(map(len, (response, refinement)))
    if most_times and sizes[1] > most_times * sizes[0]:
        return "lengths too different"
    if own.score is None or better.score is None:
        return None
    if better.score < own.score:
        return "refinement scores lower"
    if better.score == own.score and (ties == "drop" or (ties == "expected" and not _surer(r))):
        return "refinement scores the same"
    return "not one of the scores" if scores and better.score not in scores else None


def _surer(r: Record) -> bool:
    """Whether the model expected a higher score of the refinement."""
    if not {EXPECTED, EXPECTED_REFINED} <= set(r.meta):
        raise UserError(
            f"filter: ties='expected', but record '{r.id}' has no expected scores of its two "
            "sides; both judge stages want expected_score=True."
        )
    return r.meta[EXPECTED_REFINED] > r.meta[EXPECTED]


def _scored_sides(r: Record) -> tuple[Candidate, Candidate]:
    """(the response, the refinement) with their scores, as far as they were given."""
    said = [f.score for f in r.feedback if f.score is not None]
    own = Candidate(r.response or "", r.model, said[-1] if said else None)
    found = [c for c in r.candidates if c.text == r.refinement]
    return own, found[0] if found else Candidate(r.refinement or "")


def again(records: Sequence[Record], seed: int) -> Filtered:
    """Refinements as responses, to be criticised and refined once more."""
    out = []
    for r in records:
        meta = {**r.meta, "refined_times": r.meta.get("refined_times", 0) + 1}
        response = r.refinement or r.response
        out.append(
            replace(r, response=response, feedback=(), refinement=None, candidates=(), meta=meta)
        )
    return out, Counter()


def sides(records: Sequence[Record], seed: int) -> Filtered:
    """Both responses of a preference as records of their own, so that a judge can score each."""
    out, left = [], Counter()
    for r in records:
        marked = {p: [c for c in r.candidates if c.preferred is p] for p in (True, False)}
        if not (marked[True] and marked[False]):
            left["no preference"] += 1
            continue
        for side, mark in (("chosen", True), ("rejected", False)):
            c = marked[mark][0]
            meta = {**r.meta, "prompt_id": r.id, "side": side}
            out.append(Record(f"{r.id}/{side}", r.source, r.prompt, c.text, c.model, meta=meta))
    return out, left


def ranked(records: Sequence[Record], seed: int, *, samples: int = 0) -> Filtered:
    """Of the scored responses to each prompt the one with the highest score, the first among
    equals: re-ranking.

    Args:
      samples: of each prompt, so many responses take part; 0 for all.
    """
    out, left = [], Counter()
    for name, group in _by_prompt(records, samples).items():
        scored = [r for r in group if r.feedback and r.feedback[-1].score is not None]
        left["not scored"] += len(group) - len(scored)
        if scored:
            best = max(scored, key=lambda r: r.feedback[-1].score)
            left["another sample scores at least as high"] += len(scored) - 1
            out.append(replace(best, id=name, refinement=None))
    return out, left


def commonest(records: Sequence[Record], seed: int, *, samples: int = 0) -> Filtered:
    """Of several responses to each prompt the one that was given most often, the first among
    equals: a vote, which needs no judge (self-consistency).

    Args:
      samples: of each prompt, so many responses take part; 0 for all.
    """
    out, left = [], Counter()
    for name, group in _by_prompt(records, samples).items():
        votes = Counter(need_response(r) for r in group)
        best = max(group, key=lambda r: votes[r.response])
        left["another sample is as common or commoner"] += len(group) - 1
        out.append(replace(best, id=name, refinement=None))
    return out, left


def _by_prompt(records: Sequence[Record], samples: int) -> dict[str, list[Record]]:
    """Records of several responses by their prompt, those after the first `samples` left out."""
    groups = defaultdict(list)
    for r in records:
        if not samples or r.meta.get("sample", 0) < samples:
            groups[str(r.meta.get("prompt_id", r.id))].append(r)
    return groups
