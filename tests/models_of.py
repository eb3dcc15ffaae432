"""Models for tests."""

import json

import jax
from safetensors.numpy import save_file

from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import abstract_params
from lfjax.models.hf import export_tensors, load_params


def load_model(path: str):
    """(config, params) of a Hugging Face directory, on one device."""
    config = ModelConfig.from_hf(read_hf_config(path), path)
    abstract = abstract_params(config)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return config, load_params(path, config, abstract, jax.tree.map(lambda _: one, abstract))


def save_model(folder, config: ModelConfig, params) -> None:
    """Write a Llama directory (weights and config.json, no tokenizer)."""
    folder.mkdir(parents=True)
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = dict(export_tensors(params, config, "float32"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
