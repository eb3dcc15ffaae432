"""Finished stages that are kept for other workdirs: what every run of a recipe would make anew just
as it was, such as the lab's pretrained model."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import lfjax
from lfjax.stages.artifacts import Stage, digest, hash_path

LEFT_OUT = ("checkpoints", "tensorboard")  # large, and of no use to a stage that is finished


def kept_at(stage: Stage) -> Path:
    """Where the stage is kept: by what its result depends on, the code included. LFJAX_STAGES names
    another folder than ~/.cache/lfjax/stages."""
    root = Path(os.environ.get("LFJAX_STAGES", "~/.cache/lfjax/stages")).expanduser()
    return root / digest({**stage.identity, "code": _code()})


def take(stage: Stage) -> bool:
    """Copy the kept stage to where it belongs; False if there is none, or the stage has been
    begun."""
    found = kept_at(stage)
    if stage.folder.exists() or not (found / "done.json").is_file():
        return False
    _copy(found, stage.folder)
    return True


def keep(stage: Stage) -> None:
    """Keep a finished stage. A folder that cannot be written to is no reason to fail."""
    try:
        if not kept_at(stage).exists():
            _copy(stage.folder, kept_at(stage))
    except OSError as error:
        print(f"  not kept for other runs: {error}", flush=True)


@cache
def _code() -> dict[str, str]:
    """Hash of every file of the package's code."""
    package = Path(lfjax.__file__).parent
    return {str(p.relative_to(package)): hash_path(p) for p in sorted(package.rglob("*.py"))}


def _copy(source: Path, target: Path) -> None:
    """All of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = shutil.copytree(
            source, Path(folder) / "copy", ignore=shutil.ignore_patterns(*LEFT_OUT)
        )
        copy.rename(target)
