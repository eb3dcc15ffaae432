"""Stopped anywhere and started again: nothing is lost, nothing is repeated in the log, the result
is the same."""

import json
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import ROOT
from tests.stages.conftest import command, environment, run_main

STAGE = "base"


def start(workdir, *args):
    return subprocess.Popen(
        command(workdir, *args),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process, workdir, step):
    """Until the log has the step; fails if the run ends before."""
    log = workdir / STAGE / "metrics.jsonl"
    while process.poll() is None:
        if log.is_file() and log.read_text().count("\n") >= step:
            return
        time.sleep(0.005)
    pytest.fail(f"ended before step {step}: {process.stderr.read()}")


def steps(workdir):
    return [
        json.loads(line)["step"]
        for line in (workdir / STAGE / "metrics.jsonl").read_text().splitlines()
    ]


def same_weights(a, b):
    x, y = (load_file(w / STAGE / "hf" / "model.safetensors") for w in (a, b))
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)


def test_killed_three_times(finished, tmp_path):
    """SIGKILL at random steps: the final parameters are those of the undisturbed run, bit for
    bit."""
    chosen = sorted(random.sample(range(6, 23), 3))
    for step in chosen:
        process = start(tmp_path)
        wait_for_step(process, tmp_path, step)
        process.kill()
        process.wait()
        assert not (tmp_path / STAGE / "done.json").exists()
    last = run_main(tmp_path)
    assert last.returncode == 0, last.stderr
    assert re.search(r"continuing after step \d+ of 24", last.stdout), chosen
    assert steps(tmp_path) == list(range(1, 25)), chosen
    assert same_weights(finished[0], tmp_path), chosen


def test_sigterm_saves_and_stops(finished, tmp_path):
    process = start(tmp_path, "--config.stages.base.save_steps=1000")
    wait_for_step(process, tmp_path, 4)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    stopped = int(re.search(r"stopped after step (\d+)", out)[1])
    assert (tmp_path / STAGE / "checkpoints" / str(stopped)).is_dir()
    again = run_main(tmp_path, "--config.stages.base.save_steps=1000")
    assert again.returncode == 0 and f"continuing after step {stopped} of 24" in again.stdout
    assert same_weights(finished[0], tmp_path)


def test_rerun_that_was_interrupted_continues(finished, tmp_path):
    """The same command, --rerun and all, does not throw away what it had done."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    (
        workdir / STAGE / "metrics.jsonl"
    ).unlink()  # of the old run, for which the wait would not wait
    process = start(workdir, f"--rerun={STAGE}")
    wait_for_step(process, workdir, 8)
    process.kill()
    process.wait()
    again = run_main(workdir, f"--rerun={STAGE}")
    assert again.returncode == 0 and "continuing after" in again.stdout, again.stderr
    assert (workdir / f"{STAGE}.old1").is_dir() and not (workdir / f"{STAGE}.old2").exists()
    assert same_weights(finished[0], workdir)


def test_other_mesh_continues(finished, tmp_path):
    """A checkpoint of one device restores on four; the result differs by rounding only."""
    process = start(tmp_path)
    wait_for_step(process, tmp_path, 8)
    process.kill()
    process.wait()
    again = run_main(tmp_path, "--cpu_devices=4", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    assert again.returncode == 0 and "continuing after" in again.stdout, again.stderr
    x, y = (load_file(w / STAGE / "hf" / "model.safetensors") for w in (finished[0], tmp_path))
    for name in x:
        assert np.linalg.norm(x[name] - y[name]) < 1e-3 * np.linalg.norm(x[name]), name


def test_torn_log_is_repaired(tmp_path):
    from lfjax.training.logs import MetricLog

    log = MetricLog(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 4, "lo')
    log = MetricLog(tmp_path, resume_step=2)
    log.write(3, {"loss": 2.0})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_not_finite_stops_and_keeps_the_last_good(tmp_path):
    """The message names step, records and checkpoint; no bad state was saved."""
    done = run_main(tmp_path, "--config.stages.base.optimizer.learning_rate=1e30")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    step = int(re.search(r"at step (\d+) are not finite", done.stderr)[1])
    assert "demo-" in done.stderr and "records:" in done.stderr
    assert not (tmp_path / STAGE / "done.json").exists()
    good = [int(p.name) for p in (tmp_path / STAGE / "checkpoints").iterdir() if p.name.isdigit()]
    assert all(saved < step for saved in good)
    assert steps(tmp_path) == list(range(1, step))


RUINED = (  # better for a while
    "--config.stages.base.best=heldout/loss",
    "--config.stages.base.eval_steps=4",
    "--config.stages.base.keep=1",
    "--config.stages.base.optimizer.learning_rate=0.3",
    "--config.stages.base.optimizer.decay=constant",
    "--config.stages.base.optimizer.warmup_steps=200",
)


def test_training_ends_when_nothing_gets_better(tmp_path):
    """Also where it was stopped right before its end: then no step is taken."""
    args = (*RUINED, "--config.stages.base.eval_steps=1", "--config.stages.base.patience=1")
    done = run_main(tmp_path, *args)
    assert done.returncode == 0, done.stderr
    assert "no better heldout/loss for 1 evaluations" in done.stdout
    headline = json.loads((tmp_path / STAGE / "done.json").read_text())["headline"]
    ended = headline["steps"]
    assert ended < 24 and headline["exported_step"] == ended - 1
    log = (tmp_path / STAGE / "metrics.jsonl").read_bytes()
    (tmp_path / STAGE / "done.json").unlink()
    again = run_main(tmp_path, *args)
    assert again.returncode == 0, again.stderr
    assert f"continuing after step {ended}" in again.stdout
    assert json.loads((tmp_path / STAGE / "done.json").read_text())["headline"] == headline
    assert (tmp_path / STAGE / "metrics.jsonl").read_bytes() == log


def test_best_checkpoint_is_exported(tmp_path):
    """With a rate that ruins the model the best is not the last, and the best is what is
    exported."""
    done = run_main(tmp_path, *RUINED)
    assert done.returncode == 0, done.stderr
    rows = [
        json.loads(line) for line in (tmp_path / STAGE / "metrics.jsonl").read_text().splitlines()
    ]
    scores = {r["step"]: r["heldout/loss"] for r in rows if "heldout/loss" in r}
    best = min(scores, key=lambda s: (scores[s], s))
    headline = json.loads((tmp_path / STAGE / "done.json").read_text())["headline"]
    assert headline["exported_step"] == best and headline["heldout/loss"] == scores[best]
    assert best != 24, "the last is the best: the test shows nothing"
    kept = sorted(
        int(p.name) for p in (tmp_path / STAGE / "checkpoints").iterdir() if p.name.isdigit()
    )
    assert kept == sorted({best, 24})
