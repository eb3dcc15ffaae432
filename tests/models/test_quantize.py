"""A quantised base: how far it is from the weights that it was made of, and that everything else is
as over the floats that it stands for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.models.decoder import Decoder, abstract_params, init_lora, logprob_fn
from lfjax.models.lora import LoraConfig, merge, merge_by_layer
from lfjax.models.quantize import QUANTISED, floats, is_quantised, quantise, quantised
from lfjax.planning.shapes import shape_of
from lfjax.sharding import tree_shardings
from tests.losses.meshes import difference, mesh_of
from tests.models.small import laid, lively_params, small

CONFIG = small(n_kv_heads=4)
LORA = LoraConfig(4, 8.0, 0.0, ".")
ERRORS = {"int8": 0.01, "nf4": 0.1, "int4": 0.11}  # of normal weights, relative to their norm


@pytest.fixture(scope="module", params=QUANTISED)
def base(request):
    return jax.jit(partial(quantised, kind=request.param))(lively_params(CONFIG))


@pytest.fixture(scope="module")
def adapters():
    noise = np.random.default_rng(3)
    lora = init_lora(CONFIG, LORA, jax.random.key(1))
    return jax.tree.map(lambda x: jnp.asarray(noise.normal(size=x.shape) / 8, x.dtype), lora)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 96, n).astype(np.int32) for n in (30, 20)]
    return laid(texts, [(0, 0), (1, 3)], 2, 40)


def scored(base, adapters, rows):
    """Log-probabilities, and gradients of the adapters."""
    logprobs = logprob_fn(Decoder(CONFIG, lora=LORA), chunk=64)

    def total(adapters, base):
        logp = logprobs(base, rows, adapters)
        return (rows.weight * logp).sum(), logp

    return jax.jit(jax.grad(total, has_aux=True))(adapters, base)


def unquantised(base):
    return jax.tree.map(floats, base, is_leaf=is_quantised)


@pytest.mark.parametrize("kind", QUANTISED)
def test_error_and_scales(kind):
    kernel = jax.random.normal(jax.random.key(0), (2, 256, 96)) * 0.02
    found = jax.jit(partial(quantise, kind=kind))(kernel)
    assert 0.3 * ERRORS[kind] < difference(floats(found), kernel) < ERRORS[kind]
    assert found.qvalue.dtype == {"int8": jnp.int8, "int4": jnp.int4, "nf4": jnp.uint4}[kind]
    assert found.scale.shape == ((2, 1, 96) if kind == "int8" else (2, 4, 96))


@pytest.mark.parametrize("kind, expected", [("int8", 13.4), ("int4", 7.4), ("nf4", 7.4)])
def test_bytes_of_a_base(kind, expected):
    """Of Llama 2 13B: 26.0 GB in bfloat16; 4 bits are 4.25 with their scales."""
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16),
        abstract_params(shape_of("meta-llama/Llama-2-13b-hf")),
    )
    found = jax.eval_shape(partial(quantised, kind=kind), params)

    def size(tree):
        bits = [x.size * jax.dtypes.itemsize_bits(x.dtype) for x in jax.tree.leaves(tree)]
        return sum(bits) / 8e9

    assert size(params) == pytest.approx(26.0, abs=0.05)
    assert size(found) == pytest.approx(expected, abs=0.05)


def test_only_kernels_of_layers(base):
    assert not is_quantised(base["embed"]["embedding"])
    assert base["layers"]["attn_norm"]["scale"].dtype == jnp.float32
    assert all(is_quantised(base["layers"]["mlp"][n]["kernel"]) for n in ("gate", "up", "down"))


def test_equals_its_floats(base, adapters, rows):
    assert (
        difference(scored(base, adapters, rows), scored(unquantised(base), adapters, rows)) < 1e-5
    )


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_start_near_the_base(kind, rows):
    """Fresh adapters change nothing; what is left is the error of the weights."""
    params = lively_params(CONFIG)
    fresh = init_lora(CONFIG, LORA, jax.random.key(1))
    found = scored(quantised(params, kind), fresh, rows)[1]
    exact = logprob_fn(Decoder(CONFIG), chunk=64)(params, rows)
    assert difference(found, exact) < 5 * ERRORS[kind]


def test_merged(base, adapters):
    whole = jax.jit(partial(merge, config=LORA))(base, adapters)
    assert difference(whole, merge(unquantised(base), adapters, LORA)) < 1e-6
    parts = merge_by_layer(base, adapters, LORA)
    for name in ("gate", "down"):
        part, expected = (tree["layers"]["mlp"][name]["kernel"] for tree in (parts, whole))
        assert difference(part[1], expected[1]) < 1e-6


def test_mesh_changes_nothing(base, adapters, rows):
    mesh = mesh_of((1, 2, 2))
    place = lambda tree: jax.device_put(tree, tree_shardings(tree, mesh))  # noqa: E731
    with jax.set_mesh(mesh):
        found = scored(place(base), place(adapters), rows)
    assert difference(found, scored(base, adapters, rows)) < 1e-5
