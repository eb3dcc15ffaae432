"""Runs of the real `lfjax.main` on the demonstration set, small enough for seconds."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# One stage, two evaluations, a few dozen steps.
QUICK = (
    "--config.stages.base.total_steps=24",
    "--config.stages.base.total_epochs=0",
    "--config.stages.base.save_epochs=0",
    "--config.stages.base.save_steps=3",
    "--config.stages.base.eval_epochs=0",
    "--config.stages.base.eval_steps=12",
    "--config.stages.cut.total_steps=6",
    "--config.stages.cut.total_epochs=0",
    "--config.stages.cut.eval_epochs=0",
    "--config.data.heldout_examples=8",
)


def command(
    workdir, *args: str, config: str = "configs/cut.py:tiny", quick: bool = True
) -> list[str]:
    """The command line of a run."""
    flags = QUICK if quick else ()
    return [
        sys.executable,
        "-m",
        "lfjax.main",
        "--config",
        config,
        "--workdir",
        str(workdir),
        *flags,
        *args,
    ]


def environment() -> dict[str, str]:
    """One device, and the compilations of earlier runs."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
    return (
        os.environ
        | cache
        | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5", "JAX_PLATFORMS": "cpu"}
    )


def run_main(workdir, *args: str, **how) -> subprocess.CompletedProcess:
    """Run to the end; stdout and stderr as text."""
    return subprocess.run(
        command(workdir, *args, **how),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of an undisturbed quick run, and what it printed."""
    workdir = tmp_path_factory.mktemp("finished")
    done = run_main(workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done
