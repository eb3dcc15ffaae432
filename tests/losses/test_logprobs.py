"""`token_logprobs` against a dense log-softmax, on any mesh, and what it never stores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.losses.logprobs import token_logprobs
from tests.losses.meshes import SHAPES, difference, mesh_of

B, T, D, V = 8, 13, 16, 64


def dense(hidden, head, targets):
    """The same with all logits at once."""
    logits = jnp.einsum("btd,vd->btv", hidden, head, preferred_element_type=jnp.float32)
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]


def inputs(b=B, t=T, d=D, v=V, scale=1.0):
    """hidden, head, targets, and a weight of each token."""
    keys = jax.random.split(jax.random.key(0), 4)
    return (
        scale * jax.random.normal(keys[0], (b, t, d)),
        jax.random.normal(keys[1], (v, d)),
        jax.random.randint(keys[2], (b, t), 0, v),
        jax.random.normal(keys[3], (b, t)),
    )


def value_and_grads(fn):
    """(hidden, head, targets, weight) -> log-probabilities and the weighted sum's two gradients."""

    def total(hidden, head, targets, weight):
        logp = fn(hidden, head, targets)
        return (weight * logp).sum(), logp

    def both(*args):
        grads, logp = jax.grad(total, (0, 1), has_aux=True)(*args)
        return logp, grads

    return jax.jit(both)


@pytest.fixture(scope="module")
def args():
    return inputs()


@pytest.fixture(scope="module")
def expected(args):
    return value_and_grads(dense)(*args)


@pytest.mark.parametrize("chunk", [1, 10, 13, 1000])
def test_equals_dense(chunk, args, expected):
    fn = value_and_grads(lambda *args: token_logprobs(*args, chunk=chunk))
    assert difference(fn(*args), expected) < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_dense_on_meshes(shape, args, expected):
    """A chunk of 10 divides none of the local numbers of tokens."""
    fn = value_and_grads(lambda *args: token_logprobs(*args, chunk=10))
    with jax.set_mesh(mesh_of(shape)):
        found = fn(*args)
    assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("shape", [None, (1, 1, 8), (2, 2, 2)], ids=str)
def test_soft_cap(shape, args, expected):
    """Value and gradients through c·tanh(logits / c), for a cap that many logits reach."""

    def capped(hidden, head, targets):
        logits = 4 * jnp.tanh(jnp.einsum("btd,vd->btv", hidden, head) / 4)
        logp = jax.nn.log_softmax(logits)
        return jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]

    expected_capped = value_and_grads(capped)(*args)
    assert difference(expected_capped, expected) > 0.1
    fn = value_and_grads(lambda *args: token_logprobs(*args, chunk=10, softcap=4.0))
    if shape is None:
        found = fn(*args)
    else:
        with jax.set_mesh(mesh_of(shape)):
            found = fn(*args)
    assert difference(found, expected_capped) < 1e-5


def confident(scale):
    """Inputs of which half the targets are the likeliest words."""
    hidden, head, targets, weight = inputs(scale=scale)
    likeliest = jnp.einsum("btd,vd->btv", hidden, head).argmax(-1)
    return hidden, head, jnp.where(weight > 0, likeliest, targets), weight


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_large_logits(shape):
    """Log-probabilities down to -1000, and exactly 0, are right to the rounding of the logits."""
    args = confident(scale=60.0)
    logp, expected_grads = value_and_grads(dense)(*args)
    with jax.set_mesh(mesh_of(shape)):
        found, grads = value_and_grads(lambda *a: token_logprobs(*a, chunk=10))(*args)
    assert logp.min() < -500 and logp.max() == 0
    np.testing.assert_allclose(found, logp, rtol=1e-6, atol=1e-3)
    assert difference(grads, expected_grads) < 1e-4


def test_bfloat16_of_a_confident_model():
    """1 - p of a likely target survives the rounding, which would make p itself 1."""
    hidden, head, targets, weight = confident(scale=5.0)
    likely = jnp.where(weight > 0, 1.0, 0.0)
    hidden, head = (x.astype(jnp.bfloat16) for x in (hidden, head))
    fn = value_and_grads(lambda *args: token_logprobs(*args, chunk=10))
    logp, (found, _) = fn(hidden, head, targets, likely)
    exact = value_and_grads(dense)(
        *(x.astype(jnp.float32) for x in (hidden, head)), targets, likely
    )
    sure = (weight > 0) & (logp > -0.01) & (logp < -1e-4)
    assert sure.sum() >= 5
    assert difference(found[sure], exact[1][0][sure]) < 2**-7


@pytest.mark.parametrize("shape", [None, (2, 2, 2)], ids=str)
def test_bfloat16(shape, args):
    """Products of bfloat16 numbers are summed, normalised and returned in float32; gradients have
    the dtypes of what they belong to."""
    hidden, head, targets, weight = args
    fn = value_and_grads(lambda *args: token_logprobs(*args, chunk=10))
    args = hidden.astype(jnp.bfloat16), head, targets, weight
    if shape is None:
        logp, (d_hidden, d_head) = fn(*args)
    else:
        with jax.set_mesh(mesh_of(shape)):
            logp, (d_hidden, d_head) = fn(*args)
    assert (logp.dtype, d_hidden.dtype, d_head.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    rounded = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (hidden, head))
    expected, grads = value_and_grads(dense)(*rounded, targets, weight)
    assert difference(logp, expected) < 1e-5
    assert difference((d_hidden, d_head), grads) < 2**-8  # one rounding of the logits' gradients


# --- what is never stored ---------------------------------------------------------------------

LONG, WORDS, WIDTH, CHUNK = 4096, 128_256, 256, 512


def compiled(fn):
    """`fn` and its gradients compiled for 4,096 tokens and 128 K words; nothing is run."""
    like = jax.ShapeDtypeStruct
    tokens = like((1, LONG), jnp.int32), like((1, LONG), jnp.float32)
    hidden, head = like((1, LONG, WIDTH), jnp.float32), like((WORDS, WIDTH), jnp.float32)
    return value_and_grads(fn).lower(hidden, head, *tokens).compile()


def largest_array(text: str) -> int:
    """Elements of the largest array in an HLO text."""
    shapes = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]", text)
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def test_memory():
    chunked = compiled(lambda *args: token_logprobs(*args, chunk=CHUNK))
    whole = compiled(dense)
    assert largest_array(whole.as_text()) >= LONG * WORDS  # the search finds what is there
    assert largest_array(chunked.as_text()) == CHUNK * WORDS
    small, large = (c.memory_analysis().temp_size_in_bytes for c in (chunked, whole))
    print(f"temporaries: {small / 2**20:.0f} MiB in chunks, {large / 2**20:.0f} MiB at once")
    assert small <= large / 8
