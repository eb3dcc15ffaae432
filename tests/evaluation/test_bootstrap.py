"""Intervals cover what they say, and seeds count."""

import numpy as np
import pytest

from lfjax.evaluation.bootstrap import interval, mean_of, quantiles

NAN = float("nan")


def test_means_of_seeds_count_equally():
    """A seed with few prompts is not outvoted; what is missing is left out, not zero."""
    assert mean_of([np.array([1.0, NAN]), np.zeros(5)]) == 0.5
    assert mean_of([np.array([1.0, NAN, 0.0]), np.array([NAN])]) == 0.5
    assert np.isnan(mean_of([np.array([NAN])])) and np.isnan(mean_of([np.array([])]))
    assert all(np.isnan(interval([np.array([NAN])])))


def test_one_seed_has_the_normal_width():
    """For many prompts the interval is mean ± 1.96 σ/√n."""
    x = np.random.default_rng(0).normal(size=4000)
    low, high = interval([x], resamples=4000)
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_seeds_are_resampled_before_prompts():
    """Prompts that agree within each seed leave the noise of seeds, which is σ_seed/√s; a bootstrap
    over prompts alone would have no width."""
    means = np.random.default_rng(1).normal(size=10)
    low, high = interval([np.full(50, m) for m in means], resamples=8000)
    half = 1.96 * means.std() / np.sqrt(10)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    same = interval([np.full(50, 0.3)] * 10)
    assert same == pytest.approx((0.3, 0.3))


def test_both_sources_of_noise_add_up():
    """Variance over seeds plus variance over prompts, as in the analysis of variance."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(8, 1)) + 3 * rng.normal(size=(8, 40))
    low, high = interval(list(x), resamples=8000)
    expected = x.mean(axis=1).var() / 8 + x.var(axis=1).mean() / (8 * 40)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(expected), rel=0.1)


def test_coverage():
    """Of 300 samples of 60 numbers about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(3)
    held = 0
    for i in range(300):
        low, high = interval([rng.random(60)], seed=i, resamples=400)
        held += low <= 0.5 <= high
    assert 0.90 <= held / 300 <= 0.985  # 95 % ± 4 standard errors, less the bias of a percentile


def test_infinite_ends_stay_infinite():
    values = np.array([0.0] * 90 + [np.inf] * 10)
    assert quantiles(values) == (0.0, np.inf)


def test_the_same_seed_gives_the_same_interval():
    x = [np.random.default_rng(4).random(30)]
    assert interval(x, seed=5) == interval(x, seed=5) != interval(x, seed=6)
