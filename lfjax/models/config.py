"""The shape of a model, read from and written as a Hugging Face `config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfjax.errors import UserError

FAMILIES = ("llama",)


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder needs to know; sizes in units of one float."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_mlp: int
    rope_theta: float
    norm_eps: float
    tied: bool
    max_positions: int
    family: str = "llama"

    @staticmethod
    def from_hf(raw: dict[str, Any], where: str) -> "ModelConfig":
        """From the content of a `config.json`.

        Raises: UserError for a family or a feature that the decoder does not have, or a field
        that is missing.
        """
        family = raw.get("model_type")
        if family not in FAMILIES:
            raise UserError(
                f"{where}: model_type is '{family}', which is not supported. "
                f"Known: {', '.join(FAMILIES)}."
            )
        unsupported = {
            "hidden_act": raw.get("hidden_act", "silu") not in ("silu", "swish"),
            "attention_bias": bool(raw.get("attention_bias")),
            "mlp_bias": bool(raw.get("mlp_bias")),
            "quantization_config": bool(raw.get("quantization_config")),
        }
        for name, found in unsupported.items():
            if found:
                raise UserError(f"{where}: {name}={raw[name]!r} is not supported for {family}.")
        try:
            heads = raw["num_attention_heads"]
            return ModelConfig(
                vocab_size=raw["vocab_size"],
                d_model=raw["hidden_size"],
                n_layers=raw["num_hidden_layers"],
                n_heads=heads,
                n_kv_heads=raw.get("num_key_value_heads") or heads,
                head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
                d_mlp=raw["intermediate_size"],
                rope_theta=_rope_theta(raw, where),
                norm_eps=raw["rms_norm_eps"],
                tied=bool(raw.get("tie_word_embeddings", False)),
                max_positions=raw["max_position_embeddings"],
                family=family,
            )
        except KeyError as error:
            raise UserError(
                f"{where}: field {error} is missing; expected a {family} config."
            ) from None


def _rope_theta(raw: dict[str, Any], where: str) -> float:
    # transformers 5 writes rope_parameters, older versions rope_theta and rope_scaling.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{where}: RoPE scaling '{kind}' is not supported.")
    return float(rope.get("rope_theta", raw.get("rope_theta", 10000.0)))


def read_hf_config(path: str) -> dict[str, Any]:
    """The content of a model directory's `config.json`. Raises: UserError if it cannot be read."""
    file = Path(path) / "config.json"
    if not Path(path).is_dir():
        raise UserError(
            f"{path}: no such model directory. Set model.path to a Hugging Face directory "
            "(config.json, *.safetensors, tokenizer.json)."
        )
    if not file.is_file():
        raise UserError(f"{path}: no config.json; expected a Hugging Face model directory.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error.msg} at line {error.lineno}).") from None
