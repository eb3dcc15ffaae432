"""An exported directory, as servers read it: the class that its config names takes every tensor,
and no other is there. vLLM's loader reads the same names and takes classes by the same name."""

import json
import re

import pytest
from safetensors import safe_open

from lfjax.data.tokenize import load_tokenizer
from lfjax.models.config import read_hf_config
from lfjax.models.hf import save_hf
from tests.models.test_families import VARIANTS, built  # noqa: F401 (a fixture)
from tests.models_of import load_model

# The classes of vLLM's registry of text models for our families
# (vllm/model_executor/models/registry.py).
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3")
SERVED = {f"{name}ForCausalLM" for name in FAMILIES}
# What its loaders ask a name for: they join q, k, v, and gate, up, by these.
NAMES = re.compile(
    r"lm_head\.weight|model\.(embed_tokens|norm)\.weight|model\.layers\.\d+\.("
    r"(input|post_attention|pre_feedforward|post_feedforward)_layernorm\.weight"
    r"|self_attn\.([qkvo]_proj\.(weight|bias)|[qk]_norm\.weight)"
    r"|mlp\.(gate|up|down)_proj\.weight)"
)


def tensors(folder):
    """Shapes of all tensors, by name and file."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as f:
            for name in f.keys():  # noqa: SIM118
                found[name] = file.name, f.get_slice(name).get_shape()
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_loads_strictly(variant, built, stories, tmp_path):  # noqa: F811
    transformers = pytest.importorskip("transformers")
    source = built(variant)[0]
    config, params = load_model(source)
    folder = tmp_path / "hf"
    raw, tokenizer = read_hf_config(source), load_tokenizer(stories)
    save_hf(folder, params, config, raw, tokenizer, "x", dtype="bfloat16")
    told = transformers.AutoConfig.from_pretrained(folder)
    assert len(told.architectures) == 1 and set(told.architectures) <= SERVED
    assert str(told.dtype) == "torch.bfloat16"
    model_class = getattr(transformers, told.architectures[0])
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    found = tensors(folder)
    assert all(NAMES.fullmatch(name) for name in found)
    expected = {name: list(x.shape) for name, x in model.state_dict().items()}
    assert {name: shape for name, (_, shape) in found.items()} == {
        name: shape
        for name, shape in expected.items()
        if not (name == "lm_head.weight" and config.tied)
    }
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for name, (file, _) in found.items()}
    served = transformers.AutoTokenizer.from_pretrained(folder)
    assert served.apply_chat_template([dict(role="user", content="a")], tokenize=False) == "x"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == served.eos_token_id
