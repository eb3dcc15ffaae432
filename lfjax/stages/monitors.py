"""What is watched while a policy learns from rewards, and when to distrust them.   n responses, g
prompts, k responses to each, r tokens of the longest.

A reward model is an imitation of a judge, and a policy finds out where the two differ. The alarm
compares it with a monitor, a rule or a judge that is not learned from: the reward rises, while the
monitor's opinion, or its agreement with the reward, falls.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfjax.evaluation.correlation import correlation
from lfjax.evaluation.rouge import rouge_l
from lfjax.losses.policy_gradient import ESTIMATES, kl_estimate
from lfjax.stages.rewards import Source
from lfjax.stages.rollouts import Rollout

FEWEST = 8  # values from which a trend is told
SURE = 2.0  # standard errors that a slope is away from 0


def of_texts(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Lengths, ends, how many differ from others to their prompt, and, where responses are
    improved, how much of them was copied."""
    lengths = np.array([len(r.ids) for r in rollouts], float)
    out = {
        "length": lengths.mean(),
        "eos": np.mean([r.finish == "stop" for r in rollouts]),
        "empty": np.mean([r.empty for r in rollouts]),
        "unique": len({(id(r.task), r.text.strip()) for r in rollouts}) / len(rollouts),
    }
    pairs = [(r.text.strip(), r.task.reference.strip()) for r in rollouts if r.task.reference]
    if pairs:
        out["copied"] = np.mean([a == b for a, b in pairs])
        out["similarity"] = np.mean([similarity(a, b) for a, b in pairs])
        out["rouge_l"] = np.mean([rouge_l(a, b) for a, b in pairs])
        words = np.array([[len(a.split()), len(b.split())] for a, b in pairs], float)
        out["length_ratio"] = words[:, 0].mean() / max(words[:, 1].mean(), 1.0)
    return {name: float(value) for name, value in out.items()}


def similarity(a: str, b: str) -> float:
    """Share of the words of both texts that lie in common stretches; 1 of equal texts."""
    return SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()


def of_rewards(
    rollouts: Sequence[Rollout],
    values: Mapping[str, Float[np.ndarray, "g k"]],
    rewards: Float[np.ndarray, "g k"],
    sources: Sequence[Source],
) -> dict[str, float]:
    """Of every source and of their sum, by what is improved, and how they go with length."""
    out = {"reward": rewards.mean(), "reward_std": rewards.std()}
    out["reward_within"] = rewards.std(axis=1).mean()
    for name, value in values.items():
        known = value[~np.isnan(value)]
        out[f"reward/{name}"] = known.mean() if known.size else np.nan
        out[f"reward/{name}/std"] = known.std() if known.size else np.nan
        out[f"reward/{name}/missing"] = np.isnan(value).mean()
    origins = np.array([r.task.origin for r in rollouts]).reshape(rewards.shape)
    groups = {origin: origins == origin for origin in sorted(set(origins.flat)) if origin}
    for origin, here in groups.items():
        out[f"reward/of_{origin}"] = rewards[here].mean()
    for source in (s for s in sources if s.bands):
        out |= bands(values[source.name], source.bands, groups)
        out["gap_length"] = gap_length(rollouts, values[source.name])
    lengths = np.array([len(r.ids) for r in rollouts], float)
    out["reward_length"] = correlation(rewards.ravel(), lengths)
    return {name: float(value) for name, value in out.items()}


def gap_length(rollouts: Sequence[Rollout], gaps: Float[np.ndarray, "g k"]) -> float:
    """Correlation of gaps with the difference of lengths, response less reference, in words; of
    responses that could be read."""
    longer = np.array(
        [len(r.text.split()) - len((r.task.reference or "").split()) for r in rollouts], float
    )
    known = _read(rollouts) & np.isfinite(gaps.ravel())
    return correlation(gaps.ravel()[known], longer[known])


def _read(rollouts: Sequence[Rollout]) -> np.ndarray:
    return np.array([not r.empty for r in rollouts])


def bands(gaps, bounds: tuple[float, float], groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of rollouts that the gap reward puts where it puts better responses, equal ones and
    worse ones (Wang et al. 2024, arXiv 2310.00898, figure 4); and by what is improved."""
    low, high = bounds
    inside = {
        "better": gaps >= high,
        "similar": (gaps > low) & (gaps < high),
        "worse": gaps <= low,
    }
    out = {f"gap_{band}": here.mean() for band, here in inside.items()}
    for origin, group in groups.items():
        out |= {f"gap_{band}/of_{origin}": here[group].mean() for band, here in inside.items()}
    return out


def of_policy(columns: Mapping[str, Float[np.ndarray, "n r"]], mask, sampled) -> dict[str, float]:
    """KL to the reference, surprise, and how far sampler and trainer are apart.

    Args:
      columns: `logp`, `ref_logp`, and perhaps `plain_logp` and `exact`.
      mask: where there are tokens.
      sampled: the sampler's log-probabilities.
    """
    here, n = mask > 0, len(mask)
    kinds = (*ESTIMATES, *(["exact"] if "exact" in columns else []))
    out = {f"kl_{kind}": kl_of(columns, kind)[here].sum() / n for kind in kinds}
    apart = np.abs(columns.get("plain_logp", columns["logp"]) - sampled)[here]
    out |= {"entropy": -columns["logp"][here].mean()}
    out |= {"sampler_difference": apart.mean(), "sampler_difference_max": apart.max()}
    return {name: float(value) for name, value in out.items()}


def of_monitor(opinions: Sequence[Float[np.ndarray, "g k"]], rewards) -> dict[str, float]:
    """The mean of who is not learned from, its agreement with the reward, and of how many pairs
    that is; nothing where nobody was asked."""
    if not opinions:
        return {}
    (monitor,) = opinions
    mean = np.nanmean(monitor) if np.isfinite(monitor).any() else np.nan
    share, told = agreement(rewards, monitor)
    return {"monitor": float(mean), "agreement": share, "told_apart": told}


def of_gaps(
    rollouts: Sequence[Rollout],
    values: Mapping[str, Float[np.ndarray, "g k"]],
    backwards: Mapping[str, Float[np.ndarray, "g k"]],
) -> dict[str, float]:
    """The `antisymmetry` of gap rewards: what is gained one way should be lost the other way, and
    the correlation of g(y, y_ref) with −g(y_ref, y) be 1. Nothing where none was looked at.

    Args:
      backwards: g(y_ref, y) of some sources.
    """
    read = _read(rollouts)
    found = []
    for name, back in backwards.items():
        there, back = values[name].ravel(), back.ravel()
        known = read & np.isfinite(there) & np.isfinite(back)
        if known.any():
            found.append(correlation(there[known], -back[known]))
    return {"antisymmetry": float(np.mean(found))} if found else {}


def kl_of(columns: Mapping[str, Float[np.ndarray, "n r"]], kind: str) -> Float[np.ndarray, "n r"]:
    """KL to the reference of every token, by an estimate or `exact`."""
    if kind == "exact":
        return columns["exact"]
    both = (jnp.asarray(columns[name]) for name in ("logp", "ref_logp"))
    return np.asarray(kl_estimate(*both, kind))


def agreement(
    rewards: Float[np.ndarray, "g k"], monitor: Float[np.ndarray, "g k"]
) -> tuple[float, int]:
    """Of pairs of responses to one prompt that the monitor tells apart, the share that the reward
    puts in the same order, and their number; equal rewards count half. NaN where there are none."""
    i, j = np.triu_indices(rewards.shape[1], 1)
    by_reward, by_monitor = (np.sign(x[:, i] - x[:, j]) for x in (rewards, monitor))
    told = ~np.isnan(by_monitor) & (by_monitor != 0)
    right = (1 + by_reward * by_monitor) / 2
    return float(right[told].mean()) if told.any() else float("nan"), int(told.sum())


def alarm(log: Sequence[Mapping[str, Any]], window: int) -> bool:
    """Over the last `window` logged steps with a monitor: the reward rises for sure, while the
    monitor's mean falls for sure; or its agreement with the reward does, and the mean does not rise
    for sure. Where it does, responses get better, and what is left to tell apart gets harder.

    A step's agreement counts as much as the pairs that it is a share of.
    """
    rows = [row for row in log if "monitor" in row][-window:]

    def column(name: str) -> list[float]:
        return [float(row.get(name, np.nan)) for row in rows]

    reward, mean = trend(column("reward")), trend(column("monitor"))
    agrees = trend(column("agreement"), column("told_apart"))
    return reward > SURE and (mean < -SURE or (agrees < -SURE and mean <= SURE))


def trend(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """The slope of a line through values at equal distances, in its standard errors; 0 where there
    are too few. Values that are no numbers are left out.

    Args:
      weights: what each value counts, as the number of observations that it is a mean of.
    """
    y = np.asarray(values, float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    known = np.isfinite(y) & (w > 0)
    x, y, w = np.flatnonzero(known).astype(float), y[known], w[known]
    if len(y) < FEWEST or np.ptp(y) == 0:
        return 0.0
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    spread = (w * x * x).sum()
    slope = (w * x * y).sum() / spread
    error = np.sqrt((w * np.square(y - slope * x)).sum() / (len(y) - 2) / spread)
    return float(slope / max(error, 1e-12))
