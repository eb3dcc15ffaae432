"""What a stage leaves behind: fingerprints, hashes, provenance, and `done.json`."""

import hashlib
import json
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath

from lfjax.data.tfds_adapter import is_tfds
from lfjax.errors import UserError
from lfjax.models.hf import resolve_model
from lfjax.training.logs import write_atomic

PACKAGES = ("lfjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
FOLDER_FILES = (
    *("config.json", "adapter_config.json", "dataset_info.json", "tokenizer.json", "score.json"),
    *("*.safetensors", "*.safetensors.index.json"),
)
# Files above this are hashed by size, head and tail: reading 140 GB of weights would take longer
# than some stages.
HASH_BYTES = 2**30


@dataclass(frozen=True)
class Stage:
    """A stage about to run.

    Attributes:
      name: its name in the recipe, and of its folder.
      folder: WORKDIR/name.
      config: its own configuration.
      inputs: what it reads, by role: paths of files or directories.
      seed: of the recipe.
      mesh: over all devices.
      identity: what its result depends on: configuration, seed, and hashes of the inputs.
    """

    name: str
    folder: Path
    config: Any
    inputs: dict[str, str]
    seed: int
    mesh: Any
    identity: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return digest(self.identity)

    def begin(self) -> None:
        """Note the identity beside the work that is about to begin. Called after everything that
        can be checked was, so that a mistake that is mended leaves no trace."""
        write_atomic(self.folder / "stage.json", json.dumps(self.identity, indent=2) + "\n")


@dataclass(frozen=True)
class Result:
    """What a stage reports: paths of outputs relative to its folder, and numbers for
    `done.json`."""

    outputs: dict[str, str]
    headline: dict[str, Any]
    cost: dict[str, Any]


def find_input(stage: str, role: str, source: str) -> str:
    """The path of what a stage reads; a model may be named by its id on the hub, and records may be
    a dataset in a bucket.

    Raises: UserError if there is no such file or directory.
    """
    models = role in ("init", "kl_to") or role.startswith("reward/")
    path = resolve_model(source) if models else source
    if not (is_tfds(path) if "://" in path else Path(path).exists()):
        raise UserError(f"{path}: no such file or directory (stage '{stage}', {role}).")
    return path


def output_of(workdir: Path, stage: str, earlier: str, output: str = "") -> tuple[str, str]:
    """(path, hash) of what an earlier stage wrote: its output of that name; without a name the only
    one that it has, or its model where it wrote records as well.

    Raises: UserError where the stage is not finished, or has no such output.
    """
    done = workdir / earlier / "done.json"
    if not done.is_file():
        raise UserError(
            f"stage '{stage}' needs '{earlier}', which must stand before it in the recipe."
        )
    outputs = json.loads(done.read_text())["outputs"]
    if not output and len(outputs) == 1:
        (output,) = outputs
    elif not output and outputs.keys() == {"model", "records"}:
        output = "model"
    if output not in outputs:
        raise UserError(
            f"stage '{stage}' reads '{earlier}/{output}', but '{earlier}' wrote "
            f"{', '.join(outputs)}."
        )
    return str(workdir / earlier / outputs[output]["path"]), outputs[output]["hash"]


def digest(value: Any) -> str:
    """Short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def hash_path(path: epath.PathLike) -> str:
    """Hash of a file's content; of a model directory's configuration, tokenizer and weights; of a
    prepared dataset's description, which holds a digest of its records."""
    path = epath.Path(path)
    if path.is_dir():
        files = sorted(f for pattern in FOLDER_FILES for f in path.glob(pattern))
        return digest({f.name: hash_path(f) for f in files})
    size = path.stat().length
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        if size <= HASH_BYTES:
            while block := stream.read(2**24):
                total.update(block)
        else:
            total.update(stream.read(2**24))
            stream.seek(-(2**24), 2)
            total.update(stream.read())
    return total.hexdigest()[:16]


def provenance() -> dict[str, Any]:
    """Commit of the code, versions of the packages, and the devices."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    kinds = [d.device_kind for d in jax.devices()]
    devices = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return {
        "commit": _commit(),
        "versions": versions,
        "devices": devices,
        "processes": jax.process_count(),
    }


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, with `+changes` if it was edited
    since."""
    here = Path(__file__).parent

    def git(*words):
        done = subprocess.run(
            ["git", "-C", here, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
