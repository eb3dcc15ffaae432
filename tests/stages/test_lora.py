"""Adapters through the real door: only they are trained and saved, and the export is merged."""

import json
import re
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from lfjax.models.quantize import floats, quantise
from tests.stages.conftest import run_main

LORA = (
    "--config.stages.cut.lora.rank=4",
    "--config.stages.cut.lora.dropout=0.1",
    "--config.stages.cut.optimizer.learning_rate=0.03",
    "--config.stages.cut.save_epochs=0",
    "--config.stages.cut.save_steps=2",
)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("adapted")
    done = run_main(workdir, *LORA)
    assert done.returncode == 0, done.stderr
    return workdir


def weights(workdir, stage):
    return load_file(workdir / stage / "hf" / "model.safetensors")


def test_only_the_chosen_projections_change(adapted):
    before, after = weights(adapted, "base"), weights(adapted, "cut")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if ".mlp." in name}


def test_merged_is_base_plus_adapter(adapted):
    adapter = load_file(adapted / "cut" / "adapter" / "adapter_model.safetensors")
    config = json.loads((adapted / "cut" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["target_modules"] == ["gate_proj", "up_proj", "down_proj"]
    name = "model.layers.1.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    expected = weights(adapted, "base")[f"{name}.weight"] + config["lora_alpha"] / 4 * b @ a
    np.testing.assert_allclose(weights(adapted, "cut")[f"{name}.weight"], expected, atol=1e-6)


def test_checkpoints_hold_adapters_alone(adapted):
    """The base is in the checkpoint by reference."""

    def size(stage):
        found = (p for p in (adapted / stage / "checkpoints").rglob("state/**/*") if p.is_file())
        return sum(p.stat().st_size for p in found)

    assert size("cut") < size("base") / 3


def test_an_adapter_to_start_from(adapted, tmp_path):
    """Its files decide rank and targets; training goes on from its values."""
    again = run_main(
        tmp_path, *LORA, f"--config.stages.cut.lora.adapter={adapted / 'cut' / 'adapter'}"
    )
    assert again.returncode == 0, again.stderr
    first = [
        json.loads((w / "cut" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for w in (adapted, tmp_path)
    ]
    assert first[0] != first[1]
    assert "adapter" in json.loads((tmp_path / "cut" / "done.json").read_text())["inputs"]


def test_a_quantised_base(adapted, tmp_path):
    """It trains, what is exported is what was trained on with the adapters added, and the run goes
    on from a checkpoint to the same end."""
    workdir, nf4 = tmp_path / "w", "--config.stages.cut.lora.base_dtype=nf4"
    shutil.copytree(adapted, workdir)
    done = run_main(workdir, *LORA, nf4, "--rerun=cut")
    assert done.returncode == 0, done.stderr
    before, after = weights(workdir, "base"), weights(workdir, "cut")
    adapter = load_file(workdir / "cut" / "adapter" / "adapter_model.safetensors")
    for name, x in before.items():
        if not re.search("(gate|up|down|q|k|v|o)_proj", name):
            expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
        else:
            kernel = x.T[None].astype(ml_dtypes.bfloat16)
            expected = np.asarray(floats(quantise(jnp.asarray(kernel), "nf4"))[0].T)
            assert 0.01 < np.linalg.norm(expected - x) / np.linalg.norm(x) < 0.15
        if ".mlp." in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            a, b = (adapter[f"{stem}.lora_{part}.weight"] for part in "AB")
            assert np.abs(b).max() > 0
            expected = expected + 4.0 * b @ a
        np.testing.assert_allclose(after[name], expected, atol=1e-5)
    shutil.rmtree(workdir / "cut" / "checkpoints" / "6")
    (workdir / "cut" / "done.json").unlink()
    again = run_main(workdir, *LORA, nf4)
    assert again.returncode == 0 and "continuing after step 4 of 6" in again.stdout, again.stderr
    found = weights(workdir, "cut")
    assert all(np.array_equal(found[name], x) for name, x in after.items())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("pattern=ffn", "matches no projection"),
        ("dropout=1.5", "a dropout in [0, 1)"),
        ("base_dtype=int7", "expected one of float32, bfloat16, int8, int4, nf4"),
        ("adapter=nowhere", "nowhere: no such file or directory"),
    ],
)
def test_bad_settings(tmp_path, setting, said):
    done = run_main(
        tmp_path,
        "--config.stages.base.total_steps=2",
        "--config.stages.cut.lora.rank=4",
        f"--config.stages.cut.lora.{setting}",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr
