"""Hugging Face directories: weights stream from safetensors straight to their shards, and back.

A parameter of the scanned layers is one array `[layers, …]` here and one tensor a layer there;
kernels are transposed.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, without which safetensors' slices fail)
import numpy as np
from jax.sharding import Mesh

from lfjax import processes
from lfjax.errors import UserError
from lfjax.models.config import ModelConfig, text_config
from lfjax.models.decoder import abstract_params, dtype_of
from lfjax.models.families import IMAGE_PREFIXES, TENSORS, WITH_POST_NORMS, text_name
from lfjax.sharding import on_host, path_str, tree_shardings

SHARD_BYTES = 5 * 2**30
# Repositories also hold weights in other layouts, which may be as large again.
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
)


def resolve_model(name: str) -> str:
    """The directory of a model: `name` itself where it is one, else a download of the Hugging Face
    hub's `org/name`, kept in its cache.

    Raises: UserError where `name` looks like a model of the hub and could not be downloaded. What
    is neither is returned as it is.
    """
    if Path(name).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return name
    from huggingface_hub import errors, snapshot_download

    try:
        return snapshot_download(name, allow_patterns=list(HUB_FILES))
    except errors.GatedRepoError:
        why = "it is gated; ask for access on its page, then set HF_TOKEN"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = f"the hub answered {status}; is the name right, and HF_TOKEN set if it is private?"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HFValidationError):
        why = "it cannot be reached, or has no such model"
    except Exception as error:  # a full disk, or whatever the network's libraries raise
        why = f"{type(error).__name__}: {error}"
    raise UserError(
        f"{name}: no such directory, and not downloaded from the hub: {why}. Download it where "
        f"there is a network, with `hf download {name} --local-dir DIR`, and give that directory."
    )


def _tensors_of(path: str, config: ModelConfig) -> tuple[list[str], bool]:
    """Their names of one of our parameters, in the order of layers, and whether each is
    transposed."""
    name, transposed = (WITH_POST_NORMS if config.post_norms else TENSORS)[path]
    names = [name.format(i) for i in range(config.n_layers)] if "{}" in name else [name]
    return names, transposed


class Weights:
    """The tensors of a model directory, one file or several with an index. Opened lazily, read by
    slices. Those of the text model in a multi-modal one have the names that it has alone.

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
            stored = self.files[-1].keys()
            self.where.update({text_name(n): (self.files[-1], n) for n in stored})

    def slice(self, name: str):
        file, stored = self.where[name]
        return file.get_slice(stored)


def stored_dtype(path: str) -> str:
    """numpy name of the type in which a directory's weights are stored; float32 where it has
    none."""
    if not any(Path(path).glob("*.safetensors")):
        return "float32"
    kind = Weights(path).slice(TENSORS["embed/embedding"][0]).get_dtype()
    return {"BF16": "bfloat16", "F16": "float16"}.get(kind, "float32")


def frozen_shapes(config: ModelConfig, dtype: str):
    """Parameters of a model that is not trained, as ShapeDtypeStructs: matrices in the dtype,
    vectors in float32.

    Raises: UserError for an unknown dtype.
    """
    matrix = dtype_of(dtype)
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, matrix if s.ndim > 1 else s.dtype),
        abstract_params(config),
    )


def load_frozen(path: str, config: ModelConfig, mesh: Mesh, dtype: str):
    """The arrays of `frozen_shapes`, on the mesh's shards.

    Raises: UserError as `frozen_shapes` and `load_params`.
    """
    abstract = frozen_shapes(config, dtype)
    return load_params(path, config, abstract, tree_shardings(abstract, mesh))


def load_params(path: str, config: ModelConfig, abstract, shardings, made=None):
    """Parameters of a model directory, each shard read from disk by the process that holds it;
    float32.

    Args:
      made: (name, parameter) -> what is kept of it, called as each is read.

    Raises: UserError naming a weight that is missing, surplus, or of another shape than the config
    says.
    """
    weights = Weights(path)
    flat = jax.tree_util.tree_leaves_with_path(abstract)
    wanted = {name for p, _ in flat for name in _tensors_of(path_str(p), config)[0]}
    _check_names(path, wanted, set(weights.where), config)

    def one(key_path, leaf, sharding):
        name = path_str(key_path)
        stacked = name.startswith("layers/")
        names, transposed = _tensors_of(name, config)
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
            parts = [np.asarray(p.T if transposed else p, leaf.dtype) for p in parts]
            return np.stack(parts) if stacked else parts[0]

        x = jax.make_array_from_callback(leaf.shape, sharding, read)
        return x if made is None else made(name, x)

    return jax.tree_util.tree_map_with_path(one, abstract, shardings)


def _check_names(path, wanted, found, config):
    ignored = {n for n in found if n.endswith("rotary_emb.inv_freq")}
    if config.family == "gemma3":
        ignored |= {n for n in found if n.startswith(IMAGE_PREFIXES)}
    if config.tied:
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
        names, transposed = _tensors_of(name, config)
        for i, n in enumerate(names):
            x = on_host(leaf[i] if name.startswith("layers/") else leaf)
            yield n, np.ascontiguousarray(x.T if transposed else x).astype(dtype)


def save_hf(
    path: str | Path,
    params,
    config: ModelConfig,
    raw: dict[str, Any],
    tokenizer,
    template: str,
    *,
    dtype: str,
    beside: dict[str, bytes] | None = None,
) -> None:
    """Write a directory that transformers loads: config, safetensors with an index, tokenizer and
    chat template; and the files `beside`, by name.

    It appears under its name only when complete; one of that name is replaced. Of a multi-modal
    model the text model is written. Process 0 writes; all call this, for their shards.
    """
    if processes.index():
        for _ in export_tensors(params, config, dtype):
            pass
        return
    target = Path(path)
    folder = target.with_name(f".{target.name}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_tensors(folder, export_tensors(params, config, dtype))
    if config.family == "gemma3":
        raw = text_config(raw)
    raw = {k: v for k, v in raw.items() if k != "torch_dtype"} | {"dtype": dtype}
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    stops = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    (folder / "generation_config.json").write_text(json.dumps(stops, indent=2) + "\n")
    tokenizer.hf.chat_template = template
    tokenizer.hf.save_pretrained(folder)
    for name, content in (beside or {}).items():
        (folder / name).write_bytes(content)
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
