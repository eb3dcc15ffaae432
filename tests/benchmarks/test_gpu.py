"""The benchmark for GPUs, at toy size: both sides do the same, and every ratio is printed."""

import json
import os
import re
import runpy
import subprocess
import sys
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.methods import get_method
from lfjax.models.config import ModelConfig
from tests.conftest import ROOT

PROGRAM = str(ROOT / "benchmarks" / "gpu.py")
TOY = Namespace(size="toy", rows=2, tokens=48)


def test_both_sides_compute_the_same_loss():
    """Of the same log-probabilities."""
    torch = pytest.importorskip("torch")
    gpu = runpy.run_path(PROGRAM)
    rng = np.random.default_rng(0)
    for name in gpu["METHODS"]:
        ids = gpu["texts"](TOY, name)
        rows = jax.tree.map(jnp.asarray, gpu["rows_of"](ids, name))
        logp = np.where(rows.weight > 0, -rng.exponential(size=rows.weight.shape), 0)
        method = get_method(name)
        found = float(method.loss(jnp.asarray(logp, jnp.float32), rows, **method.options)[0])
        learned = logp.reshape(ids.shape)[:, :, gpu["PROMPT"] - 1 : -1]
        assert found == pytest.approx(float(gpu[f"torch_{name}"](torch.tensor(learned))), rel=1e-5)


def test_sizes():
    gpu = runpy.run_path(PROGRAM)
    for name, low, high in (("1b", 1.0e9, 1.2e9), ("3b", 2.5e9, 3.3e9)):
        config = ModelConfig.from_hf(gpu["shape"](Namespace(size=name, tokens=8)), "test")
        layer = config.d_model * config.head_dim * 2 * (config.n_heads + config.n_kv_heads)
        layer += 3 * config.d_model * config.d_mlp
        total = config.n_layers * layer + 2 * config.vocab_size * config.d_model
        assert low < total < high, total


def test_the_first_of_several_devices():
    """Is the one that draws, as it is the one that trains."""
    assert jax.device_count() > 1
    gpu = runpy.run_path(PROGRAM)
    how = dict(dtype="float32", remat="none", attention="auto", methods=[], repeats=1)
    args = Namespace(**vars(TOY), **how, batches=[2], new=2)
    ((what, seconds),) = gpu["ours"](args)
    assert what == "sample 2" and seconds > 0


@pytest.mark.slow
def test_every_ratio_is_printed(tmp_path):
    pytest.importorskip("torch")
    sizes = ["--rows=2", "--tokens=48", "--new=8", "--repeats=1", "--dtype=float32"]
    command = [sys.executable, PROGRAM, "--size=toy", *sizes, "--batches", "1", "3"]
    target = tmp_path / "gpu.json"
    run = subprocess.run(
        [*command, f"--json={target}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    table = json.loads(target.read_text())["table"]
    assert list(table) == ["sft", "cut", "dpo", "sample 1", "sample 3"]
    for what, row in table.items():
        told = re.search(rf"^{what}: ours ([\d,]+) .*ratio ([\d.]+)$", run.stdout, re.MULTILINE)
        assert float(told[1].replace(",", "")) == round(row["tokens_per_s"])
        ratio = row["tokens_per_s"] / row["torch_tokens_per_s"]
        assert row["ratio"] == pytest.approx(ratio) and float(told[2]) == round(ratio, 2)
