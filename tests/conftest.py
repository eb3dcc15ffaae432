"""Shared by all tests: eight simulated devices, a persistent compilation cache, and real data where
it is present."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("LFJAX_SHARED", ROOT.parent / "shared"))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def shared(path: str) -> Path:
    """A file or folder of the shared real data; the test is skipped where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"real data not present: {found} (set LFJAX_SHARED)")
    return found


@pytest.fixture(scope="session")
def stories() -> str:
    """The pretrained stories260k model directory."""
    return str(shared("models/stories260k"))


@pytest.fixture(scope="session")
def iter1() -> str:
    """The CUT authors' judgments of their first iteration."""
    return str(shared("data/cut/iter1.json"))


@pytest.fixture
def tpu_compiler(monkeypatch):
    """Programs that a test starts find the TPU's compiler, libtpu: that of this environment, or
    what `make test` puts beside it. Nobody else does: with libtpu in sight, JAX looks for a TPU
    wherever it starts. The test is skipped where there is none."""
    beside = Path(sys.prefix) / "tpu"
    if (beside / "libtpu").is_dir():
        before = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(beside), before))))
    elif importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed: pip install -e '.[tpu]'")


def write_jsonl(path: Path, rows: list) -> str:
    """Write objects one a line; the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
