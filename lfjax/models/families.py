"""What each family of models is: its block, what its `config.json` leaves out, its tensors' names.

Facts are those of the `transformers` classes of the same `model_type`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """What all models of one `model_type` share.

    Attributes:
      block: fields of `ModelConfig` that are always the same.
      activation_field, activations: where the activation is named, and the names of `block`'s.
      windows: which layers have a sliding window where `layer_types` does not say: none, all, late
        (from `max_window_layers` on) or alternating (all but every `sliding_window_pattern`-th).
      defaults: fields that a `config.json` may leave out. Soft caps and `query_pre_attn_scalar` are
        only read where they have one.
    """

    block: Mapping[str, Any] = field(default_factory=dict)
    activation_field: str = "hidden_act"
    activations: tuple[str, ...] = ("silu", "swish")
    windows: str = "none"
    defaults: Mapping[str, Any] = field(default_factory=dict)


COMMON = dict(rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=False)
QWEN = dict(use_sliding_window=False, sliding_window=4096, max_window_layers=28)

GEMMA_BLOCK = dict(activation="gelu_tanh", norm_plus_one=True, scale_embedding=True)
GEMMA = dict(head_dim=256, tie_word_embeddings=True)
GEMMA2 = GEMMA | dict(query_pre_attn_scalar=256, sliding_window=4096)
GEMMA3 = Family(
    block=GEMMA_BLOCK | dict(post_norms=True, qk_norm=True),
    activation_field="hidden_activation",
    activations=("gelu_pytorch_tanh",),
    windows="alternating",
    # Sizes too: the released multi-modal files hold differences from these only.
    defaults=GEMMA2
    | dict(vocab_size=262_208, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26)
    | dict(num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=131_072)
    | dict(rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=6)
    | dict(final_logit_softcapping=None),
)

FAMILIES = {
    "llama": Family(),
    "mistral": Family(windows="all", defaults=dict(num_key_value_heads=8, sliding_window=4096)),
    "qwen2": Family(block=dict(qkv_bias=True), windows="late", defaults=QWEN),
    "qwen3": Family(block=dict(qk_norm=True), windows="late", defaults=QWEN | dict(head_dim=128)),
    "gemma": Family(
        block=GEMMA_BLOCK,
        # In the first releases `gelu` stands for the approximation with tanh.
        activations=("gelu_pytorch_tanh", "gelu"),
        defaults=GEMMA,
    ),
    "gemma2": Family(
        block=GEMMA_BLOCK | dict(post_norms=True),
        activation_field="hidden_activation",
        activations=("gelu_pytorch_tanh",),
        windows="alternating",
        defaults=GEMMA2
        | dict(sliding_window_pattern=2)
        | dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    ),
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3,  # text and images, of which the text model is read
}

# --- names of tensors -------------------------------------------------------------------------

# our path -> (their name, transposed); {} is the number of the layer
_LAYER = "model.layers.{}."
TENSORS = {
    "embed/embedding": ("model.embed_tokens.weight", False),
    "head/embedding": ("lm_head.weight", False),
    "final_norm/scale": ("model.norm.weight", False),
    "layers/attn_norm/scale": (_LAYER + "input_layernorm.weight", False),
    "layers/mlp_norm/scale": (_LAYER + "post_attention_layernorm.weight", False),
    **{f"layers/attn/{p}/kernel": (f"{_LAYER}self_attn.{p}_proj.weight", True) for p in "qkvo"},
    **{f"layers/attn/{p}_bias": (f"{_LAYER}self_attn.{p}_proj.bias", False) for p in "qkv"},
    **{f"layers/attn/{p}_norm/scale": (f"{_LAYER}self_attn.{p}_norm.weight", False) for p in "qk"},
    **{
        f"layers/mlp/{p}/kernel": (f"{_LAYER}mlp.{p}_proj.weight", True)
        for p in ("gate", "up", "down")
    },
}
# `post_attention_layernorm` is the norm before the MLP in most families, and the one after
# attention where there are norms after.
WITH_POST_NORMS = TENSORS | {
    "layers/attn_post_norm/scale": (_LAYER + "post_attention_layernorm.weight", False),
    "layers/mlp_norm/scale": (_LAYER + "pre_feedforward_layernorm.weight", False),
    "layers/mlp_post_norm/scale": (_LAYER + "post_feedforward_layernorm.weight", False),
}

# The text model's names within a multi-modal model, as released and as transformers has them.
TEXT_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
IMAGE_PREFIXES = tuple(
    prefix + part
    for prefix in ("", "model.")
    for part in ("vision_tower.", "multi_modal_projector.")
)


def text_name(name: str) -> str:
    """The name that a tensor of a multi-modal model has in the text model alone."""
    for prefix, plain in TEXT_PREFIXES.items():
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name
