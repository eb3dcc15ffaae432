"""RLOO on whole responses: its expected gradient is that of what it says it maximises.

A policy over two tokens out of three, in a table; all nine responses are enumerated, each as often
as the policy draws it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.rollouts import Rollouts
from lfjax.data.rows import Rows
from lfjax.errors import UserError
from lfjax.methods import get_estimator, rloo

V, BETA = 3, 0.7
RESPONSES = np.array(list(itertools.product(range(V), repeat=2)))
RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=len(RESPONSES))
LOGITS, REFERENCE = (RNG.normal(size=(1 + V, V)) for _ in range(2))  # first token, then by it


def tables(logits):
    """Log-probabilities of the tokens of every response, `[9, 2]`, and of all tokens that could
    stand there, `[9, 2, 3]`."""
    logp = jax.nn.log_softmax(jnp.asarray(logits))
    every = jnp.stack([jnp.broadcast_to(logp[0], (9, V)), logp[1 + RESPONSES[:, 0]]], axis=1)
    return jnp.take_along_axis(every, RESPONSES[..., None], axis=2)[..., 0], every


def exact(logits):
    p, q = tables(logits)[1], tables(REFERENCE)[1]
    return (jnp.exp(p) * (p - q)).sum(-1)


def objective(logits):
    """E r − β KL over whole responses, in closed form."""
    logp, ref = tables(logits)[0].sum(1), tables(REFERENCE)[0].sum(1)
    return (jnp.exp(logp) * (REWARDS - BETA * (logp - ref))).sum()


def batch_of(logp, advantage):
    rows = jax.tree.map(jnp.asarray, Rows.empty(9, 2))
    rows = rows.replace(weight=jnp.ones((9, 2)), mass=jnp.ones(9))
    return Rollouts(rows, logp, tables(REFERENCE)[0], advantage)


def expected_gradient(kl, kl_in):
    """Of the loss, responses weighted by how often they are drawn; a constant baseline changes no
    expectation, so that none is taken off."""
    logp = tables(LOGITS)[0]
    drawn = jnp.exp(logp.sum(1))[:, None] * 9  # the loss is a mean over nine
    options = rloo.ESTIMATOR.checked({"beta": BETA, "kl": kl, "kl_in": kl_in})
    nats = exact(LOGITS) if kl == "exact" else logp - tables(REFERENCE)[0]
    shaped = REWARDS - BETA * nats.sum(1) * (kl_in in ("reward", "both"))
    batch = batch_of(logp, jnp.broadcast_to(shaped[:, None], (9, 2)) * drawn)

    def total(logits):
        own = exact(logits) * drawn if kl == "exact" else None
        loss, _ = rloo.loss(tables(logits)[0], own, batch, **options)
        return loss.mean

    return jax.grad(total)(jnp.asarray(LOGITS))


@pytest.mark.parametrize("kl, kl_in", [("k1", "reward"), ("exact", "both")])
def test_gradient_is_that_of_the_regularised_reward(kl, kl_in):
    with jax.enable_x64():
        wanted = jax.grad(objective)(jnp.asarray(LOGITS))
        np.testing.assert_allclose(expected_gradient(kl, kl_in), -wanted, atol=1e-12)


def test_exact_in_the_loss_alone_leaves_later_tokens_out():
    with jax.enable_x64():
        wanted = jax.grad(objective)(jnp.asarray(LOGITS))
        found = expected_gradient("exact", "loss")
    np.testing.assert_allclose(found[1:], -wanted[1:], atol=1e-12)  # of last tokens it is right
    assert np.abs(found[0] + wanted[0]).max() > 1e-3


def test_advantages():
    """The KL of a whole response, of its tokens alone, off its reward; all of its tokens get the
    same."""
    rewards = jnp.array([[1.0, 0.0], [3.0, 1.0]])
    nats = jnp.array([[[1.0, 1.0], [2.0, 99.0]], [[0.0, 0.0], [0.0, 0.0]]])
    mask = jnp.array([[[1.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    found = rloo.advantages(rewards, nats, mask, **rloo.OPTIONS | {"beta": 0.5})
    np.testing.assert_allclose(found, [[[1, 1], [-1, 0]], [[2, 2], [-2, -2]]], atol=1e-6)


def test_nothing_but_responses_counts():
    """Whatever stands at other positions, not a number even."""
    logp = jnp.full((9, 2), -1.0)
    batch = batch_of(logp, jnp.ones((9, 2)))
    rows = batch.rows.replace(weight=jnp.repeat(jnp.array([[1.0, 0.0]]), 9, axis=0))
    batch = batch.replace(rows=rows, old_logp=logp.at[:, 1].set(jnp.nan))
    loss, metrics = rloo.loss(logp, None, batch, **rloo.OPTIONS)
    assert float(loss.mean) == -1 and float(metrics["ratio"].mean) == 1


@pytest.mark.parametrize(
    "options, said",
    [
        ({"kl": "k4"}, "k1, k2, k3, exact"),
        ({"kl": "k1", "kl_in": "loss"}, "expected reward"),
        ({"kl": "exact", "kl_in": "reward"}, "loss or both"),
        ({"beta": -1.0}, "beta"),
        ({"clip": 0.0}, "clip"),
        ({"klip": 0.1}, "clip"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        rloo.ESTIMATOR.checked(options)
    with pytest.raises(UserError, match="rloo"):
        get_estimator("rlo")
