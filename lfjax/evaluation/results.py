"""From answers, scores and verdicts to what an evaluation leaves behind: a summary with intervals,
and a row for every prompt.

Several trials are several seeds of the same systems.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from lfjax.data.records import Record
from lfjax.evaluation import bootstrap
from lfjax.evaluation.bradley_terry import Game, bradley_terry
from lfjax.evaluation.compare import compare, number, numbers
from lfjax.evaluation.sides import Sides

Scores = dict[str, float]
Pair = tuple[str, str]  # a system, and the one that it is compared with
WORDS = {1.0: "win", 0.0: "tie", -1.0: "loss"}


@dataclass(frozen=True)
class Verdict:
    """1, 0 or -1 for the system; NaN where there is none, and why."""

    value: float
    reason: str | None = None


@dataclass(frozen=True)
class Trial:
    """One seed of an evaluation.

    Attributes:
      scores: by system, those of its answer to each prompt, or None.
      verdicts: by pair, one for each prompt.
    """

    sides: Sides
    scores: dict[str, list[Scores | None]] = field(default_factory=dict)
    verdicts: dict[Pair, list[Verdict]] = field(default_factory=dict)


def verdicts_by_score(
    scores: dict[str, list[Scores | None]], baseline: str, column: str
) -> dict[Pair, list[Verdict]]:
    """Every system against the baseline: the better score wins."""

    def one(own: Scores | None, other: Scores | None) -> Verdict:
        if own is None or other is None or column not in own or column not in other:
            return Verdict(float("nan"), "not scored")
        return Verdict(float(np.sign(own[column] - other[column])))

    return {
        (name, baseline): [one(a, b) for a, b in zip(own, scores[baseline])]
        for name, own in scores.items()
        if name != baseline
    }


def summary(
    trials: Sequence[Trial], *, seed: int = 0, resamples: int = bootstrap.RESAMPLES
) -> dict[str, Any]:
    """The tables: `systems` (means with intervals), `comparisons` (of every pair that has
    verdicts), and `bradley_terry` where these are of more than two systems."""
    how = dict(seed=seed, resamples=resamples)
    out = {
        "prompts": sum(len(t.sides.prompts) for t in trials),
        "seeds": len(trials),
        "systems": {name: _system(trials, name, how) for name in trials[0].sides.answers},
        "comparisons": [_comparison(trials, pair, how) for pair in trials[0].verdicts],
    }
    if len(out["systems"]) > 2 and out["comparisons"]:
        against = out["comparisons"][0]["against"]
        out["bradley_terry"] = bradley_terry(_games(trials), reference=against, seed=seed).to_json()
    return out


def _system(trials: Sequence[Trial], name: str, how: dict[str, int]) -> dict[str, Any]:
    answers = [a for t in trials for a in t.sides.answers[name]]
    given = [a for a in answers if a is not None]
    columns = {c: None for t in trials for s in t.scores.get(name, []) if s for c in s}
    return {
        "answers": len(given),
        "missing": len(answers) - len(given),
        "characters": number(np.mean([len(a.response) for a in given])) if given else None,
        "scores": {c: _score(trials, name, c, how) for c in columns},
    }


def _score(trials: Sequence[Trial], name: str, column: str, how: dict[str, int]) -> dict[str, Any]:
    values = [
        np.array([(s or {}).get(column, np.nan) for s in t.scores[name]], float) for t in trials
    ]
    return {
        "mean": number(bootstrap.mean_of(values)),
        "interval": numbers(bootstrap.interval(values, **how)),
        "scored": int(sum((~np.isnan(v)).sum() for v in values)),
    }


def _comparison(trials: Sequence[Trial], pair: Pair, how: dict[str, int]) -> dict[str, Any]:
    verdicts = [np.array([v.value for v in t.verdicts[pair]], float) for t in trials]
    lengths, others = ([_lengths(t.sides.answers[name]) for t in trials] for name in pair)
    reasons = Counter(v.reason for t in trials for v in t.verdicts[pair] if v.reason)
    return {
        "system": pair[0],
        "against": pair[1],
        **compare(verdicts, lengths, others, **how),
        "missing_because": dict(reasons.most_common()),
    }


def _lengths(answers: list[Record | None]) -> Float[np.ndarray, "p"]:
    return np.array([np.nan if a is None else len(a.response) for a in answers], float)


def _games(trials: Sequence[Trial]) -> list[Game]:
    return [
        Game(prompt.id, *pair, (v.value + 1) / 2, k)
        for k, t in enumerate(trials)
        for pair, verdicts in t.verdicts.items()
        for prompt, v in zip(t.sides.prompts, verdicts)
        if not np.isnan(v.value)
    ]


def per_prompt(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row for every prompt of every seed: what each system answered, its scores, and who won."""
    rows = []
    for k, t in enumerate(trials):
        for i, prompt in enumerate(t.sides.prompts):
            answers = {
                name: {"response": a.response, **(_at(t.scores.get(name), i) or {})}
                for name, given in t.sides.answers.items()
                if (a := given[i]) is not None
            }
            verdicts = [
                {
                    "system": pair[0],
                    "against": pair[1],
                    "verdict": WORDS.get(found[i].value),
                    **({"reason": found[i].reason} if found[i].reason else {}),
                }
                for pair, found in t.verdicts.items()
            ]
            said = [{"role": m.role, "content": m.content} for m in prompt.prompt]
            row = {"id": prompt.id, "seed": k, "prompt": said, "answers": answers}
            rows.append(row | ({"verdicts": verdicts} if verdicts else {}))
    return rows


def _at(scores: list[Scores | None] | None, i: int) -> Scores | None:
    return scores[i] if scores else None


def as_lines(results: dict[str, Any], column: str) -> list[str]:
    """The summary in a few lines for the terminal.

    Args:
      column: the score that is shown.
    """
    lines = []
    for name, system in results["systems"].items():
        found = system["scores"].get(column)
        score = f"{column} {_with_interval(found['mean'], found['interval'])}, " if found else ""
        missing = f", {system['missing']} missing" if system["missing"] else ""
        if kept := system.get("fallbacks"):
            missing += f", {kept} first answers kept, whose refinements could not be read"
        lines.append(
            f"{name}: {score}{_short(system['characters'], 0)} characters, "
            f"{system['answers']} answers{missing}"
        )
    for c in results["comparisons"]:
        lines.append(
            f"{c['system']} against {c['against']}: {c['wins']} wins, {c['ties']} ties, "
            f"{c['losses']} losses, {c['missing']} missing; "
            f"win - lose {_with_interval(c['delta'], c['interval'])} "
            f"(standard error over prompts at most {_short(c['error_bound'], 3)}), "
            f"length-controlled wins {_short(c['lc_noreg'], 1)} %"
        )
        lines += [f"  {note}" for note in c["notes"]]
    ratings = results.get("bradley_terry", {"systems": {}, "notes": []})
    for name, r in ratings["systems"].items():
        lines.append(f"{name}: strength {_with_interval(r['strength'], r['interval'])}")
    return lines + [f"  {note}" for note in ratings["notes"]]


def _with_interval(value: float | None, ends: Sequence[float | None]) -> str:
    return f"{_short(value, 3)} [{_short(ends[0], 3)}, {_short(ends[1], 3)}]"


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
