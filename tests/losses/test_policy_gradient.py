"""Estimators of KL, advantages and the clipped objective: worked values, a float64 oracle, and what
they are estimates of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.errors import UserError
from lfjax.losses.policy_gradient import (
    clipped_objective,
    is_clipped,
    kl_estimate,
    leave_one_out,
)

LOGP, REF = jnp.array([-1.0, -0.5, -2.0]), jnp.array([-1.2, -0.7, -1.5])
POLICY = np.array([0.5, 0.3, 0.15, 0.05])
REFERENCE = np.array([0.2, 0.4, 0.3, 0.1])
EXACT = float((POLICY * np.log(POLICY / REFERENCE)).sum())


@pytest.mark.parametrize(
    "kind, tokens",
    [
        ("k1", [0.2, 0.2, -0.5]),
        ("k2", [0.02, 0.02, 0.125]),
        ("k3", [0.018731, 0.018731, 0.148721]),
    ],
)
def test_worked_estimates(kind, tokens):
    np.testing.assert_allclose(kl_estimate(LOGP, REF, kind), tokens, atol=1e-6)


@pytest.mark.parametrize("kind, shaped", [("k1", 1.305), ("k3", 1.290691)])
def test_worked_return(kind, shaped):
    assert 1.3 - 0.05 * kl_estimate(LOGP, REF, kind).sum() == pytest.approx(shaped, abs=1e-6)


def test_worked_advantages():
    rewards = jnp.array([1.3, 0.2, -0.5, 0.8])
    expected = [1.133333, -0.333333, -1.266667, 0.466667]
    np.testing.assert_allclose(leave_one_out(rewards), expected, atol=1e-6)
    np.testing.assert_allclose(leave_one_out(rewards + 7), expected, atol=2e-6)
    both = jnp.stack([rewards, -rewards])
    np.testing.assert_allclose(leave_one_out(both), [expected, np.negative(expected)], atol=1e-6)


def drawn(n=400_000):
    """(log π, log π_ref) of tokens that π drew."""
    tokens = np.random.default_rng(0).choice(4, size=n, p=POLICY)
    return jnp.log(jnp.asarray(POLICY))[tokens], jnp.log(jnp.asarray(REFERENCE))[tokens]


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_means_are_the_kl(kind):
    """k1 and k3, within 4 standard errors; k3 with the smaller ones."""
    found = np.asarray(kl_estimate(*drawn(), kind), np.float64)
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - EXACT) < 4 * error
    assert (found >= 0).all() == (kind == "k3")


def test_k2_is_biased_and_its_gradient_is_not():
    logits = jnp.log(jnp.asarray(POLICY))

    def mean(logits, kind):
        """Over all tokens, as often as π draws them; the draws have no gradient."""
        logp = jax.nn.log_softmax(logits)
        return (
            jnp.asarray(POLICY) * kl_estimate(logp, jnp.log(jnp.asarray(REFERENCE)), kind)
        ).sum()

    def exact(logits):
        logp = jax.nn.log_softmax(logits)
        return (jnp.exp(logp) * (logp - jnp.log(jnp.asarray(REFERENCE)))).sum()

    assert abs(mean(logits, "k2") - EXACT) > 0.01
    wanted = jax.grad(exact)(logits)
    np.testing.assert_allclose(jax.grad(mean)(logits, "k2"), wanted, atol=1e-6)
    assert np.abs(jax.grad(mean)(logits, "k1")).max() < 1e-6
    assert np.abs(jax.grad(mean)(logits, "k3") - wanted).max() > 0.01


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_wild_ratios_stay_finite(kind):
    logp, ref = jnp.array([0.0, -200.0]), jnp.array([-200.0, 0.0])
    value, grad = jax.value_and_grad(lambda x: kl_estimate(x, ref, kind).sum())(logp)
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_unknown_estimate():
    with pytest.raises(UserError, match="k1, k2, k3"):
        kl_estimate(LOGP, REF, "k4")


def test_gradient_is_the_oracles():
    """Four responses of one token out of three; numpy, float64."""
    logits = np.array([0.4, -0.3, 0.1])
    tokens, rewards = np.array([0, 2, 1, 0]), np.array([1.3, 0.2, -0.5, 0.8])
    p = np.exp(logits) / np.exp(logits).sum()
    advantage = rewards - (rewards.sum() - rewards) / 3
    oracle = sum(a * (np.eye(3)[y] - p) for a, y in zip(advantage, tokens)) / 4

    def objective(logits, old):
        logp = jax.nn.log_softmax(logits)[tokens]
        return clipped_objective(logp, old, leave_one_out(jnp.asarray(rewards)), 0.2).mean()

    with jax.enable_x64():
        logits = jnp.asarray(logits)
        old = jax.nn.log_softmax(logits)[tokens]
        found = jax.grad(objective)(logits, old)
    np.testing.assert_allclose(found, oracle, atol=1e-12)


def test_clip_stops_what_went_too_far():
    """Beyond the clip a gradient that would go on is 0; one that would go back is not."""
    old, advantage = jnp.zeros(6), jnp.array([1.0, 1.0, 1.0, -1.0, -1.0, 0.0])
    logp = jnp.log(jnp.array([1.3, 1.1, 0.5, 0.7, 1.5, 1.3]))
    grad = jax.grad(lambda x: clipped_objective(x, old, advantage, 0.2).sum())(logp)
    np.testing.assert_allclose(grad, [0, 1.1, 0.5, 0, -1.5, 0], atol=1e-6)
    np.testing.assert_array_equal(is_clipped(logp, old, advantage, 0.2), [1, 0, 0, 1, 0, 0])
