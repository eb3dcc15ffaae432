"""Preference data in disjoint folds, by prompt: what a reward is learned from must be new to the
policy, and what the policy is trained on to both."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from lfjax.data.records import Record
from lfjax.data.views import best_and_worst
from lfjax.errors import UserError

Folds = dict[str, list[Record]]
TEST = "test"


def folds(
    records: Sequence[Record],
    seed: int,
    *,
    names: Sequence[str] = ("sft", "rm", "rl"),
    test: int = 0,
) -> tuple[Folds, Counter]:
    """As many folds of about equal size as there are names; all records of one prompt are in one,
    also where prompts differ in case and spaces alone. Wang et al. 2024 (arXiv 2310.00898, section
    4.1) split so in three.

    A record that says in `meta.fold` where it belongs stays there. Records without a preference are
    left out, and counted.

    Args:
      test: so many prompts make one more fold, `test`, to be evaluated on.

    Raises: UserError for a name that occurs twice, a `meta.fold` that is none of the names, a
      prompt in two such folds, and a fold without records.
    """
    names = (*names, *([TEST] if test else []))
    if len(set(names)) < len(names) or not names or test < 0:
        raise UserError(f"folds: names={list(names)}, test={test}; expected different names.")
    groups: dict[str, list[Record]] = defaultdict(list)
    left: Counter = Counter()
    for r in records:
        reason = no_preference(r)
        if reason:
            left[reason] += 1
        else:
            groups[prompt_key(r)].append(r)
    out: Folds = {name: [] for name in names}
    free = []
    for key in random.Random(seed).sample(sorted(groups), len(groups)):
        own = _own_fold(groups[key], names)
        if own is None:
            free.append(groups[key])
        else:
            out[own] += groups[key]
    if test:
        for group in free[:test]:
            out[TEST] += group
    for group in free[test:]:
        min((out[name] for name in names if name != TEST or not test), key=len).extend(group)
    empty = [name for name, fold in out.items() if not fold]
    if empty:
        why = ", ".join(f"{n} {reason}" for reason, n in left.items()) or "none"
        raise UserError(
            f"folds: {len(groups)} different prompts with a preference do not fill "
            f"{len(names)} folds ({', '.join(empty)} stay empty; left out: {why})."
        )
    return out, left


PAIRINGS = {"wl": (True, False), "ww": (True, True), "ll": (False, False), "lw": (False, True)}


def pairings(records: Sequence[Record], seed: int, *, at_most: int = 0) -> tuple[Folds, Counter]:
    """Preferences as improved Records, in the four ways that a gap reward compares them: `wl` has
    the better response as the refinement of the worse one, `ww` as that of itself, and so on.

    Args:
      at_most: take the first so many; 0 for all.
    """
    told = [r for r in records if not no_preference(r)]
    left = Counter({"no preference": len(records) - len(told)})
    told = told[:at_most] if at_most else told
    out: Folds = {name: [] for name in PAIRINGS}
    for r in told:
        sides = dict(zip((True, False), best_and_worst(r)))
        for name, (new, old) in PAIRINGS.items():
            kept = dict(response=sides[old], refinement=sides[new], candidates=())
            out[name].append(replace(r, **kept))
    return out, left


def no_preference(record: Record) -> str | None:
    """Why a record prefers nothing to anything; None if it does."""
    texts = [c.text for c in record.candidates] or [record.response or "", record.refinement or ""]
    if any(not text.strip() for text in texts):
        return "a response is empty"
    return None if best_and_worst(record) else "both responses are equally good"


def prompt_key(record: Record) -> str:
    """The same for prompts that differ in case and spaces alone."""
    turns = (f"{m.role}: {' '.join(m.content.casefold().split())}" for m in record.prompt)
    return "\n".join(turns)


def _own_fold(group: Sequence[Record], names: Sequence[str]) -> str | None:
    """The fold that records of one prompt name, if they do."""
    given = {r.meta["fold"]: r for r in group if "fold" in r.meta}
    for name, r in given.items():
        if name not in names:
            raise UserError(
                f"record '{r.id}' of {r.source}: meta.fold is {name!r}; expected one of "
                f"{', '.join(names)}."
            )
    if len(given) > 1:
        (a, one), (b, other) = list(given.items())[:2]
        raise UserError(
            f"records '{one.id}' and '{other.id}' have the same prompt, but are in the folds {a} "
            f"and {b}: what is tested on it would be known. Put both into one fold."
        )
    return next(iter(given), None)


def exchanged(records: Sequence[Record], seed: int) -> tuple[list[Record], Counter]:
    """The responses dealt out among other prompts: a test of whether who reads a response as a
    reference uses it. No prompt keeps its own."""
    have = [r for r in records if r.response]
    left = Counter({"no response": len(records) - len(have)})
    if len(have) < 2:
        raise UserError(f"exchanged: {len(have)} responses; they can be exchanged between two.")
    order = random.Random(seed).sample(range(len(have)), len(have))
    whose = dict(zip(order, (*order[1:], order[0])))  # one ring
    return [replace(r, response=have[whose[i]].response) for i, r in enumerate(have)], left
