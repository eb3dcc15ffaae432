"""The gap loss and Bradley-Terry: values and gradients that were worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.losses.gap import comparisons, difference_gaps, gap_loss
from lfjax.losses.reward import bradley_terry

A = [2.0, 0.5, 0.3, -1.0]
B = [-0.2, 0.1, 0.4, 0.6]
# (gaps wl, ww, ll, lw; terms; loss; gradient)
GOLDEN = [
    (
        A,
        [0.201413, 0.167786, 0.048587, 0.201413, 0.241008],
        0.860208,
        [-0.384317, 0.0, -0.059700, 0.444016],
    ),
    (
        B,
        [0.854355, 1.037488, 1.171101, 0.974077, 0.798139],
        4.835160,
        [-1.910073, -0.048017, 0.095822, 1.862268],
    ),
    ([0.0] * 4, [np.log(2)] * 5, 3.465736, [-1.5, 0.0, 0.0, 1.5]),
]


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("gaps, terms, loss, gradient", GOLDEN)
def test_golden(gaps, terms, loss, gradient):
    g = jnp.array(gaps)
    np.testing.assert_allclose(-jax.nn.log_sigmoid(comparisons(g)), terms, atol=1e-6)
    assert float(gap_loss(g)) == pytest.approx(loss, abs=1e-6)
    np.testing.assert_allclose(jax.grad(gap_loss)(g), gradient, atol=1e-6)
    assert float(jax.grad(gap_loss)(g).sum()) == pytest.approx(0, abs=1e-12)


def test_a_batch():
    losses = gap_loss(jnp.array([A, B]))
    assert float(losses.sum()) == pytest.approx(5.695368, abs=1e-6)
    assert float(losses.mean()) == pytest.approx(2.847684, abs=1e-6)


def test_what_is_added_to_all_gaps_does_not_matter():
    g = jnp.array(A)
    assert float(gap_loss(g + 100)) == pytest.approx(float(gap_loss(g)), abs=1e-12)
    gradients = jax.grad(gap_loss)(g + 100), jax.grad(gap_loss)(g)
    np.testing.assert_allclose(*gradients, atol=1e-12)


def test_the_difference_of_two_rewards():
    better, worse = jnp.array(1.2), jnp.array(0.4)
    value = float(gap_loss(difference_gaps(better, worse)))
    assert value == pytest.approx(1.668303, abs=1e-6)
    assert value == pytest.approx(float(jax.nn.softplus(-1.6) + 4 * jax.nn.softplus(-0.8)))
    assert float(bradley_terry(better, worse)) == pytest.approx(0.371101, abs=1e-6)


def test_exchanged_responses_cost_more():
    """Better and worse exchanged: wl and lw change places, and ww and ll."""
    right, exchanged = jnp.array(A), jnp.array([A[3], A[2], A[1], A[0]])
    assert float(gap_loss(exchanged)) > float(gap_loss(right))


def test_margin_and_centring():
    better, worse = jnp.array(1.2), jnp.array(0.4)
    shifted = bradley_terry(better, worse, margin=0.5)
    assert float(shifted) == pytest.approx(np.log1p(np.exp(-0.3)), abs=1e-12)
    pulled = bradley_terry(better, worse, centring=0.01)
    assert float(pulled - bradley_terry(better, worse)) == pytest.approx(0.01 * 1.6**2, abs=1e-12)
    # The pull sees the level, the preference does not.
    assert float(bradley_terry(better + 3, worse + 3)) == pytest.approx(0.371101, abs=1e-6)


def test_far_apart_is_finite():
    for value in (1e4, -1e4):
        g = jnp.array([value, 0.0, 0.0, -value])
        assert np.isfinite(gap_loss(g)) and np.isfinite(jax.grad(gap_loss)(g)).all()
