"""The length-controlled win rate against AlpacaEval's published ones, scikit-learn, and closed
forms."""

import json

import numpy as np
import pytest

from lfjax.evaluation.alpaca_eval import win_rate
from lfjax.evaluation.length_control import (
    FOLDS,
    STRENGTHS,
    Weights,
    fit_logistic,
    lc_noreg,
    lc_win_rate,
    length_feature,
)
from tests.conftest import shared

OUTLIERS = {"phi-2", "alpaca-7b_verbose"}  # published by another version than their weights


@pytest.fixture(scope="module")
def golden():
    return json.loads(shared("data/alpaca_eval/lc_golden.json").read_text())


def columns(golden, model):
    rows = golden["models"][model]["rows"]
    names = ("preference", "len_model", "len_baseline", "glm_preference")
    y, length, baseline, predicted = (np.array([r[n] for r in rows], float) for n in names)
    return y - 1, length, baseline, predicted


def weights(golden, model):
    w = golden["glm_weights"][model]
    return Weights(w["tanh_std_delta_len"], w["instruction_difficulty"], w["bias"])


def test_published_win_rates(golden):
    """All but two of the leaderboard's models, to 1e-4."""
    difficulty = np.array(golden["instruction_difficulty"])
    error = {
        model: abs(lc_win_rate(weights(golden, model), difficulty) - published)
        for model, published in golden["published_lc"].items()
    }
    assert len(error) == 101
    assert {model for model, e in error.items() if e > 1e-4} == OUTLIERS
    assert all(error[model] < 1e-2 for model in OUTLIERS)


def test_raw_win_rates_and_lengths(golden):
    for model, found in golden["models"].items():
        y, length, _, _ = columns(golden, model)
        published = found["published"]
        rate, error = win_rate(y)
        assert rate == pytest.approx(published["win_rate"], abs=1e-9)
        assert error == pytest.approx(published["standard_error"], abs=1e-9)
        assert int(length.mean()) == published["avg_length"]


def test_the_baseline_has_fifty():
    assert lc_win_rate(Weights(0.0, 0.0, 0.0), np.random.default_rng(0).normal(size=9)) == 50


def test_the_length_feature():
    found = length_feature(np.array([1.0, 2, 6]), np.array([4.0, 4, 4]))
    difference = np.array([3, 2, -2.0])
    np.testing.assert_allclose(found, np.tanh(difference / np.sqrt(7)))  # ddof = 1: variance 7
    assert not length_feature(np.array([5, 6]), np.array([7, 8])).any()


@pytest.mark.parametrize("model", ["vicuna-7b-v1.5", "vicuna-13b-v1.5"])
def test_the_fit_is_that_of_liblinear(golden, model):
    """Every strength of the penalty; soft labels as two weighted rows."""
    linear = pytest.importorskip("sklearn.linear_model")
    y, length, baseline, _ = columns(golden, model)
    d = np.array(golden["instruction_difficulty"])
    x = np.stack([length_feature(length, baseline), d, np.ones(len(d))], axis=1)
    for strength in STRENGTHS:
        theirs = linear.LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-8,
            max_iter=100_000,
        ).fit(
            np.concatenate([x, x]),
            np.repeat([1, 0], len(x)),
            sample_weight=np.concatenate([y, 1 - y]),
        )  # fmt: skip
        np.testing.assert_allclose(fit_logistic(x, y, strength), theirs.coef_[0], atol=2e-6)


@pytest.mark.parametrize("labels", ["drawn", "with ties", "separable", "all ones"])
def test_the_fit_is_optimal(labels):
    """Where a weight is not 0 the slope of the log-loss balances the penalty; elsewhere it is
    within it. Separable labels have a finite optimum too."""
    rng = np.random.default_rng(0)
    for n in (4, 12, 50):
        x = np.stack([np.tanh(rng.normal(size=n)), rng.normal(size=n), np.ones(n)], axis=1)
        y = {
            "drawn": rng.integers(0, 2, n).astype(float),
            "with ties": rng.integers(0, 3, n) / 2,
            "separable": (x[:, 0] > 0).astype(float),
            "all ones": np.ones(n),
        }[labels]
        for strength in STRENGTHS:
            w = fit_logistic(x, y, strength)
            slope = x.T @ (1 / (1 + np.exp(-x @ w)) - y) / n
            penalty = 1 / (strength * n)
            at = np.abs(w) > 1e-7
            np.testing.assert_allclose(slope[at], -penalty * np.sign(w[at]), atol=1e-6)
            assert (np.abs(slope[~at]) <= penalty + 1e-6).all()


def test_the_refit_without_gamed_rows(golden):
    """It is another number than the published one, lower here by about one point; difficulties
    matter to it."""
    d = np.array(golden["instruction_difficulty"])
    for model, found in golden["models"].items():
        y, length, baseline, _ = columns(golden, model)
        rate, w = lc_noreg(y, length, baseline, d)
        published = found["published"]["length_controlled_winrate"]
        assert 0.3 < published - rate < 2.5
        assert w.length < 0 < w.difficulty
        assert rate > found["published"]["win_rate"]  # they write less than the baseline
        assert lc_noreg(y, length, baseline)[0] != pytest.approx(rate, abs=1e-3)


def test_the_stored_predictions_are_those_of_the_weights(golden):
    d = np.array(golden["instruction_difficulty"])
    for model in set(golden["models"]) & set(golden["glm_weights"]):
        one = [lc_win_rate(weights(golden, model), d[[i]]) / 100 for i in range(len(d))]
        np.testing.assert_allclose(one, columns(golden, model)[3], atol=1e-9)


def test_without_information_on_length_it_is_the_share_of_wins():
    """Equal lengths and a weak penalty leave the mean; the penalty draws it to 50 at most."""
    y = np.array([1.0] * 30 + [0.0] * 10)
    same = np.full(40, 7)
    rate, w = lc_noreg(np.random.default_rng(0).permutation(y), same, same)
    assert (w.length, w.difficulty) == pytest.approx((0, 0), abs=1e-9)
    assert 70 < rate < 75.01


def test_too_few_prompts():
    n = FOLDS - 1
    assert np.isnan(lc_noreg(np.ones(n), np.ones(n), np.ones(n))[0])


def test_prompts_count_not_their_units():
    """Lengths in other units change nothing."""
    rng = np.random.default_rng(1)
    y, a, b = rng.random(50), rng.integers(9, 99, 50), rng.integers(9, 99, 50)
    assert lc_noreg(y, a, b)[0] == pytest.approx(lc_noreg(y, 10 * a, 10 * b)[0])
