"""Every family against transformers on torch: logits, log-probabilities, and files both ways."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lfjax.data.tokenize import load_tokenizer
from lfjax.models.config import RopeScaling, read_hf_config
from lfjax.models.decoder import Decoder, abstract_params, init_params, logprob_fn
from lfjax.models.families import text_name
from lfjax.models.hf import export_tensors, save_hf, stored_dtype
from lfjax.sharding import tree_shardings
from tests.losses.meshes import difference, mesh_of
from tests.models.small import laid, lively_params, small
from tests.models_of import load_model

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
LENGTH = 90  # more than one block of attention
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
SLIDES = dict(use_sliding_window=True, sliding_window=13, max_window_layers=1)
TIED, UNTIED = dict(tie_word_embeddings=True), dict(tie_word_embeddings=False)
CAPS = dict(attn_logit_softcapping=3.0, final_logit_softcapping=5.0)


def rope(kind, **rest):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=500.0, **rest))


GEMMA3_ROPE = dict(
    full_attention=dict(rope_type="linear", factor=4.0, rope_theta=5000.0),
    sliding_attention=dict(rope_type="default", rope_theta=50.0),
)
GEMMA3 = dict(
    head_dim=12,
    sliding_window=13,
    query_pre_attn_scalar=20,
    rope_parameters=GEMMA3_ROPE,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)
# name -> (prefix of transformers' classes, fields)
VARIANTS = {
    "llama linear": ("Llama", rope("linear", factor=4.0)),
    "llama llama3": (
        "Llama",
        rope("llama3", original_max_position_embeddings=64, **LLAMA3) | dict(head_dim=16),
    ),
    "mistral": ("Mistral", dict(sliding_window=13)),
    "mistral without window": ("Mistral", dict(sliding_window=None) | TIED),
    "qwen2": ("Qwen2", dict(sliding_window=13)),
    "qwen2 tied, windows": ("Qwen2", SLIDES | TIED),
    "qwen3": ("Qwen3", dict(head_dim=12)),
    "qwen3 tied, windows": ("Qwen3", dict(head_dim=12) | SLIDES | TIED),
    "gemma": ("Gemma", dict(head_dim=12)),
    "gemma untied": ("Gemma", dict(head_dim=12, num_key_value_heads=1) | UNTIED),
    "gemma2": (
        "Gemma2",
        dict(head_dim=12, sliding_window=13, query_pre_attn_scalar=20) | CAPS,
    ),
    "gemma2 untied, no caps": (
        "Gemma2",
        dict(head_dim=12, sliding_window=13, attn_logit_softcapping=None)
        | dict(final_logit_softcapping=None)
        | UNTIED,
    ),
    "gemma3": ("Gemma3Text", GEMMA3),
    "gemma3 untied, cap": ("Gemma3Text", GEMMA3 | dict(final_logit_softcapping=5.0) | UNTIED),
    "gemma3 with images": ("Gemma3", GEMMA3),
}


def build(variant, path):
    """A directory of random weights of visible size, norms and biases included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    prefix, fields = VARIANTS[variant]
    fields = SIZES | HEADS | fields | dict(initializer_range=0.2, pad_token_id=0)
    head = "ForCausalLM"
    if prefix == "Gemma3":
        vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1)
        vision |= dict(num_attention_heads=2, image_size=28, patch_size=14)
        marks = dict(image_token_index=95, boi_token_index=93, eoi_token_index=94)
        fields = dict(text_config=fields, vision_config=vision, mm_tokens_per_image=4, **marks)
        head = "ForConditionalGeneration"
    config = getattr(transformers, f"{prefix}Config")(**fields)
    config._attn_implementation = "eager"  # the other kinds leave the soft cap out
    model = getattr(transformers, prefix.removesuffix("Text") + head)(config)
    for name, x in model.named_parameters():
        if "norm" in name:
            around = 0.0 if "Gemma" in prefix else 1.0
            torch.nn.init.uniform_(x, around - 0.5, around + 0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(x, std=0.5)
    model.eval().save_pretrained(path)
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """variant -> (path, transformers' model), each built once."""
    made = {}

    def get(variant):
        if variant not in made:
            path = tmp_path_factory.mktemp("model")
            made[variant] = str(path), build(variant, path)
        return made[variant]

    return get


def reference_logits(model, tokens):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.float().numpy()


def our_logits(config, params, tokens, **how):
    tokens = jnp.asarray(tokens, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    forward = jax.jit(Decoder(config, **how).apply)
    hidden, head = forward({"params": params}, tokens, positions, jnp.ones_like(tokens))
    logits = jnp.einsum("btd,vd->btv", hidden, head.astype(hidden.dtype)).astype(jnp.float32)
    cap = config.final_softcap
    return logits if cap is None else cap * jnp.tanh(logits / cap)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_transformers(variant, built):
    path, model = built(variant)
    config, params = load_model(path)
    tokens = np.random.default_rng(0).integers(0, 93, (2, LENGTH))
    expected = reference_logits(model, tokens)
    worst = np.abs(our_logits(config, params, tokens) - expected).max()
    print(f"\n{variant}: logits up to {np.abs(expected).max():.1f} differ by {worst:.1e}")
    assert np.abs(expected).max() > 2
    assert worst < 1e-4
    found = jax.jit(logprob_fn(Decoder(config), chunk=50))(
        params, laid(list(tokens.astype(np.int32)), [(0, 0), (1, 0)], 2, LENGTH)
    )
    logp = np.asarray(jax.nn.log_softmax(expected[:, :-1]))
    picked = np.take_along_axis(logp, tokens[:, 1:, None], axis=2)[..., 0]
    assert np.abs(found[:, :-1] - picked).max() < 1e-4


# --- what would go unnoticed ------------------------------------------------------------------

WITHOUT = {
    "llama linear": [dict(rope_scaling=None)],
    "llama llama3": [dict(rope_scaling=None), dict(rope_scaling=RopeScaling("linear", 8.0))],
    "mistral": [dict(windows=()), dict(windows=(14,) * 3)],
    "qwen2 tied, windows": [dict(windows=()), dict(windows=(13,) * 3), dict(qkv_bias=False)],
    "qwen3 tied, windows": [dict(windows=()), dict(qk_norm=False)],
    "gemma": [dict(activation="silu"), dict(norm_plus_one=False), dict(scale_embedding=False)],
    "gemma2": [
        dict(windows=()),
        dict(windows=(0, 13, 0)),
        dict(query_scalar=None),
        dict(attn_softcap=None),
        dict(final_softcap=None),
    ],
    "gemma3": [
        dict(rope_scaling=None),
        dict(local_rope_theta=None),
        dict(rope_theta=50.0),
        dict(post_norms=False),
        dict(query_scalar=None),
    ],
}


@pytest.mark.parametrize("variant", WITHOUT)
def test_every_setting_matters(variant, built):
    """Without any of them the logits are far from what transformers gives."""
    path, _ = built(variant)
    config, params = load_model(path)
    tokens = np.random.default_rng(0).integers(0, 93, (1, LENGTH))
    exact = our_logits(config, params, tokens)
    for changed in WITHOUT[variant]:
        worst = np.abs(our_logits(replace(config, **changed), params, tokens) - exact).max()
        assert worst > 0.01, changed


@pytest.mark.parametrize("variant", ["gemma2", "qwen3"])
def test_bfloat16_equals_transformers(variant, built):
    """About as close to transformers in bfloat16 as that is to itself in float32."""
    torch = pytest.importorskip("torch")
    path, model = built(variant)
    config, params = load_model(path)
    tokens = np.random.default_rng(0).integers(0, 93, (2, LENGTH))
    exact = reference_logits(model, tokens)
    rounded = reference_logits(copy.deepcopy(model).to(torch.bfloat16), tokens)
    found = our_logits(config, params, tokens, dtype="bfloat16")
    assert difference(rounded, exact) > 1e-3
    assert difference(found, rounded) < 1.5 * difference(rounded, exact)


# --- packing, meshes --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["mistral", "gemma2", "gemma3"])
def test_packed_equals_alone(variant, built):
    """Windows that are shorter than the texts, and texts that are longer than a block."""
    config, params = load_model(built(variant)[0])
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 93, n).astype(np.int32) for n in (50, 90, 130)]
    logprobs = jax.jit(logprob_fn(Decoder(config), chunk=64))
    alone = [logprobs(params, laid([x], [(0, 0)], 1, len(x)))[0, :-1] for x in texts]
    for places in [[(0, 0), (0, 50), (0, 140)], [(0, 250), (0, 10), (0, 110)]]:
        logp = logprobs(params, laid(texts, places, 1, 300))
        for x, (_, start), expected in zip(texts, places, alone):
            found = logp[0, start : start + len(x) - 1]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2), (1, 2, 2, 2)], ids=str)
def test_mesh_changes_nothing(shape):
    """Log-probabilities and all gradients of a model with every optional part."""
    config = small(
        n_kv_heads=4,
        qkv_bias=True,
        qk_norm=True,
        norm_plus_one=True,
        post_norms=True,
        scale_embedding=True,
        activation="gelu_tanh",
        windows=(5, 0),
        local_rope_theta=100.0,
        query_scalar=3.0,
        attn_softcap=4.0,
        final_softcap=6.0,
    )
    params = lively_params(config)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, config.vocab_size, 20).astype(np.int32) for _ in range(8)]
    rows = laid(texts, [(i, 0) for i in range(8)], 8, 20)
    logprobs = logprob_fn(Decoder(config), chunk=7)

    def run(params):
        def total(params):
            logp = jnp.where(rows.weight > 0, logprobs(params, rows), 0.0)
            return logp.sum(), logp

        grads, logp = jax.jit(jax.grad(total, has_aux=True))(params)
        return logp, grads

    expected = run(params)
    assert min(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1])) > 1e-3
    mesh = mesh_of(shape)
    with jax.set_mesh(mesh):
        found = run(jax.device_put(params, tree_shardings(params, mesh)))
    assert difference(found, expected) < 1e-4


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "gemma3 with images"])
def test_round_trip(variant, built):
    """Names, shapes and numbers of the source, bit for bit; random weights fill the same names."""
    path, _ = built(variant)
    config, params = load_model(path)
    source = load_file(f"{path}/model.safetensors")
    found = dict(export_tensors(params, config, "float32"))
    assert found.keys() == source.keys()
    for name, x in source.items():
        assert np.array_equal(found[name], x) and found[name].dtype == x.dtype, name
    assert_same_shapes(abstract_params(config), params)
    start = init_params(config, jax.random.key(0))
    scale = start["layers"]["attn_norm"]["scale"]
    assert np.array_equal(scale, np.full_like(scale, 0.0 if config.norm_plus_one else 1.0))


def assert_same_shapes(a, b):
    assert jax.tree.map(lambda x: x.shape, a) == jax.tree.map(lambda x: x.shape, b)


def test_text_model_of_a_multimodal_one(built, stories, tmp_path):
    """The image tower is left out; what is written is a text model with the same logits."""
    transformers = pytest.importorskip("transformers")
    path, model = built("gemma3 with images")
    config, params = load_model(path)
    target = tmp_path / "out"
    raw = read_hf_config(path)
    save_hf(target, params, config, raw, load_tokenizer(stories), "x", dtype="float32")
    alone, info = transformers.AutoModelForCausalLM.from_pretrained(
        target, output_loading_info=True, attn_implementation="eager"
    )
    assert type(alone).__name__ == "Gemma3ForCausalLM" and not any(info.values())
    tokens = np.random.default_rng(0).integers(0, 93, (1, LENGTH))
    np.testing.assert_allclose(
        reference_logits(alone, tokens), reference_logits(model, tokens), rtol=0, atol=1e-5
    )
    again, reread = load_model(str(target))
    assert again == replace(config, family="gemma3_text")
    assert difference(reread, params) == 0


@pytest.mark.parametrize("variant", ["qwen2", "gemma3 with images"])
def test_bfloat16_in_several_files(variant, built, tmp_path):
    torch = pytest.importorskip("torch")
    _, model = built(variant)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert stored_dtype(str(tmp_path)) == "bfloat16"
    config, params = load_model(str(tmp_path))
    stored = {}
    for file in tmp_path.glob("*.safetensors"):
        stored |= {text_name(name): x for name, x in load_file(file).items()}
    for name, x in export_tensors(params, config, "bfloat16"):
        assert x.dtype == stored[name].dtype and np.array_equal(x, stored[name]), name
