"""Hugging Face directories: weights stream from safetensors straight to their shards, and back.

A parameter of the scanned layers is one array `[layers, …]` here and one tensor a layer there;
kernels are transposed.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, without which safetensors' slices fail)
import numpy as np

from lfjax.errors import UserError
from lfjax.models.config import ModelConfig
from lfjax.sharding import path_str

# our path -> (their name, transposed); {} is the number of the layer
TENSORS = {
    "embed/embedding": ("model.embed_tokens.weight", False),
    "head/embedding": ("lm_head.weight", False),
    "final_norm/scale": ("model.norm.weight", False),
    "layers/attn_norm/scale": ("model.layers.{}.input_layernorm.weight", False),
    "layers/mlp_norm/scale": ("model.layers.{}.post_attention_layernorm.weight", False),
    **{
        f"layers/attn/{p}/kernel": (f"model.layers.{{}}.self_attn.{p}_proj.weight", True)
        for p in "qkvo"
    },
    **{
        f"layers/mlp/{p}/kernel": (f"model.layers.{{}}.mlp.{p}_proj.weight", True)
        for p in ("gate", "up", "down")
    },
}
SHARD_BYTES = 5 * 2**30


def _names(path: str, layers: int) -> list[str]:
    name = TENSORS[path][0]
    return [name.format(i) for i in range(layers)] if "{}" in name else [name]


class Weights:
    """The tensors of a model directory, one file or several with an index. Opened lazily, read by
    slices.

    Raises: UserError if there is no safetensors file, one cannot be read, or one that the index
    names is absent.
    """

    def __init__(self, path: str):
        from safetensors import SafetensorError, safe_open

        folder = Path(path)
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (json.JSONDecodeError, KeyError) as error:
                raise UserError(f"{index}: not an index of weights ({error}).") from None
        else:
            files = ["model.safetensors"]
        self.files, self.where = [], {}
        for file in files:
            if not (folder / file).is_file():
                raise UserError(
                    f"{path}: no {file}. Weights are read from safetensors files only; convert "
                    ".bin checkpoints with "
                    "transformers' save_pretrained(…). (model.weights=random starts from random "
                    "ones.)"
                )
            try:
                self.files.append(safe_open(folder / file, framework="numpy"))
            except SafetensorError as error:
                raise UserError(f"{folder / file}: not a safetensors file ({error}).") from None
            self.where.update(dict.fromkeys(self.files[-1].keys(), self.files[-1]))

    def slice(self, name: str):
        return self.where[name].get_slice(name)


def stored_dtype(path: str) -> str:
    """numpy name of the type in which a directory's weights are stored; float32 where it has
    none."""
    if not any(Path(path).glob("*.safetensors")):
        return "float32"
    kind = Weights(path).slice(TENSORS["embed/embedding"][0]).get_dtype()
    return {"BF16": "bfloat16", "F16": "float16"}.get(kind, "float32")


def load_params(path: str, config: ModelConfig, abstract, shardings):
    """Parameters of a model directory, each shard read from disk by the process that holds it;
    float32.

    Raises: UserError naming a weight that is missing, surplus, or of another shape than the config
    says.
    """
    weights = Weights(path)
    flat = jax.tree_util.tree_leaves_with_path(abstract)
    wanted = {name: leaf for p, leaf in flat for name in _names(path_str(p), config.n_layers)}
    _check_names(path, set(wanted), set(weights.where), config.tied)

    def one(key_path, leaf, sharding):
        name = path_str(key_path)
        transposed = TENSORS[name][1]
        stacked = name.startswith("layers/")
        names = _names(name, config.n_layers)
        shape = leaf.shape[1:] if stacked else leaf.shape
        for n in names:
            found = tuple(weights.slice(n).get_shape())
            if found != (shape[::-1] if transposed else shape):
                raise UserError(
                    f"{path}: weight '{n}' is {found}, but config.json says "
                    f"{shape[::-1] if transposed else shape}."
                )

        def read(index):
            layers, index = (names[index[0]], index[1:]) if stacked else (names, index)
            parts = [weights.slice(n)[index[::-1] if transposed else index] for n in layers]
            parts = [np.asarray(p.T if transposed else p, np.float32) for p in parts]
            return np.stack(parts) if stacked else parts[0]

        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return jax.tree_util.tree_map_with_path(one, abstract, shardings)


def _check_names(path, wanted, found, tied):
    ignored = {n for n in found if n.endswith("rotary_emb.inv_freq")}
    if tied:
        ignored.add("lm_head.weight")  # a copy of the embedding, in some files
    for what, names in (
        ("has no weight", wanted - found),
        ("has surplus weights", found - wanted - ignored),
    ):
        if names:
            some = ", ".join(sorted(names)[:5]) + (
                f" and {len(names) - 5} more" if len(names) > 5 else ""
            )
            raise UserError(f"{path}: {what} {some}. Does its config.json describe this model?")


def export_tensors(params, config: ModelConfig, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, host array) one by one, so that the whole model never lies in host memory
    twice."""
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_str(key_path)
        names = _names(name, config.n_layers)
        for i, n in enumerate(names):
            x = np.asarray(jax.device_get(leaf[i] if name.startswith("layers/") else leaf))
            yield n, np.ascontiguousarray(x.T if TENSORS[name][1] else x).astype(dtype)


def save_hf(
    path: str | Path,
    params,
    config: ModelConfig,
    raw: dict[str, Any],
    tokenizer,
    template: str,
    *,
    dtype: str,
) -> None:
    """Write a directory that transformers loads: config, safetensors with an index, tokenizer and
    chat template.

    It appears under its name only when complete; one of that name is replaced.
    """
    target = Path(path)
    folder = target.with_name(f".{target.name}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_tensors(folder, export_tensors(params, config, dtype))
    raw = {k: v for k, v in raw.items() if k != "torch_dtype"} | {"dtype": dtype}
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    # Programs that render a chat template add no BOS of their own.
    adds_bos = tokenizer.bos is not None and "bos_token" not in template
    tokenizer.hf.chat_template = ("{{ bos_token }}" if adds_bos else "") + template
    tokenizer.hf.save_pretrained(folder)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)


def _write_tensors(folder: Path, tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    from safetensors.numpy import save_file

    weight_map, batch, size, total, files = {}, {}, 0, 0, []

    def flush():
        nonlocal batch, size
        files.append(f"part-{len(files):05d}")
        save_file(batch, folder / files[-1], metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(batch, files[-1]))
        batch, size = {}, 0

    for name, x in tensors:
        if batch and size + x.nbytes > SHARD_BYTES:
            flush()
        batch[name] = x
        size, total = size + x.nbytes, total + x.nbytes
    flush()
    final = {f: f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i, f in enumerate(files)}
    if len(files) == 1:
        final[files[0]] = "model.safetensors"
    for part, name in final.items():
        (folder / part).rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {n: final[f] for n, f in sorted(weight_map.items())},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
