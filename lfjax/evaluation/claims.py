"""Claims: differences between systems that were written down before the runs, and what the runs say
of them.

A claim is that `system` is above `against` by more than `margin` in the mean of a score over the
prompts of some groups; or of a trend, that the slope of a line through the scores of several
systems is above `margin`. All claims of a file are judged together, with Holm's correction, at an
error rate of 5 %.   s seeds, p prompts of a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from lfjax.errors import UserError, nearest
from lfjax.evaluation.bootstrap import draws, mean_of

LEVEL = 0.05
RESAMPLES = 10_000
PAIR = ("system", "against")
VERDICTS = ("reproduced", "not reproduced", "unclear", "not testable")


@dataclass(frozen=True)
class Claim:
    """One line of a claims file.

    Attributes:
      claim: in words.
      source: where the paper says so, or `ours`.
      world: of the lab.
      evaluation: the stage whose answers count (`greedy`, `sampled`).
      metric: a score of that stage.
      groups: of prompts, by what their ids begin with.
      system, against: names of systems; the claim is of the first's mean less the second's.
      margin: by which the difference, or the slope, must be exceeded.
      along: of a trend, in the place of the two systems: each system's place on the axis. Where a
        fall is claimed, places are given with their sign turned.
    """

    claim: str
    source: str
    world: str
    evaluation: str
    metric: str
    groups: tuple[str, ...]
    system: str = ""
    against: str = ""
    margin: float = 0.0
    along: Mapping[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """What every system's score counts in the claim's number: 1 and −1 of a difference; of a
        trend those of the least-squares slope, which add up to 0 as well."""
        if not self.along:
            return {self.system: 1.0, self.against: -1.0}
        x = np.array(list(self.along.values()), float)
        x -= x.mean()
        return dict(zip(self.along, (x / np.square(x).sum()).tolist()))


def read_claims(rows: Any, where: str) -> list[Claim]:
    """Claims from parsed JSON, a list of objects with the fields of `Claim`.

    Raises: UserError naming the claim and the field.
    """
    known = [f.name for f in fields(Claim)]
    needed = known[: known.index("system")]
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where}: expected a list of claims.")
    out = []
    for i, row in enumerate(rows):
        here = f"{where}[{i}]"
        if not isinstance(row, Mapping):
            raise UserError(f"{here}: found {type(row).__name__}, expected an object.")
        for name in row:
            if name not in known:
                raise UserError(f"{here}: unknown field '{name}'. {nearest(name, known)}")
        along = row.get("along", {})
        lacking = [n for n in (*needed, *(() if along else PAIR)) if n not in row]
        if lacking:
            raise UserError(f"{here}: field '{lacking[0]}' is missing.")
        if along and (set(PAIR) & set(row) or len(set(along.values())) < 2):
            raise UserError(
                f"{here}: a trend is along at least two places, and takes the place of 'system' "
                "and 'against'."
            )
        given = {**row, "groups": tuple(row["groups"]), "margin": float(row.get("margin", 0.0))}
        given["along"] = {name: float(x) for name, x in along.items()}
        out.append(Claim(**given))
    return out


def differences(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Per seed, the claim's difference, or its slope, on every prompt; NaN where a system has no
    score.

    Args:
      rows: of the evaluation's `per_prompt.jsonl`.

    Raises: UserError for a system or a group that is not among them.
    """
    systems = sorted({name for row in rows for name in row["answers"]})
    weights = claim.weights
    for name in weights:
        if name not in systems:
            raise UserError(
                f"claim '{claim.claim}': no system '{name}' in evaluation '{claim.evaluation}'. "
                f"{nearest(name, systems)}"
            )
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if str(row["id"]).startswith(tuple(f"{g}-" for g in claim.groups)):
            scores = [row["answers"].get(n) or {} for n in weights]
            values = [score.get(claim.metric, float("nan")) for score in scores]
            value = sum(w * v for w, v in zip(weights.values(), values))
            by_seed.setdefault(row["seed"], []).append(value)
    if not by_seed:
        raise UserError(
            f"claim '{claim.claim}': no prompt of {', '.join(claim.groups)} in evaluation "
            f"'{claim.evaluation}'."
        )
    return [np.array(by_seed[seed], float) for seed in sorted(by_seed)]


def verdicts(
    claims: Sequence[Claim],
    values: Sequence[list[np.ndarray]],
    *,
    testable: bool = True,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Each claim with its estimate, its interval at the level that Holm's correction leaves it,
    p-value and verdict.

    Holm (1979): claims by rising p; the k-th of m is decided at 5 % / (m − k + 1), and none after
    the first that is not decided. p is twice the smaller share of resamples (seeds, then prompts)
    on one side of the margin.

    Args:
      values: of `differences`, for each claim.
      testable: whether the world passed its gate; where it did not, nothing is decided.
    """
    drawn = [draws(v, resamples=resamples) for v in values]
    p = []
    for claim, d in zip(claims, drawn):
        below = (1 + (d <= claim.margin).sum()) / (1 + len(d))
        above = (1 + (d >= claim.margin).sum()) / (1 + len(d))
        p.append(min(1.0, 2 * min(below, above)))
    out: list[dict[str, Any]] = [{} for _ in claims]
    deciding = testable
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        level = LEVEL / (len(claims) - rank)
        deciding = deciding and p[i] <= level
        estimate = mean_of(values[i])
        verdict = "reproduced" if estimate > claims[i].margin else "not reproduced"
        if not deciding:
            verdict = "unclear" if testable else "not testable"
        low, high = np.quantile(drawn[i], (level / 2, 1 - level / 2))
        out[i] = {
            **asdict(claims[i]),
            "groups": ", ".join(claims[i].groups),
            "direction": "above",
            "estimate": estimate,
            "interval": [float(low), float(high)],
            "p": p[i],
            "seeds": len(values[i]),
            "verdict": verdict,
        }
    return out
