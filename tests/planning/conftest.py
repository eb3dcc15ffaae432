"""The TPU compiler: of this environment, or beside it, where `make test` puts it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

BESIDE = Path(sys.prefix) / "tpu"


@pytest.fixture
def compiler(monkeypatch):
    """Programs that a test starts find libtpu; without one the test is skipped. Nobody else does:
    with libtpu in sight, JAX looks for a TPU wherever it starts."""
    if (BESIDE / "libtpu").is_dir():
        before = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(BESIDE), before))))
    elif importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed: pip install -e '.[tpu]'")
