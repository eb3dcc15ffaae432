"""Too little memory on the devices is told as other mistakes are, by one process."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.processes.conftest import RECIPE, free_port
from tests.stages.conftest import environment

# The real door, to a recipe whose stages end so.
PROGRAM = """
import sys
import jax
import lfjax.stages.run as stages
from lfjax.main import run

def run_recipe(*_):
    {ends}

stages.run_recipe, sys.argv[0] = run_recipe, "main"
run()
"""
REFUSED = (
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.27G of 15.75G hbm. "
    "Exceeded hbm capacity by 532.00M." + "\n  a buffer" * 99
)


def start(workdir, ends, *flags):
    program = [sys.executable, "-c", PROGRAM.format(ends=ends)]
    flags = [f"--config={RECIPE}:together", f"--workdir={workdir}", "--cpu_devices=1", *flags]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([*program, *flags], cwd=ROOT, env=environment(), **pipes)


def raises(text):
    return f"raise jax.errors.JaxRuntimeError({text!r})"


@pytest.mark.parametrize(
    "ends, said",
    [
        (raises(REFUSED), "Exceeded hbm capacity by 532.00M."),
        ("jax.numpy.zeros(2**50)", "4194304.00 GiB"),
    ],
)
def test_one_message(tmp_path, ends, said):
    """What was too much, by how much, and what helps; not all of a long list of buffers."""
    run = start(tmp_path, ends)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 2, told
    assert "lfjax: out of device memory" in told and said in told and "Traceback" not in told
    for help_ in ("micro_batches", "remat=full", "mesh.fsdp", "lfjax.plan"):
        assert help_ in told
    assert len(told.splitlines()) < 25


def test_by_one_process(tmp_path):
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--processes=2")
    both = [start(tmp_path, raises(REFUSED), *where, f"--process={i}") for i in range(2)]
    told = [run.communicate(timeout=120)[1] for run in both]
    assert [run.returncode for run in both] == [2, 2], told
    assert ["out of device memory" in t for t in told] == [True, False]
    assert "Traceback" not in "".join(told)


def test_other_exhausted_resources(tmp_path):
    """Are no lack of memory."""
    run = start(tmp_path, raises("RESOURCE_EXHAUSTED: Received message larger than max"))
    told = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and "Traceback" in told and "out of device memory" not in told
