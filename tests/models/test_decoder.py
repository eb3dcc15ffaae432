"""The decoder against transformers on torch and a dense attention; padding, packing and blocks
change nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.errors import UserError
from lfjax.models.attention import attention
from lfjax.models.decoder import REMAT, Decoder, logprob_fn
from tests.losses.meshes import difference
from tests.models.small import laid, lively_params, small
from tests.models_of import load_model

# --- transformers -----------------------------------------------------------------------------

BASE = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)
VARIANTS = {
    "mha": {},
    "gqa": dict(num_key_value_heads=2),
    "mqa": dict(num_key_value_heads=1),
    "untied": dict(tie_word_embeddings=False),
    "head_dim": dict(head_dim=12, num_key_value_heads=2),
    "theta": dict(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "eps": dict(rms_norm_eps=0.1),
}


def random_llama(path, **changed):
    """A Hugging Face directory of random weights, norms included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**(BASE | changed), initializer_range=0.2)
    model = transformers.LlamaForCausalLM(config)
    for name, x in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(x, 0.5, 1.5)
    model.save_pretrained(path)
    return str(path)


def reference_logits(path, tokens):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()


def our_logits(path, tokens):
    config, params = load_model(path)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    forward = jax.jit(Decoder(config).apply)
    hidden, head = forward({"params": params}, tokens, positions, jnp.ones_like(tokens))
    return jnp.einsum("btd,vd->btv", hidden, head)


def compare(path, vocab_size):
    tokens = np.random.default_rng(0).integers(0, vocab_size, (2, 60))
    expected = reference_logits(path, tokens)
    worst = np.abs(our_logits(path, jnp.int32(tokens)) - expected).max()
    print(f"logits up to {np.abs(expected).max():.1f} differ by {worst:.1e}")
    assert worst < 1e-4


def test_stories_equals_transformers(stories):
    compare(stories, 512)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_transformers(variant, tmp_path):
    compare(random_llama(tmp_path, **VARIANTS[variant]), BASE["vocab_size"])


def test_variants_differ(tmp_path):
    """Each setting moves the logits, so that one that was ignored would be noticed."""
    tokens = np.random.default_rng(0).integers(0, BASE["vocab_size"], (1, 60))
    base = reference_logits(random_llama(tmp_path / "mha"), tokens)
    for name in ("theta", "eps"):
        other = reference_logits(random_llama(tmp_path / name, **VARIANTS[name]), tokens)
        assert np.abs(base - other).max() > 0.1, name


# --- padding and packing ----------------------------------------------------------------------

LENGTHS = (50, 90, 130)  # the last is longer than a block of attention
CONFIG = small(n_kv_heads=2)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(1)
    return [rng.integers(0, CONFIG.vocab_size, n).astype(np.int32) for n in LENGTHS]


@pytest.fixture(scope="module")
def params():
    return lively_params(CONFIG)


@pytest.fixture(scope="module")
def alone(texts, params):
    """Each text in a row of its own."""
    return scored(texts, [[(0, 0)]] * len(texts), 1, None, params, each=True)


def scored(texts, places, b, t, params, *, each=False):
    """Log-probabilities of each text's targets, wherever the text stands."""
    logprobs = jax.jit(logprob_fn(Decoder(CONFIG), chunk=64))
    if each:
        rows = [laid([ids], place, b, len(ids)) for ids, place in zip(texts, places)]
        return [np.asarray(logprobs(params, r))[0, :-1] for r in rows]
    logp = np.asarray(logprobs(params, laid(texts, places, b, t)))
    return [logp[r, o : o + len(ids) - 1] for ids, (r, o) in zip(texts, places)]


LAYOUTS = {
    "right": ([(0, 0), (1, 0), (2, 0)], 3, 300),
    "left": ([(0, 250), (1, 210), (2, 170)], 3, 300),
    "packed": ([(0, 0), (0, 50), (0, 140)], 1, 300),
    "other order": ([(0, 250), (0, 10), (0, 110)], 1, 300),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_place_does_not_matter(layout, texts, params, alone):
    found = scored(texts, *LAYOUTS[layout], params)
    for a, b in zip(found, alone):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_neighbours_are_not_seen(texts, params):
    """Changing one text leaves the others of its row as they were, bit for bit."""
    places, b, t = LAYOUTS["packed"]
    before = scored(texts, places, b, t, params)
    after = scored([texts[0], texts[1][::-1].copy(), texts[2]], places, b, t, params)
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[2], after[2])
    assert np.abs(before[1] - after[1]).max() > 1


# --- attention --------------------------------------------------------------------------------


def dense_attention(q, k, v, segment, window=10**6, scale=8**-0.5, softcap=1e6):
    """The definition, with the whole `[t, t]` array."""
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) * scale
    logits = softcap * jnp.tanh(logits / softcap) if softcap < 1e6 else logits
    back = jnp.arange(q.shape[1])[:, None] - jnp.arange(q.shape[1])
    mask = (segment[:, :, None] == segment[:, None]) & (back >= 0) & (back < window)
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -jnp.inf))
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def attention_and_grads(fn):
    """Output at real tokens, and gradients of a weighted sum of it."""
    rng = np.random.default_rng(2)
    q, k, v, weight = (
        jnp.asarray(rng.normal(size=(2, 37, n, 8)), jnp.float32) for n in (6, 2, 2, 6)
    )
    segment = jnp.asarray([[1] * 9 + [2] * 15 + [3] * 6 + [0] * 7, [4] * 2 + [5] * 14 + [6] * 21])
    real = (segment > 0)[..., None, None]

    def total(q, k, v):
        out = jnp.where(real, fn(q * 2, k, v, segment), 0.0)
        return (weight * out).sum(), out

    grads, out = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return out, grads


@pytest.fixture(scope="module")
def by_definition():
    return attention_and_grads(dense_attention)


@pytest.mark.parametrize("block", [1, 5, 16, 37, 128])
def test_attention_equals_definition(block, by_definition):
    found = attention_and_grads(lambda *args: attention(*args, block=block))
    assert difference(found, by_definition) < 1e-5


@pytest.mark.parametrize("block", [1, 5, 37])
@pytest.mark.parametrize("window", [2, 4, 12])
def test_windows_and_soft_caps(window, block, by_definition):
    """A window may be a traced number, as it is under the scan over layers."""
    expected = attention_and_grads(partial(dense_attention, window=window, scale=0.5, softcap=2.0))
    assert difference(expected, by_definition) > 0.1

    def ours(*args):
        how = dict(window=jnp.int32(window), scale=0.5, softcap=2.0, block=block)
        return attention(*args, **how)

    assert difference(attention_and_grads(ours), expected) < 1e-5


# --- settings that must not change numbers ----------------------------------------------------


def test_remat_policies(texts, params):
    rows = laid(texts, *LAYOUTS["packed"])

    def grads(remat):
        logprobs = logprob_fn(Decoder(CONFIG, remat=remat), chunk=64)
        return jax.jit(jax.value_and_grad(lambda p: logprobs(p, rows).sum()))(params)

    stored = grads("none")
    for remat in REMAT:
        if remat != "none":
            assert difference(grads(remat), stored) < 1e-6, remat


@pytest.mark.parametrize("remat", REMAT)
def test_a_backward_pass_changes_no_bit(remat, texts, params):
    """A policy equals its reference, which is scored without one, before the first update."""
    rows = laid(texts, *LAYOUTS["packed"])
    logprobs = logprob_fn(Decoder(CONFIG, remat=remat))

    def total(params):
        logp = logprobs(params, rows)
        return logp.sum(), logp

    alone = jax.jit(lambda p: logprobs(p, rows))(params)
    _, trained = jax.jit(jax.grad(total, has_aux=True))(params)
    np.testing.assert_array_equal(alone, trained)


def test_bfloat16(texts, params):
    """Activations are bfloat16, log-probabilities float32 and close to those of float32."""
    rows = laid(texts, *LAYOUTS["packed"])
    model = Decoder(CONFIG, dtype="bfloat16")
    hidden, head = model.apply({"params": params}, rows.tokens, rows.positions, rows.segment)
    assert (hidden.dtype, head.dtype) == (jnp.bfloat16, jnp.float32)
    found = logprob_fn(model)(params, rows)
    exact = logprob_fn(Decoder(CONFIG))(params, rows)
    assert found.dtype == jnp.float32
    assert difference(found, exact) < 0.02


@pytest.mark.parametrize("setting", [dict(remat="ful"), dict(dtype="float16")])
def test_unknown_setting(setting, texts, params):
    with pytest.raises(UserError, match=f"model.{next(iter(setting))}: unknown .*Known: "):
        logprob_fn(Decoder(CONFIG, **setting))(params, laid(texts, *LAYOUTS["packed"]))
