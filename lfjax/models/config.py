"""The shape of a model, read from and written as a Hugging Face `config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfjax.errors import UserError
from lfjax.models.families import COMMON, FAMILIES, Family

OPTIONS = {"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"}
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched to reach beyond the positions of pretraining.

    Attributes:
      kind: `linear` (all are divided by `factor`) or `llama3` (those are that turn fewer than `low`
        times in `original` positions, and none that turn more than `high` times).
    """

    kind: str
    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder needs to know; sizes in units of one float.

    Attributes:
      norm_plus_one: norms multiply by 1 + scale, in float32.
      post_norms: what attention and MLP return is normalised too.
      qk_norm: every head of queries and keys is normalised before it is rotated.
      scale_embedding: embeddings are multiplied by √d.
      windows: keys that a query sees, itself included, one number a layer and 0 for all of them;
        empty where no layer has a window.
      rope_scaling: of layers without a window, if `local_rope_theta` is given, else of all.
      local_rope_theta: θ of the layers with a window, if it is another.
      query_scalar: logits of attention are q·k / √query_scalar; None is the head size.
      attn_softcap, final_softcap: logits x become c·tanh(x / c).
    """

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
    activation: str = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_plus_one: bool = False
    post_norms: bool = False
    scale_embedding: bool = False
    windows: tuple[int, ...] = ()
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    query_scalar: float | None = None
    attn_softcap: float | None = None
    final_softcap: float | None = None

    @staticmethod
    def from_hf(raw: dict[str, Any], where: str) -> "ModelConfig":
        """From the content of a `config.json`.

        Raises: UserError for a family or a feature that the decoder does not have, or a field
        that is missing.
        """
        name = raw.get("model_type")
        if name not in FAMILIES:
            raise UserError(
                f"{where}: model_type is '{name}', which is not supported. "
                f"Known: {', '.join(FAMILIES)}."
            )
        family = FAMILIES[name]
        if name == "gemma3":
            raw = text_config(raw)
        fields = {**COMMON, **family.defaults, **raw}
        # An integer in the file, a float here; null is no soft cap.
        own = {k: float(fields[k]) for k in OPTIONS & family.defaults.keys() if fields[k]}
        _check_supported(fields, name, family, where)
        try:
            heads = fields["num_attention_heads"]
            return ModelConfig(
                vocab_size=fields["vocab_size"],
                d_model=fields["hidden_size"],
                n_layers=fields["num_hidden_layers"],
                n_heads=heads,
                n_kv_heads=fields.get("num_key_value_heads") or heads,
                head_dim=fields.get("head_dim") or fields["hidden_size"] // heads,
                d_mlp=fields["intermediate_size"],
                norm_eps=float(fields["rms_norm_eps"]),
                tied=bool(fields["tie_word_embeddings"]),
                max_positions=fields["max_position_embeddings"],
                family=name,
                windows=_windows(fields, family, where),
                query_scalar=own.get("query_pre_attn_scalar"),
                attn_softcap=own.get("attn_logit_softcapping"),
                final_softcap=own.get("final_logit_softcapping"),
                **family.block,
                **_rope(fields, name, where),
            )
        except KeyError as error:
            raise UserError(
                f"{where}: field {error} is missing; expected a {name} config."
            ) from None


def text_config(raw: dict[str, Any]) -> dict[str, Any]:
    """The config of the text model alone of a multi-modal Gemma 3."""
    shared = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
    return {
        **(raw.get("text_config") or {}),
        **{key: raw[key] for key in (*shared, "quantization_config") if key in raw},
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
    }


def _check_supported(fields, name, family: Family, where):
    activation = fields.get(family.activation_field, family.activations[0])
    unsupported = {
        family.activation_field: activation not in family.activations,
        # transformers keeps this field of Gemma 3 and does not use it.
        "attn_logit_softcapping": "gemma3" in name and fields.get("attn_logit_softcapping"),
        "partial_rotary_factor": fields.get("partial_rotary_factor") not in (None, 1.0),
        **{
            field: bool(fields.get(field))
            for field in (
                "attention_bias",
                "mlp_bias",
                "quantization_config",
                "use_bidirectional_attention",
            )
        },
    }
    for field, found in unsupported.items():
        if found:
            raise UserError(f"{where}: {field}={fields[field]!r} is not supported for {name}.")


def _windows(fields, family: Family, where) -> tuple[int, ...]:
    if family.windows == "none":
        return ()
    window, layers = fields["sliding_window"], fields["num_hidden_layers"]
    if family.windows == "late" and not fields["use_sliding_window"]:
        window = None
    slides = {
        "all": lambda i: window is not None,
        "late": lambda i: window is not None and i >= fields["max_window_layers"],
        "alternating": lambda i: (i + 1) % fields["sliding_window_pattern"] != 0,
    }[family.windows]
    kinds = [SLIDING if slides(i) else FULL for i in range(layers)]
    given = fields.get("layer_types")
    if given is not None:
        if len(given) != layers or not set(given) <= {FULL, SLIDING}:
            raise UserError(
                f"{where}: layer_types={given!r}; expected {FULL} or {SLIDING} for each of "
                f"{layers} layers."
            )
        # transformers ignores the field of Mistral: what such a file means is uncertain.
        if family.windows == "all" and list(given) != kinds:
            raise UserError(f"{where}: layer_types={given!r} is not supported for this family.")
        kinds = given
    if SLIDING not in kinds:
        return ()
    if window is None:
        raise UserError(f"{where}: sliding_window is null, but there are layers with a window.")
    return tuple(window if kind == SLIDING else 0 for kind in kinds)


def _rope(fields, name, where) -> dict[str, Any]:
    """θ and scaling: of transformers 5 in rope_parameters, of older versions in rope_theta and
    rope_scaling."""
    rope, stretched = fields.get("rope_parameters") or {}, fields.get("rope_scaling") or {}
    if "gemma3" not in name:
        rope = stretched or rope
        if any(isinstance(value, dict) for value in rope.values()):
            raise UserError(f"{where}: rope_parameters by layer type are not supported for {name}.")
        return {
            "rope_theta": float(rope.get("rope_theta", fields["rope_theta"])),
            "rope_scaling": _scaling(rope, fields, where),
        }
    if not set(rope) <= {FULL, SLIDING}:
        raise UserError(f"{where}: rope_parameters={rope!r}; expected those of {FULL}, {SLIDING}.")
    full, local = (rope.get(FULL) or {}) | stretched, rope.get(SLIDING) or {}
    if _scaling(local, fields, where) is not None:
        raise UserError(f"{where}: RoPE scaling of {SLIDING} is not supported.")
    return {
        "rope_theta": float(full.get("rope_theta", fields["rope_theta"])),
        "rope_scaling": _scaling(full, fields, where),
        "local_rope_theta": float(local.get("rope_theta", fields["rope_local_base_freq"])),
    }


def _scaling(rope, fields, where) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{where}: partial_rotary_factor is not supported.")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind, float(rope["factor"]))
    if kind == "llama3":
        return RopeScaling(
            kind,
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            rope.get("original_max_position_embeddings", fields["max_position_embeddings"]),
        )
    raise UserError(
        f"{where}: RoPE scaling '{kind}' is not supported. Known: default, linear, llama3."
    )


def read_hf_config(path: str) -> dict[str, Any]:
    """The content of a model directory's `config.json`. Raises: UserError if it cannot be read."""
    file = Path(path) / "config.json"
    if not Path(path).is_dir():
        raise UserError(
            f"{path}: no such model directory. Set model.path to a Hugging Face directory "
            "(config.json, *.safetensors, tokenizer.json) or a model of the hub (org/name)."
        )
    if not file.is_file():
        raise UserError(f"{path}: no config.json; expected a Hugging Face model directory.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error.msg} at line {error.lineno}).") from None
