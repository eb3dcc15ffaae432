"""Schedules against their formulas and the authors' logs; epochs and examples as steps."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lfjax.errors import UserError
from lfjax.training.optimizer import MOMENTS, in_steps, make_optimizer, make_schedule

RATE = 4e-4


def rates(total, **how):
    schedule = make_schedule(RATE, total, **how)
    return [float(schedule(n)) for n in range(total)]


def by_formula(n, total, warmup, decay, final=0.0):
    """Learning rate of update n (from 0), as transformers' schedulers define it."""
    if n < warmup:
        return RATE * n / warmup
    done = (n - warmup) / max(total - warmup, 1)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return RATE * (left[decay] if decay == "constant" else final + (1 - final) * left[decay])


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(
    "total, warmup", [(50, 0), (50, 1), (50, 10), (50, 49), (50, 50), (50, 80)]
)
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_schedule(decay, total, warmup, final):
    found = rates(total, warmup_steps=warmup, decay=decay, final_fraction=final)
    expected = [by_formula(n, total, warmup, decay, final) for n in range(total)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)
    assert (found[0] == 0) == (warmup > 0)


def test_equals_transformers():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    theirs = transformers.get_cosine_schedule_with_warmup(optimizer, 10, 50)
    expected = []
    for _ in range(50):
        expected += theirs.get_last_lr()
        optimizer.step()
        theirs.step()
    found = rates(50, warmup_steps=10, decay="cosine")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)


def test_runs_of_the_authors_of_cut():
    """45 updates under a warm-up of 100 never decay; 165 have 65 of half a cosine."""
    online = rates(45, warmup_steps=100, decay="cosine")
    np.testing.assert_allclose(online, [4e-6 * n for n in range(45)], rtol=1e-5)
    np.testing.assert_allclose(np.mean(online), 8.8e-5, rtol=1e-5)
    offline = rates(165, warmup_steps=100, decay="cosine")
    np.testing.assert_allclose(max(offline), RATE, rtol=1e-6)
    assert offline[100] == max(offline) and 1e-7 < offline[-1] < 3e-7


def test_unknown_decay():
    with pytest.raises(UserError, match=r"decay: unknown 'cosin'\. Did you mean 'cosine'"):
        make_schedule(RATE, 10, warmup_steps=0, decay="cosin")


# --- units ------------------------------------------------------------------------------------

EPOCH = dict(epoch_steps=45, epoch_examples=358)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, 0),
        (dict(warmup_steps=0, warmup_epochs=0.0, warmup_examples=0), 0),
        (dict(warmup_steps=100, warmup_epochs=0.0), 100),
        (dict(warmup_epochs=1.0), 45),
        (dict(warmup_epochs=0.5), 22),
        (dict(warmup_epochs=2.5), 112),
        (dict(warmup_epochs=0.001), 1),  # at least one step
        (dict(warmup_examples=358), 45),
        (dict(warmup_examples=80), 10),
        (dict(warmup_examples=1), 1),
        (dict(warmup_examples=716), 90),
    ],
)
def test_in_steps(given, expected):
    assert in_steps(ConfigDict(given), "warmup", **EPOCH) == expected


def test_in_steps_default():
    assert in_steps(ConfigDict(), "save", **EPOCH, default=7) == 7


def test_two_units():
    with pytest.raises(UserError, match="save_steps and save_epochs are both set"):
        in_steps(ConfigDict(dict(save_steps=3, save_epochs=1.0)), "save", **EPOCH)


def test_negative():
    with pytest.raises(UserError, match="save_examples=-3: expected a positive number, or 0"):
        in_steps(ConfigDict(dict(save_examples=-3)), "save", **EPOCH)


OPTIONS = dict(b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=0.0)


def test_first_moment_in_bfloat16():
    """Half its bytes, and a direction that differs by the rounding of the moment."""
    rng, found = np.random.default_rng(0), {}
    grads = [jnp.asarray(rng.normal(size=500) + 0.5, jnp.float32) for _ in range(20)]
    for dtype in MOMENTS:
        tx = make_optimizer(ConfigDict(OPTIONS | dict(mu_dtype=dtype)))
        state = tx.init(grads[0])
        for g in grads:
            direction, state = tx.update(g, state, g)
        adam = state[1]
        assert (adam.mu.dtype, adam.nu.dtype) == (dtype, "float32")
        found[dtype] = np.asarray(direction)
    worst = np.abs(found["bfloat16"] - found["float32"]).max()
    assert 0 < worst < 0.02 * np.abs(found["float32"]).max()


def test_unknown_moment():
    with pytest.raises(UserError, match="mu_dtype: unknown 'float16'"):
        make_optimizer(ConfigDict(OPTIONS | dict(mu_dtype="float16")))
