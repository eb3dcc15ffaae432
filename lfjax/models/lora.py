"""LoRA: low-rank adapters on chosen projections, in a collection of their own, stacked over layers.

L layers, i inputs, o outputs, r rank. y = x·W + (α / r) · dropout(x)·A·B, with A `[L, i, r]` drawn
and B `[L, r, o]` zero, so that training starts at the base exactly (Hu et al. 2021, arXiv
2106.09685, equation 3). Files are those of the `peft` library.
"""

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lfjax import processes
from lfjax.errors import UserError
from lfjax.models.config import ModelConfig
from lfjax.models.quantize import ByLayer, floats, is_quantised
from lfjax.sharding import on_host, path_str

PROJECTIONS = tuple(f"attn/{n}" for n in "qkvo") + tuple(f"mlp/{n}" for n in ("gate", "up", "down"))


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of every projection whose path (`attn/q`, `mlp/down`, …) the pattern matches.

    Attributes:
      rank: r.
      alpha: the adapter is scaled by alpha / rank.
      dropout: share of an adapter's inputs set to 0 in training.
      pattern: regular expression, searched in the path.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    pattern: str = "mlp/"

    def __post_init__(self):
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise UserError(
                f"lora: rank={self.rank} and dropout={self.dropout}; expected a positive rank and "
                "a dropout in [0, 1)."
            )
        if not self.targets:
            raise UserError(
                f"lora: pattern '{self.pattern}' matches no projection. "
                f"There are: {', '.join(PROJECTIONS)}."
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The projections that get an adapter."""
        return tuple(p for p in PROJECTIONS if re.search(self.pattern, p))

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def merge(params: Any, lora: Any, config: LoraConfig) -> Any:
    """The base with its adapters added in: W + (α / r)·A·B, in float32 and back to W's dtype. A
    quantised base becomes float32."""

    def one(path, kernel):
        return merged_kernel(kernel, _adapter_of(lora, path), config)

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantised)


def merge_by_layer(params: Any, lora: Any, config: LoraConfig) -> Any:
    """The same of a quantised base, each kernel `ByLayer`: what is written needs no more room than
    a layer at a time."""

    def one(path, kernel):
        if not is_quantised(kernel):
            return kernel
        make = partial(merged_kernel, config=config)
        return ByLayer(make, kernel, _adapter_of(lora, path))

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=is_quantised)


def merged_kernel(
    kernel: Any, adapter: Any, config: LoraConfig
) -> Float[Array | np.ndarray, "..."]:
    """One parameter with its adapter, if that is not empty."""
    dtype = jnp.float32 if is_quantised(kernel) else kernel.dtype
    if not adapter:
        return floats(kernel) if is_quantised(kernel) else kernel
    delta = jnp.einsum("lir,lro->lio", adapter["a"], adapter["b"], precision="highest")
    return (floats(kernel) + config.scale * delta).astype(dtype)


def _adapter_of(lora: Any, path) -> dict[str, Array]:
    """The adapter of the parameter at a key path; empty where it has none."""
    for key in path[:-1]:
        lora = lora.get(key.key, {})
    return lora


# --- files of the peft library ----------------------------------------------------------------


def _peft_name(path: str, layer: int, part: str) -> str:
    room, projection = path.split("/")
    room = {"attn": "self_attn", "mlp": "mlp"}[room]
    where = f"base_model.model.model.layers.{layer}.{room}.{projection}_proj"
    return f"{where}.lora_{part.upper()}.weight"


def save_peft(folder: str | Path, lora: Any, config: LoraConfig, base: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, which `peft` loads on `base`.
    Process 0 writes; all call this, for their shards."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    tensors = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(lora):
        _, room, projection, part = path_str(key_path).split("/")
        stacked = on_host(leaf).astype(np.float32)
        for layer, x in enumerate(stacked):
            name = _peft_name(f"{room}/{projection}", layer, part)
            tensors[name] = np.ascontiguousarray(x.T)
    if processes.index():
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [f"{p.split('/')[1]}_proj" for p in config.targets],
    }
    (folder / "adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")


def load_peft(folder: str | Path, model: ModelConfig) -> tuple[Any, LoraConfig]:
    """Adapters and their configuration from files of the `peft` library, as numpy arrays.

    Raises: UserError for a missing file, a variant of LoRA that is not supported, or a tensor that
    is missing or surplus.
    """
    from safetensors.numpy import load_file

    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}; expected an adapter saved by peft.")
    raw = json.loads((folder / "adapter_config.json").read_text())
    config = _config_from_peft(raw, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    lora: dict[str, Any] = {"layers": {}}
    for target in config.targets:
        room, projection = target.split("/")
        parts = {}
        for part in "ab":
            names = [_peft_name(target, layer, part) for layer in range(model.n_layers)]
            missing = [n for n in names if n not in tensors]
            if missing:
                raise UserError(f"{folder}: has no tensor {missing[0]}; is it of this model?")
            parts[part] = np.stack([tensors.pop(n).T.astype(np.float32) for n in names])
        lora["layers"].setdefault(room, {})[projection] = parts
    if tensors:
        raise UserError(f"{folder}: has surplus tensors, such as {min(tensors)}.")
    return lora, config


def _config_from_peft(raw: dict[str, Any], folder: Path) -> LoraConfig:
    plain = {"use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "bias": "none"}
    for name, expected in plain.items():
        if raw.get(name, expected) != expected:
            raise UserError(f"{folder}: {name}={raw[name]!r} is not supported; only plain LoRA is.")
    for name in ("rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save"):
        if raw.get(name):
            raise UserError(f"{folder}: {name} is not supported; every layer has the same adapter.")
    modules = raw["target_modules"]
    known = {f"{p.split('/')[1]}_proj": p for p in PROJECTIONS}
    if isinstance(modules, str) or not set(modules) <= set(known):
        raise UserError(
            f"{folder}: target_modules={modules!r}; expected some of {', '.join(known)}."
        )
    pattern = "|".join(f"^{known[m]}$" for m in sorted(modules))
    dropout = float(raw.get("lora_dropout", 0.0))
    return LoraConfig(raw["r"], float(raw["lora_alpha"]), dropout, pattern)
