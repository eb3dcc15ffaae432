"""Win rates as if both sides had written equally much (Dubois et al. 2024, arXiv 2404.04475).

n prompts, f features. A prompt's features are tanh z, the difficulty d of its instruction, and 1; z
is the baseline's length less the model's, in standard deviations. A logistic regression on them
explains the preferences, and the length-controlled win rate is what it predicts at z = 0.

AlpacaEval's own fit has rows of two "gamed" baselines beside those of the model, which hold its
weights down. The refit here has none of them: it is another number, and has another name.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.optimize import minimize
from scipy.special import expit

FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)  # C: how much the data weigh against the penalty


class Weights(NamedTuple):
    """Of tanh z, of the difficulty, and of 1."""

    length: float
    difficulty: float
    bias: float


def lc_win_rate(weights: Weights, difficulty: Float[np.ndarray, "n"]) -> float:
    """In percent: 100 · mean σ(w_d d + w_0). With the weights that AlpacaEval fitted and its
    difficulties, the length-controlled win rate that it publishes."""
    return float(100 * expit(weights.difficulty * difficulty + weights.bias).mean())


def lc_noreg(
    preference: Float[np.ndarray, "n"],
    length: Num[np.ndarray, "n"],
    baseline_length: Num[np.ndarray, "n"],
    difficulty: Float[np.ndarray, "n"] | None = None,
) -> tuple[float, Weights]:
    """AlpacaEval's regression without its gamed rows: (win rate in percent, the weights).

    L1-penalised, its strength chosen by the log-loss on held-out folds. NaN with fewer prompts than
    folds.

    Args:
      preference: 1 where the model won, 0 where the baseline did, or anything between.
      length, baseline_length: of the responses, in characters.
      difficulty: of the instructions; None leaves the feature out.
    """
    d = np.zeros(len(preference)) if difficulty is None else difficulty
    x = np.stack([length_feature(length, baseline_length), d, np.ones(len(d))], axis=1)
    if len(x) < FOLDS:
        return float("nan"), Weights(*[float("nan")] * 3)
    fold = np.arange(len(x)) % FOLDS

    def heldout_loss(strength: float) -> float:
        losses = []
        for k in range(FOLDS):
            w = fit_logistic(x[fold != k], preference[fold != k], strength)
            losses.append(_log_loss(x[fold == k] @ w, preference[fold == k]).mean())
        return float(np.mean(losses))

    best = min(STRENGTHS, key=heldout_loss)
    weights = Weights(*map(float, fit_logistic(x, preference, best)))
    return lc_win_rate(weights, d), weights


def length_feature(
    length: Num[np.ndarray, "n"], baseline_length: Num[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """tanh z; 0 where the difference of lengths is the same everywhere."""
    difference = baseline_length - length
    spread = np.std(difference, ddof=1) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread else np.zeros(len(difference))


def fit_logistic(
    x: Float[np.ndarray, "n f"], y: Float[np.ndarray, "n"], strength: float
) -> Float[np.ndarray, "f"]:
    """argmin_w ‖w‖₁ + C Σ log-loss(x w, y) for soft labels y, which is what liblinear minimises
    with each row twice, weighted y and 1 - y. The absolute values become linear by splitting w into
    what is positive of it and what is negative."""
    f, scale = x.shape[1], strength * len(x)

    def loss(parts):
        w = parts[:f] - parts[f:]
        score = x @ w
        slope = x.T @ (expit(score) - y) / len(x)
        total = _log_loss(score, y).mean() + parts.sum() / scale
        return total, np.concatenate([slope, -slope]) + 1 / scale

    bounds = [(0, None)] * (2 * f)
    how = dict(method="SLSQP", options=dict(ftol=1e-15, maxiter=1000))
    parts = minimize(loss, np.zeros(2 * f), jac=True, bounds=bounds, **how).x
    return parts[:f] - parts[f:]


def _log_loss(score: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.logaddexp(0, score) - y * score
