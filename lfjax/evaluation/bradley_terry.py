"""Strengths of many systems from games between two of them (Bradley and Terry 1952), by maximum
likelihood.   n systems, p prompts, r resamples.

One system beats another with probability σ(θ_i - θ_j); a tie is half a win for each. All games are
counted before anything is fitted, so that their order cannot matter, as it does for Elo ratings.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from lfjax.evaluation.bootstrap import quantiles
from lfjax.evaluation.compare import number, numbers

STEPS, LONGEST = 100, 1.0  # of Newton's method, and the length of one in log-odds
TOLERANCE = 1e-10
RESAMPLES = 500


class Game(NamedTuple):
    """`score` is 1 where `one` wins, 0 where `other` does, 0.5 for a tie. Games on one prompt and
    seed are resampled together."""

    prompt: str
    one: str
    other: str
    score: float
    seed: int = 0


@dataclass(frozen=True)
class Ratings:
    """Strengths in log-odds, by system.

    Attributes:
      reference: the system whose strength is 0.
      strength: log-odds of winning against the reference; ∞ or -∞ where the games have no finite
        answer, NaN where no chain of games leads to the reference.
      interval: 95 %, over seeds, then prompts; an end is infinite where the games leave it open.
      notes: what of this needs to be said in words.
    """

    reference: str
    strength: dict[str, float]
    interval: dict[str, tuple[float, float]]
    notes: list[str]

    def to_json(self) -> dict:
        """Infinite and undefined numbers as null; `notes` tell them apart."""
        systems = {
            name: {"strength": number(s), "interval": numbers(self.interval[name])}
            for name, s in self.strength.items()
        }
        return {"reference": self.reference, "systems": systems, "notes": self.notes}


def bradley_terry(
    games: Iterable[Game], *, reference: str = "", seed: int = 0, resamples: int = RESAMPLES
) -> Ratings:
    """Fit all systems that occur in the games. Equal games in any order give equal ratings.

    Args:
      reference: the system whose strength is 0. Unless it is among the most that can be fitted
        together, the first of these is.
    """
    games = sorted(games)
    names = sorted({g.one for g in games} | {g.other for g in games})
    if not games:
        return Ratings("", {}, {}, ["no game was judged: there are no strengths."])
    place = {name: i for i, name in enumerate(names)}
    prompts = sorted({(g.seed, g.prompt) for g in games})
    row = {prompt: i for i, prompt in enumerate(prompts)}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for g in games:
        i, one, other = row[g.seed, g.prompt], place[g.one], place[g.other]
        wins[i, one, other] += g.score
        wins[i, other, one] += 1 - g.score
    total = wins.sum(axis=0)
    zero = _reference(total, place.get(reference, 0))
    fitted = strengths(total, zero)
    counts = _counts(np.array([s for s, _ in prompts]), seed, resamples)
    drawn = np.stack([strengths(np.tensordot(c, wins, axes=1), zero) for c in counts])
    intervals = {}
    for i, name in enumerate(names):
        known = drawn[:, i][~np.isnan(drawn[:, i])]
        undefined = np.isnan(fitted[i]) or not len(known)
        intervals[name] = (np.nan, np.nan) if undefined else quantiles(known)
    notes = _notes(names, fitted, names[zero])
    return Ratings(names[zero], dict(zip(names, map(float, fitted))), intervals, notes)


def _counts(of_seed: Int[np.ndarray, "p"], seed: int, resamples: int) -> Int[np.ndarray, "r p"]:
    """How often each resample holds each prompt: seeds are drawn first, then as many prompts of
    each drawn one as it has."""
    rng = np.random.default_rng(seed)
    seeds = np.unique(of_seed)
    drawn = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), resamples)
    counts = np.zeros((resamples, len(of_seed)), int)
    for k, s in enumerate(seeds):
        n = int((of_seed == s).sum())
        counts[:, of_seed == s] = rng.multinomial(n * drawn[:, k], np.full(n, 1 / n))
    return counts


def strengths(wins: Float[np.ndarray, "n n"], reference: int = 0) -> Float[np.ndarray, "n"]:
    """θ less that of the reference, from the table of wins of row over column.

    A finite maximum exists only among systems of which each has beaten each other one, perhaps by
    way of others (Ford 1957). Those that are such with the reference are fitted; a system that
    beats into this group and is never beaten out of it is at ∞, the reverse at -∞, and one that no
    games connect with it is NaN.
    """
    above = _reaches(wins > 0)
    core = above[reference] & above[:, reference]
    beats, beaten = above[:, reference], above[reference]
    theta = np.full(len(wins), np.nan)
    theta[beats & ~beaten], theta[beaten & ~beats] = np.inf, -np.inf
    theta[core] = _maximum(wins[np.ix_(core, core)])
    return theta - theta[reference]


def _reference(wins: Float[np.ndarray, "n n"], wanted: int) -> int:
    above = _reaches(wins > 0)
    size = (above & above.T).sum(axis=1)
    return wanted if size[wanted] == size.max() else int(size.argmax())


def _reaches(beat: Bool[np.ndarray, "n n"]) -> Bool[np.ndarray, "n n"]:
    """Whom each system has beaten, itself, or one that beat somebody, and so on."""
    reach = beat | np.eye(len(beat), dtype=bool)
    for k in range(len(reach)):
        reach |= reach[:, [k]] & reach[[k]]
    return reach


def _maximum(wins: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n"]:
    """Newton's method on the log-likelihood, which is concave; the constant that it leaves open is
    set so that the mean is 0."""
    n, games = len(wins), wins + wins.T
    theta = np.zeros(n)
    for _ in range(STEPS):
        p = expit(theta[:, None] - theta)
        slope = (wins - games * p).sum(axis=1)
        weight = games * p * (1 - p)
        curve = np.diag(weight.sum(axis=1)) - weight + 1 / n
        step = np.linalg.solve(curve, slope)
        theta = theta + step * min(1, LONGEST / max(abs(step).max(), TOLERANCE))
        if abs(step).max() < TOLERANCE:
            break
    return theta - theta.mean()


def _notes(names: list[str], theta: Float[np.ndarray, "n"], reference: str) -> list[str]:
    told = {
        np.inf: "{} won every game that leads to {}: nothing bounds its strength from above.",
        -np.inf: "{} lost every game that leads to {}: nothing bounds its strength from below.",
    }
    notes = []
    for name, t in zip(names, theta):
        if np.isnan(t):
            notes.append(f"{name} and {reference} cannot be compared: no games connect them.")
        elif np.isinf(t):
            notes.append(told[t].format(name, reference))
    return notes
