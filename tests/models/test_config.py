"""What is read from a `config.json` of any family and age; models by name."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lfjax.errors import UserError
from lfjax.models.config import ModelConfig, RopeScaling
from lfjax.models.hf import resolve_model

SIZES = dict(vocab_size=10, hidden_size=24, num_hidden_layers=7, intermediate_size=8)
RAW = SIZES | dict(num_attention_heads=6, max_position_embeddings=9)


def read(family, **changed):
    return ModelConfig.from_hf({"model_type": family, **RAW, **changed}, "here")


@pytest.mark.parametrize(
    "family, changed, message",
    [
        ("llama", dict(rope_scaling={"rope_type": "llama3"}), "field 'factor' is missing"),
        ("llama", dict(rope_parameters={"rope_type": "yarn"}), "'yarn' .* Known: default, linear"),
        ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5 is not supported"),
        ("llama", dict(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor is"),
        ("llama", dict(rope_parameters={"full_attention": {}}), "by layer type .* for llama"),
        ("qwen3", dict(attention_bias=True), "attention_bias=True is not supported for qwen3"),
        ("gemma2", dict(hidden_activation="gelu"), "hidden_activation='gelu' is not supported"),
        ("gemma2", dict(layer_types=["full_attention"]), "layer_types=.* each of 7 layers"),
        ("gemma2", dict(layer_types=["chunked"] * 7), "expected full_attention or sliding_att"),
        ("mistral", dict(layer_types=["full_attention"] * 7), "layer_types=.* not supported"),
        ("qwen2", dict(layer_types=["sliding_attention"] * 7), "sliding_window is null, but"),
        ("gemma3_text", dict(use_bidirectional_attention=True), "use_bidirectional_attention=T"),
        ("gemma3_text", dict(attn_logit_softcapping=50.0), "attn_logit_softcapping=50.0 is not"),
        ("gemma3_text", dict(rope_parameters={"rope_theta": 5}), "expected those of full_attent"),
        (
            "gemma3_text",
            dict(rope_parameters={"sliding_attention": {"rope_type": "linear", "factor": 2}}),
            "RoPE scaling of sliding_attention",
        ),
        ("gemma3", dict(quantization_config={"bits": 4}), "quantization_config=.* for gemma3"),
    ],
)
def test_not_supported(family, changed, message):
    with pytest.raises(UserError, match=f"here: .*{message}"):
        read(family, **changed)


def test_windows_of_layers():
    """Which layers have one where `layer_types` does not say."""

    def windows(family, **changed):
        return read(family, **changed).windows

    assert windows("llama", sliding_window=3) == ()
    assert windows("mistral") == (4096,) * 7
    assert windows("mistral", sliding_window=None) == ()
    assert windows("qwen2", sliding_window=3, max_window_layers=5) == ()
    late = dict(use_sliding_window=True, sliding_window=3)
    assert windows("qwen3", max_window_layers=5, **late) == (0, 0, 0, 0, 0, 3, 3)
    assert windows("qwen2", **late) == ()  # from layer 28 on
    assert windows("gemma", sliding_window=3) == ()
    assert windows("gemma2") == (4096, 0) * 3 + (4096,)
    assert windows("gemma3_text", sliding_window=3) == (3, 3, 3, 3, 3, 0, 3)
    assert windows("gemma3_text", sliding_window=3, sliding_window_pattern=2) == (3, 0) * 3 + (3,)
    kinds = ["full_attention"] * 6 + ["sliding_attention"]
    assert windows("gemma2", layer_types=kinds) == (0,) * 6 + (4096,)


def test_options_of_other_families_are_ignored():
    """As transformers ignores them: a Llama has no soft caps, whatever its file says."""
    odd = dict(query_pre_attn_scalar=3, final_logit_softcapping=30.0, attn_logit_softcapping=5.0)
    assert read("llama", **odd) == read("llama")
    assert read("gemma", **odd) == read("gemma")
    assert read("gemma2", **odd).query_scalar == 3.0
    assert read("gemma2", final_logit_softcapping=None).final_softcap is None
    assert read("gemma2").final_softcap == 30.0


def test_rope_of_any_age():
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    llama3 |= dict(original_max_position_embeddings=8192)
    expected = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    old = read("llama", rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **llama3))
    new = read("llama", rope_parameters=dict(rope_type="llama3", rope_theta=5e5, **llama3))
    assert old == new and (old.rope_theta, old.rope_scaling) == (5e5, expected)
    linear = read("llama", rope_scaling=dict(type="linear", factor=2))
    assert linear.rope_scaling == RopeScaling("linear", 2.0) and linear.rope_theta == 1e4


def test_released_gemma3():
    """The fields of google/gemma-3-4b-it as released, and as transformers 5 would write them."""
    text = dict(hidden_size=2560, intermediate_size=10240, num_hidden_layers=34)
    text |= dict(model_type="gemma3_text", sliding_window=1024)
    old = text | dict(rope_scaling=dict(factor=8.0, rope_type="linear"))
    raw = dict(model_type="gemma3", text_config=old, vision_config={}, eos_token_id=[1, 106])
    config = ModelConfig.from_hf(raw, "here")
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (8, 4, 256)
    assert (config.vocab_size, config.tied, config.max_positions) == (262_208, True, 131_072)
    assert config.windows == ((1024,) * 5 + (0,)) * 5 + (1024,) * 4
    assert (config.rope_theta, config.local_rope_theta, config.query_scalar) == (1e6, 1e4, 256)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    rope = dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=1e4),
    )
    new = raw | dict(text_config=text | dict(rope_parameters=rope))
    assert ModelConfig.from_hf(new, "here") == config


# --- models by name ---------------------------------------------------------------------------


def test_resolve_model(tmp_path):
    """A directory is itself; a model of the hub that cannot be had is an error that says how to."""
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    for odd in ("absent", "/absent/model", "./absent", "a/b/c"):
        assert resolve_model(odd) == odd
    code = (
        "from lfjax.models.hf import resolve_model\n"
        "try: resolve_model('nobody/no-such-model')\n"
        "except ValueError as error: print(error)"
    )
    secret = "hf_do_not_print"
    env = os.environ | dict(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), HF_TOKEN=secret)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert re.search(
        r"nobody/no-such-model: no such directory, and not downloaded from the hub: it cannot be .*"
        r"`hf download nobody/no-such-model --local-dir DIR`",
        done.stdout,
    )
    assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "gated, said", [(True, "it is gated; .*HF_TOKEN"), (False, "answered 401")]
)
def test_refused_by_the_hub(gated, said, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    def refuse(name, **how):
        response = SimpleNamespace(status_code=401, headers={}, request=None)
        raise (GatedRepoError if gated else HfHubHTTPError)("no", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=rf"org/name: no such directory, .* the hub: .*{said}"):
        resolve_model("org/name")


def test_downloaded_from_the_hub(monkeypatch):
    """Weights in other layouts, which repositories also hold, are not asked for."""
    import fnmatch

    import huggingface_hub

    def download(name, allow_patterns):
        wanted = [f for f in there if any(fnmatch.fnmatch(f, p) for p in allow_patterns)]
        assert wanted == there[:7]
        return f"/cache/{name}"

    there = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"]
    there += ["model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
    there += ["chat_template.jinja", "consolidated.safetensors", "original/consolidated.00.pth"]
    there += ["pytorch_model.bin", "README.md"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("org/name-7B_v0.1") == "/cache/org/name-7B_v0.1"
