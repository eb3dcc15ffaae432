"""Training on several processes: the numbers are those of one, and whatever ends, all end and the
same command continues."""

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.processes.conftest import RECIPE, Group, run

CONFIG = f"{RECIPE}:adapters"
STAGE = "cut"

pytestmark = pytest.mark.slow


def rows(workdir):
    lines = (workdir / STAGE / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same(workdir, other):
    """The same curve, held-out scores included, and the same exported weights."""
    own, expected = rows(workdir), rows(other)
    assert [r["step"] for r in own] == [r["step"] for r in expected] == list(range(1, 17))
    for name in ("loss", "heldout/loss"):
        values = [[r[name] for r in run if name in r] for run in (own, expected)]
        assert len(values[0]) == len(values[1]) > 0
        np.testing.assert_allclose(*values, rtol=1e-5)
    weights = [load_file(w / STAGE / "hf" / "model.safetensors") for w in (workdir, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, x in weights[0].items():
        np.testing.assert_allclose(x, weights[1][name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "w"
    run(workdir, 1, 8, variant="adapters")
    return workdir


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Two processes with four devices each, of which the second was killed; how long the first
    lived on, and its status."""
    workdir = tmp_path_factory.mktemp("killed") / "w"
    group = Group(workdir, 2, 4, config=CONFIG)
    group.wait_for(workdir / STAGE / "metrics.jsonl", 5)
    group.processes[1].kill()
    then = time.monotonic()
    status = group.wait(120)[0]
    return workdir, time.monotonic() - then, status, group.told(0)


def test_two_processes_are_one(alone, tmp_path):
    workdir = tmp_path / "w"
    group = run(workdir, 2, 4, variant="adapters")
    assert_same(workdir, alone)
    assert "2 processes (flags), 8 devices, 4 of them here" in group.told(0)
    assert "records:" in group.told(0) and "records:" not in group.told(1)
    # What one process writes, two do not write twice, or elsewhere.
    files = [sorted(str(f.relative_to(w)) for f in w.rglob("*")) for w in (workdir, alone)]
    named = [[n for n in f if not re.search("checkpoints|tensorboard/", n)] for f in files]
    assert named[0] == named[1]


def test_one_dies_and_all_end(killed):
    workdir, seconds, status, told = killed
    assert seconds < 60 and status != 0, told
    assert not (workdir / STAGE / "done.json").exists()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_restarted_on_other_processes(killed, alone, tmp_path, count):
    workdir = tmp_path / "w"
    shutil.copytree(killed[0], workdir)
    group = run(workdir, count, 8 // count, variant="adapters")
    assert re.search(r"continuing after step \d+ of 16", group.told(0))
    assert_same(workdir, alone)


def test_a_signal_to_one_stops_all(alone, tmp_path):
    """The last process is told; all save the same step, which the next start goes on from."""
    workdir = tmp_path / "w"
    flags = ("--config.stages.cut.save_steps=1000",)
    group = Group(workdir, 2, 4, *flags, config=CONFIG)
    group.wait_for(workdir / STAGE / "metrics.jsonl", 4)
    group.processes[1].send_signal(signal.SIGTERM)
    assert group.wait(300) == [128 + signal.SIGTERM] * 2, group.told()
    step = int(re.search(r"stopped after step (\d+)", group.told(0))[1])
    assert (workdir / STAGE / "checkpoints" / str(step)).is_dir()
    again = run(workdir, 2, 4, *flags, variant="adapters")
    assert f"continuing after step {step} of 16" in again.told(0)
    assert_same(workdir, alone)


def test_the_first_dies_and_all_end(tmp_path):
    workdir = tmp_path / "w"
    group = Group(workdir, 2, 4, config=CONFIG)
    group.wait_for(workdir / STAGE / "metrics.jsonl", 2)
    group.processes[0].kill()
    then = time.monotonic()
    status = group.wait(120)[1]
    assert time.monotonic() - then < 60 and status != 0
