"""The exact KL against all logits at once: value and gradient, on any mesh, and how many
collectives there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.losses.kl import exact_kl
from tests.losses.meshes import SHAPES, difference, mesh_of
from tests.training.hlo import collectives

B, T, D, V = 8, 5, 16, 64


def dense(policy, reference, softcap=(None, None)):
    def logp(x, cap):
        logits = jnp.einsum("btd,vd->btv", *x)
        return jax.nn.log_softmax(logits if cap is None else cap * jnp.tanh(logits / cap))

    p, q = logp(policy, softcap[0]), logp(reference, softcap[1])
    return (jnp.exp(p) * (p - q)).sum(-1)


def value_and_grads(fn):
    def total(policy, reference, weight):
        kl = fn(policy, reference)
        return (weight * kl).sum(), kl

    return jax.jit(lambda *args: jax.value_and_grad(total, has_aux=True)(*args))


@pytest.fixture(scope="module")
def args():
    """The reference is a smaller model."""
    keys = jax.random.split(jax.random.key(0), 5)
    draw = jax.random.normal
    policy = draw(keys[0], (B, T, D)), draw(keys[1], (V, D))
    reference = draw(keys[2], (B, T, D // 2)), draw(keys[3], (V, D // 2))
    return policy, reference, draw(keys[4], (B, T))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_equals_dense(chunk, args):
    fn = value_and_grads(lambda *both: exact_kl(*both, chunk=chunk))
    assert difference(fn(*args), value_and_grads(dense)(*args)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_dense_on_meshes(shape, args):
    fn = value_and_grads(lambda *both: exact_kl(*both, chunk=3))
    with jax.set_mesh(mesh_of(shape)):
        found = fn(*args)
    assert difference(found, value_and_grads(dense)(*args)) < 1e-5


def test_soft_caps(args):
    caps = (4.0, 3.0)
    fn = value_and_grads(lambda *both: exact_kl(*both, chunk=7, softcap=caps))
    assert difference(fn(*args), value_and_grads(lambda *b: dense(*b, caps))(*args)) < 1e-5


def test_same_model_is_zero(args):
    policy, _, weight = args
    (_, kl), grads = value_and_grads(lambda *both: exact_kl(*both, chunk=7))(policy, policy, weight)
    assert np.abs(kl).max() == 0
    assert max(np.abs(g).max() for g in grads) < 1e-5


def test_reference_has_no_gradient(args):
    policy, reference, _ = args
    grads = jax.grad(lambda r: exact_kl(policy, r).sum())(reference)
    assert all((g == 0).all() for g in grads)


def test_heads_are_sent_outside_of_the_loop(args):
    """Gathered once before it, the policy's gradient scattered once after it."""
    fn = value_and_grads(lambda *both: exact_kl(*both, chunk=3))
    with jax.set_mesh(mesh_of((2, 2, 2))):
        found = collectives(fn.lower(*args).compile().as_text())
    gathered = (V // 2) * (D // 2) * 4  # bytes of the smaller head, on one device
    assert max(c.bytes for c in found if c.in_loop) < gathered
    assert max(c.bytes for c in found if not c.in_loop) >= gathered
