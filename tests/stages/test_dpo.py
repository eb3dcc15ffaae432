"""DPO through the real door: pairs, the reference pass, held-out pairs, what a restart keeps."""

import json
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import command, environment, run_main

DEMO = ROOT / "lfjax" / "lab" / "demo"
ANIMALS = ("fox", "hare", "owl", "bear", "wolf", "otter")
HOW = (
    f"--config.model.path={DEMO}",
    "--config.model.weights=random",
    "--config.data.heldout_examples=4",
    "--config.stages.dpo.total_epochs=6",
    "--config.stages.dpo.batch_examples=6",
    "--config.stages.dpo.row_tokens=256",
    "--config.stages.dpo.max_tokens=128",
    "--config.stages.dpo.optimizer.learning_rate=0.01",
    "--config.stages.dpo.save_steps=2",
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {
            "prompt": f"Tell me about the {animal}.",
            "chosen": f"The {animal} is brown, eats {food} and sleeps in a nest.",
            "rejected": f"The {animal} is yellow.",
        }
        for animal in ANIMALS
        for food in ("seeds", "fish", "roots")
    ]
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


def arguments(pairs, *more):
    return (f"--config.data.path={pairs}", *HOW, *more)


def run_dpo(workdir, pairs, *more):
    return run_main(
        workdir, *arguments(pairs, *more), config="configs/dpo.py:stories260k", quick=False
    )


def logged(workdir):
    return [
        json.loads(line) for line in (workdir / "dpo" / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def done(tmp_path_factory, pairs):
    workdir = tmp_path_factory.mktemp("dpo")
    run = run_dpo(workdir, pairs)
    assert run.returncode == 0, run.stderr
    return workdir


def test_starts_at_the_reference_and_learns_the_preference(done):
    rows = logged(done)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["length_chosen"] > rows[0]["length_rejected"] > 1
    last = rows[-1]
    assert last["accuracy"] == 1 and last["loss"] < 0.5
    assert last["heldout/accuracy"] == 1 and last["heldout/loss"] < 0.5
    assert last["reward_chosen"] - last["reward_rejected"] == pytest.approx(
        last["margin"], abs=1e-4
    )


def test_killed_and_continued(done, pairs, tmp_path):
    """The reference is that of the start, not of the model that training goes on from."""
    process = subprocess.Popen(
        command(tmp_path, *arguments(pairs), config="configs/dpo.py:stories260k", quick=False),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    checkpoint = tmp_path / "dpo" / "checkpoints" / "4"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "dpo" / "done.json").exists()
    again = run_dpo(tmp_path, pairs)
    assert again.returncode == 0, again.stderr
    assert "continuing after step" in again.stdout and "reference" not in again.stderr
    a, b = (load_file(w / "dpo" / "hf" / "model.safetensors") for w in (done, tmp_path))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_lost_reference_is_computed_again(done, pairs, tmp_path):
    """Adapters: the frozen base and fresh adapters are the start, whatever was learned since."""
    lora = ("--config.stages.dpo.lora.rank=4", "--config.stages.dpo.lora.pattern=attn/")
    first = run_dpo(tmp_path, pairs, *lora)
    assert first.returncode == 0, first.stderr
    assert logged(tmp_path)[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    file = tmp_path / "dpo" / "reference.safetensors"
    before = load_file(file)
    file.unlink()
    (tmp_path / "dpo" / "done.json").unlink()
    assert run_dpo(tmp_path, pairs, *lora).returncode == 0
    after = load_file(file)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_pairs_on_a_mesh(done, pairs, tmp_path):
    """Two devices and two micro-batches: the same losses."""
    how = (
        "--cpu_devices=2",
        "--config.stages.dpo.micro_batches=2",
        "--config.stages.dpo.total_epochs=2",
    )
    run = run_dpo(tmp_path, pairs, *how)
    assert run.returncode == 0, run.stderr
    for one, two in zip(logged(done), logged(tmp_path)[:2]):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_pairs_without_a_preference(tmp_path):
    rows = [{"prompt": "Tell me about the fox.", "chosen": "The fox.", "rejected": "The fox."}] * 4
    run = run_dpo(tmp_path, write_jsonl(tmp_path / "same.jsonl", rows))
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert "no record is left" in run.stderr
