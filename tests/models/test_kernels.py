"""Attention by kernels, interpreted on the CPU: values and gradients are those of the plain way,
packed or not, on a mesh too."""

import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from lfjax.errors import UserError
from lfjax.models.attention import attention
from lfjax.models.decoder import EVERYTHING, Decoder, logprob_fn
from lfjax.models.kernels import KERNELS, attention_of
from tests.losses.meshes import difference, mesh_of
from tests.models.small import laid, lively_params, small

T = 150  # tokens of a row: more than a block
WINDOWED = dict(n_kv_heads=4, windows=(20, 0), attn_softcap=3.0)
# kernel, model, window of the layer
CASES = {
    "splash": ("splash", dict(n_kv_heads=2), None),
    "splash, this layer has a window": ("splash", WINDOWED, 20),
    "splash, others have a window": ("splash", WINDOWED, EVERYTHING),
    "splash, all have a window": ("splash", dict(windows=(20, 20)), 20),
    "triton": ("triton", dict(n_kv_heads=2), None),
}


def attended(attend, config, window=None):
    """Output at the tokens of four packed texts, and gradients of a weighted sum of it."""
    rng = np.random.default_rng(2)
    kv, h = config.n_kv_heads, config.head_dim
    q, k, v, weight = (
        jnp.asarray(rng.normal(size=(2, T, n, h)), jnp.float32)
        for n in (config.n_heads, kv, kv, config.n_heads)
    )
    segment = jnp.array([[1] * 70 + [2] * 60 + [0] * 20, [3] * 9 + [4] * 141])
    real = (segment > 0)[..., None, None]

    def total(q, k, v):
        how = dict(window=window, scale=0.7, softcap=config.attn_softcap)
        out = jnp.where(real, attend(q, k, v, segment, **how), 0)
        return (weight * out).sum(), out

    return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)


@pytest.mark.parametrize("case", CASES)
def test_equals_plain(case):
    """Texts that are packed, across the borders of blocks, in rows that no block divides."""
    name, changed, window = CASES[case]
    config = small(**changed)
    found = attended(attention_of(name, config), config, window)
    assert difference(found, attended(attention_of("plain", config), config, window)) < 1e-5


@pytest.mark.parametrize(
    "case, shape",
    [
        ("splash, this layer has a window", (1, 2, 2)),
        ("triton", (1, 2, 2)),
        ("triton", (2, 1, 1, 2)),
    ],
)
def test_mesh_changes_nothing(case, shape):
    name, changed, window = CASES[case]
    config = small(**changed)
    expected = attended(attention_of("plain", config), config, window)
    with jax.set_mesh(mesh_of(shape)):
        found = attended(attention_of(name, config), config, window)
    assert difference(found, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name, changed", [("splash", WINDOWED), ("triton", dict(n_kv_heads=2))])
def test_packed_equals_alone(name, changed):
    """Log-probabilities and gradients of a decoder, one text after another in a row or each in its
    own; the backward pass finds the context stored."""
    config, rng = small(**changed), np.random.default_rng(1)
    texts = [rng.integers(0, 96, n).astype(np.int32) for n in (50, 90)]
    weights = [rng.normal(size=len(text) - 1) for text in texts]
    decoder = Decoder(config, remat="context", attention=name)
    logprobs = logprob_fn(decoder, chunk=64)

    def scored(places, b, t):
        rows = laid(texts, places, b, t)

        def total(params):
            logp = logprobs(params, rows)
            parts = [logp[r, s : s + len(x) - 1] for x, (r, s) in zip(texts, places)]
            return sum((w * p).sum() for w, p in zip(weights, parts)), parts

        return jax.jit(jax.grad(total, has_aux=True))(lively_params(config))

    assert difference(scored([(0, 5), (0, 55)], 1, 150), scored([(0, 0), (1, 0)], 2, 90)) < 1e-5


@pytest.mark.parametrize("head_dim", [64, 128])
def test_triton_lowers_for_gpus(head_dim):
    """Forward and backward, in bfloat16, as far as a machine without one can tell."""
    kernel = "__gpu$xla.gpu.triton"

    def total(q, k, v, segment):
        out = KERNELS["triton"].run(q, k, v, segment, None, head_dim**-0.5, None, False)
        return out.astype(jnp.float32).sum()

    heads = [jax.ShapeDtypeStruct((2, 256, n, head_dim), jnp.bfloat16) for n in (8, 2, 2)]
    segment = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    skipped = [export.DisabledSafetyCheck.custom_call(kernel)]
    how = dict(platforms=["cuda"], disabled_checks=skipped)
    lowered = export.export(jax.jit(jax.grad(total, (0, 1, 2))), **how)(*heads, segment)
    assert lowered.mlir_module().count(kernel) >= 3


def test_auto_is_plain_on_a_cpu():
    assert attention_of("auto", small()) is attention
    assert attention_of("plain", small()) is attention


@pytest.mark.parametrize("platform, kernel", [("tpu", "splash"), ("gpu", "triton")])
def test_auto_is_the_kernel_of_the_platform(platform, kernel, monkeypatch):
    monkeypatch.setattr("lfjax.models.kernels.platform", lambda: platform)
    assert attention_of("auto", small()).args[0] is KERNELS[kernel]
    windowed = attention_of("auto", small(windows=(5, 0)))
    assert isinstance(windowed, partial) == (platform == "tpu")  # triton has no windows


@pytest.mark.parametrize(
    "capabilities, fits",
    [(("7.5",), False), (("8.0",), True), (("10.0", "9.0"), True), (("8.6", "7.0"), False)],
)
def test_gpus_that_triton_is_not_made_for(capabilities, fits, monkeypatch):
    """Without it, every run on a T4 ends in an error of the compiler, although nobody asked for the
    kernel; and versions must not be compared as texts."""
    devices = [SimpleNamespace(compute_capability=c) for c in capabilities]
    monkeypatch.setattr("lfjax.models.kernels.platform", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: devices)
    if fits:
        for name in ("auto", "triton"):
            assert attention_of(name, small()).args[0] is KERNELS["triton"]
        return
    assert attention_of("auto", small()) is attention
    with pytest.raises(UserError, match=r"triton needs GPUs.* 8\.0 or newer, this is 7\.[05]"):
        attention_of("triton", small())


def test_gpus_without_such_a_number(monkeypatch):
    """AMD's are named `gfx942`: nothing is known against them."""
    device = SimpleNamespace(compute_capability="gfx942")
    monkeypatch.setattr("lfjax.models.kernels.platform", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert attention_of("auto", small()).args[0] is KERNELS["triton"]


@pytest.mark.parametrize(
    "name, changed, here, said",
    [
        ("spash", {}, "cpu", "unknown 'spash'.*splash"),
        ("triton", dict(windows=(5, 0)), "gpu", "has no sliding windows"),
        ("triton", dict(attn_softcap=3.0), "cpu", "has no soft caps"),
        ("triton", {}, "tpu", "attention=triton is for gpu, this is tpu"),
    ],
)
def test_refused(name, changed, here, said, monkeypatch):
    monkeypatch.setattr("lfjax.models.kernels.platform", lambda: here)
    with pytest.raises(UserError, match=said):
        attention_of(name, small(**changed))


# Asks the TPU's compiler, in a process of its own: libtpu stays loaded.
COMPILE = """
import sys
from lfjax.plan import on_cpu
on_cpu()
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from lfjax.models.kernels import attention_of
from lfjax.planning.chips import find_topology
from lfjax.sharding import BATCH, make_mesh
from tests.models.small import small
config = small(n_heads=16, n_kv_heads=8, head_dim=256, windows=(300, 0), attn_softcap=50.0)
mesh = make_mesh({"fsdp": -1, "seq": 2, "tensor": 2}, find_topology(sys.argv[1])[1])
rows = NamedSharding(mesh, P(BATCH))
heads = [jax.ShapeDtypeStruct((16, 1000, n, 256), jnp.bfloat16, sharding=rows) for n in (16, 8, 8)]
ints = jax.ShapeDtypeStruct((16, 1000), jnp.int32, sharding=rows)
window = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, P()))
def total(q, k, v, segment, window):
    attention = attention_of("auto", config)
    out = attention(q, k, v, segment, window=window, scale=0.1, softcap=50.0)
    return out.astype(jnp.float32).sum()
with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(*heads, ints, window).compile()
print(compiled.as_text().count("tpu_custom_call"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5p:2x2x2", "v6e:4x4"])
def test_splash_compiles_for_tpus(topology, tpu_compiler):
    """Forward and backward of layers with and without windows, with soft caps and grouped heads, on
    a mesh."""
    run = subprocess.run([sys.executable, "-c", COMPILE, topology], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) >= 6  # three kernels, of two kinds of layers
