"""Mistakes at the door: one message that says what, where and what to do, and status 2."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import run_main

DEMO = ROOT / "lfjax" / "lab" / "demo"


def refused(workdir, *args, **how) -> str:
    """What the program says when it refuses."""
    done = run_main(workdir, *args, **how)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config.data.pth=x"], "--config.data.pth: no key 'pth' there. Did you mean 'path'?"),
        (["--config.stages.cut.options.alpa=1"], "Did you mean 'alpha'?"),
        (["--config.stages.base.method=cutt"], "method: unknown 'cutt'. Did you mean 'cut'?"),
        (["--config.stages.base.options.mode=code"], "no key 'mode' there"),
        (
            ["--config.stages.base.optimizer.learning_rate=fast"],
            "could not convert string to float",
        ),
        (["--config.stages.base.optimizer.decay=cosin"], "Did you mean 'cosine'?"),
        (["--config.stages.base.dtype=float16"], "unknown 'float16'"),
        (["--config.stages.base.remat=some"], "unknown 'some'"),
        (["--config.stages.base.normalize=words"], "expected example or token"),
        (
            ["--config.stages.base.batch_rows=2"],
            "set one of them to a positive number and the other",
        ),
        (["--config.stages.base.total_epochs=1"], "total_steps and total_epochs are both set"),
        (["--config.stages.base.row_tokens=64"], "row_tokens=64 is less than max_tokens=128"),
        (["--config.data.heldout_examples=0"], "set data.heldout_examples"),
        (["--config.data.heldout_examples=999"], "has 320 records"),
        (["--config.stages.base.best=heldout/los"], "Did you mean 'heldout/loss'?"),
        (["--config.stages.base.export_dtype=int8"], "expected float32, bfloat16 or float16"),
        (["--config.data.source=record"], "Did you mean 'records'?"),
        (["--config.data.template=alpac"], "Did you mean 'alpaca'?"),
        (["--config.data.on_error=ignore"], "expected stop or skip"),
        (["--config.model.weights=none"], "expected pretrained or random"),
        (["--config.model.weights=pretrained"], "no model.safetensors"),
        (["--config.model.path=missing"], "missing: no such file or directory"),
        (["--config.mesh.data=3"], "does not fit the 1 device(s) found"),
        (
            ["--cpu_devices=8", "--config.mesh.tensor=8"],
            "does not divide the model's 4 key/value heads",
        ),
        (
            ["--cpu_devices=8", "--config.mesh.seq=8"],
            "mesh.tensor × mesh.seq=8 does not divide the model's 4 key/value heads",
        ),
        (
            ["--cpu_devices=4", "--config.mesh.seq=4", "--config.stages.base.row_tokens=258"],
            "mesh.seq=4 does not divide row_tokens=258",
        ),
        (["--config.stages.base.attention=plian"], "unknown 'plian'. Did you mean 'plain'?"),
        (["--config.stages.base.optimizer.mu_dtype=float16"], "mu_dtype: unknown 'float16'"),
        (["--config.stages.base.profile_first_step=0"], "a step from 1"),
        (["--rerun=cat"], "--rerun: no stage 'cat'. Did you mean 'cut'?"),
        (["stray"], "unexpected argument 'stray'"),
        (["--bogus=1"], "Unknown command line flag 'bogus'"),
    ],
)
def test_settings(tmp_path, args, said):
    assert said in refused(tmp_path, *args)


def test_variant_and_config_file(tmp_path):
    assert "unknown variant 'tinny'. Did you mean 'tiny'?" in refused(
        tmp_path, config="configs/cut.py:tinny", quick=False
    )
    assert "no file 'configs/cat.py'" in refused(tmp_path, config="configs/cat.py", quick=False)
    said = refused(tmp_path, config="configs/cut.py:stories260k", quick=False)
    assert "data.path is not set" in said and "--config.data.path=FILE" in said


RECORD = {
    "id": "a",
    "source": "s",
    "prompt": [{"role": "user", "content": "Hi"}],
    "response": "Hello there.",
    "feedback": [{"text": "Too short.", "polarity": "negative"}],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"response": " "}, "field 'response' is empty"),
        ({"response": 5}, "field 'response' is int, expected str"),
        ({"prompt": None}, "field 'prompt' must be a list"),
        (
            {"feedback": [{"text": "x", "polarity": "bad"}]},
            "expected one of positive, negative, mixed",
        ),
        ({"feedbak": []}, "unknown field 'feedbak'. Did you mean 'feedback'?"),
        ({"response": None}, "record 'a' of s: has no response"),
    ],
)
def test_records(tmp_path, change, said):
    """File, line, field and expectation."""
    asked = [[{"role": "user", "content": f"Hi {i}"}] for i in range(10)]
    good = [RECORD | {"id": f"r{i}", "prompt": prompt} for i, prompt in enumerate(asked)]
    path = write_jsonl(tmp_path / "bad.jsonl", [*good, RECORD | change])
    text = refused(tmp_path / "w", f"--config.data.path={path}", "--config.data.heldout_examples=1")
    assert said in text
    assert "bad.jsonl:11" in text or "record 'a'" in text
    assert "data.on_error=skip" in text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"id": "a",\n', "a.jsonl:1: not JSON"),
        ("a.json", "[{]", "a.json:1: not JSON"),
        ("a.json", "{}", "expected a JSON array"),
        ("a.jsonl", "", "no record is left"),
        ("a.jsonl.gz", "not gzip", "cannot be read"),
    ],
)
def test_files(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    assert said in refused(tmp_path / "w", f"--config.data.path={tmp_path / name}")


@pytest.fixture
def model(finished, tmp_path):
    """A trained model directory to break."""
    shutil.copytree(finished[0] / "base" / "hf", tmp_path / "model")
    os.remove(tmp_path / "model" / "model.safetensors.index.json")
    return tmp_path / "model"


def test_model_directories(model, tmp_path):
    """A weight too few or too many, a wrong shape, another family, too large a tokenizer."""
    args = (f"--config.model.path={model}", "--config.model.weights=pretrained")
    weights = load_file(model / "model.safetensors")

    def with_weights(changed):
        save_file(changed, model / "model.safetensors")
        return refused(tmp_path / "w", *args)

    name = "model.layers.1.mlp.up_proj.weight"
    assert f"has no weight {name}" in with_weights({k: v for k, v in weights.items() if k != name})
    assert "has surplus weights model.extra" in with_weights(weights | {"model.extra": np.ones(2)})
    assert "but config.json says" in with_weights(weights | {name: np.ones((3, 4), np.float32)})
    (model / "model.safetensors").write_bytes(b"torn")
    assert "not a safetensors file" in refused(tmp_path / "w", *args)
    save_file(weights, model / "model.safetensors")

    def with_config(**changed):
        config = json.loads((DEMO / "config.json").read_text()) | changed
        (model / "config.json").write_text(json.dumps(config))
        return refused(tmp_path / "w", *args)

    assert "the tokenizer has" in with_config(vocab_size=100)
    assert "model_type is 'gpt2'" in with_config(model_type="gpt2")
    config = json.loads((DEMO / "config.json").read_text())
    config.pop("hidden_size")
    (model / "config.json").write_text(json.dumps(config))
    assert "field 'hidden_size' is missing" in refused(tmp_path / "w", *args)


def test_nothing_is_lost(finished, tmp_path):
    """A refusal leaves a workdir as it was."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    before = {p: p.read_bytes() for p in sorted(workdir.rglob("*.json"))}
    refused(workdir, "--config.stages.cut.options.alpha=0.5")
    refused(workdir, "--config.data.pth=x")
    assert before == {p: p.read_bytes() for p in sorted(workdir.rglob("*.json"))}
