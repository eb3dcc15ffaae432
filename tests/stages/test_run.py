"""A recipe through the real door: what it leaves behind, and what it does when run again."""

import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import command, environment, run_main


def metrics(workdir, stage="base"):
    return [
        json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()
    ]


def test_workdir_contract(finished):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    assert list(config["stages"]) and config["order"] == ["base", "cut"]
    for stage, steps in (("base", 24), ("cut", 6)):
        done = json.loads((workdir / stage / "done.json").read_text())
        assert set(done) == {"fingerprint", "inputs", "outputs", "headline", "cost", "provenance"}
        assert done["headline"]["steps"] == steps and done["cost"]["tokens"] > 0
        assert done["cost"]["model_flops"] > 0 and done["provenance"]["versions"]["jax"]
        assert [row["step"] for row in metrics(workdir, stage)] == list(range(1, steps + 1))
        assert any((workdir / stage / "tensorboard").iterdir())
        assert (workdir / stage / "checkpoints" / str(steps)).is_dir()
    base, cut = (json.loads((workdir / s / "done.json").read_text()) for s in ("base", "cut"))
    assert cut["inputs"]["init"]["hash"] == base["outputs"]["model"]["hash"]


def test_logged_values(finished):
    rows = metrics(finished[0])
    assert rows[-1]["examples"] == 24 * 8
    assert all(np.isfinite(row["loss"]) for row in rows) and rows[-1]["loss"] < rows[0]["loss"] - 1
    assert [row["step"] for row in rows if "heldout/loss" in row] == [12, 24]
    assert {"blamed", "misalign", "nll_judged", "p_unblamed"} <= set(metrics(finished[0], "cut")[0])


def test_export_is_what_transformers_loads(finished):
    """The same logits, and a chat template that gives the very prompt that was trained on."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lfjax.data.records import Message
    from lfjax.data.templates import render_prompt, template_text
    from lfjax.data.tokenize import load_tokenizer
    from lfjax.models.decoder import Decoder
    from tests.models_of import load_model

    folder = str(finished[0] / "cut" / "hf")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    turn = [{"role": "user", "content": "Tell me about the fox."}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    ours = load_tokenizer(folder)
    prompt = render_prompt(template_text("alpaca"), [Message(**turn[0])])
    assert ids == [ours.bos, *ours.encode(prompt)]
    assert tokenizer("a</s>")["input_ids"][-1] == ours.eos != ours.encode("a</s>")[-1]
    ids = jnp.array([ids])
    config, params = load_model(folder)
    hidden, head = Decoder(config).apply(
        {"params": params}, ids, jnp.arange(ids.shape[1])[None], jnp.ones_like(ids)
    )
    with torch.no_grad():
        expected = theirs(torch.tensor(ids.tolist())).logits.numpy()
    np.testing.assert_allclose(np.asarray(hidden @ head.T), expected, atol=1e-4)


def test_finished_stages_are_skipped(finished):
    workdir, _ = finished
    before = (workdir / "cut" / "done.json").stat().st_mtime_ns
    again = run_main(workdir)
    assert again.returncode == 0 and again.stdout.count("finished before") == 2
    assert (workdir / "cut" / "done.json").stat().st_mtime_ns == before


def test_changed_stage_is_refused_until_rerun(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    change = "--config.stages.cut.options.alpha=0.5"
    refused = run_main(workdir, change)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "config.options.alpha: 1.0 -> 0.5" in refused.stderr and "--rerun cut" in refused.stderr
    again = run_main(workdir, change, "--rerun=cut")
    assert again.returncode == 0, again.stderr
    assert (workdir / "cut.old1" / "done.json").is_file()
    new, old = (json.loads((workdir / s / "done.json").read_text()) for s in ("cut", "cut.old1"))
    assert new["fingerprint"] != old["fingerprint"]


def test_moved_inputs_are_the_same_inputs(finished, tmp_path):
    """A file counts by its content: its place may change, its content may not."""
    workdir, data = tmp_path / "copy", tmp_path / "other.jsonl"
    shutil.copytree(finished[0], workdir)
    text = (ROOT / "lfjax/lab/demo/judgments.jsonl").read_text()
    data.write_text(text)
    assert run_main(workdir, f"--config.data.path={data}").returncode == 0
    data.write_text(text.replace("fox", "cat"))
    changed = run_main(workdir, f"--config.data.path={data}")
    assert changed.returncode == 2 and "inputs.data:" in changed.stderr


def test_no_torch_and_no_tensorflow(tmp_path):
    """Doors import neither, though the tests' environment has torch."""
    code = (
        "import sys; sys.argv[0] = 'main'\n"
        "from lfjax.main import run\n"
        "try: run()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'jax' in sys.modules\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])\n"
    )
    args = command(
        tmp_path, "--config.stages.base.total_steps=2", "--config.stages.cut.total_steps=2"
    )[3:]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_another_source_on_the_command_line(finished, tmp_path):
    """A source has its own options; those of the recipe's do not get in its way."""
    rows = [
        {"q": f"Name {i}.", "a": f"It is {i}.", "j": "Wrong." if i % 2 else ""} for i in range(30)
    ]
    data = write_jsonl(tmp_path / "mine.jsonl", rows)
    args = (
        f"--config.data.path={data}",
        "--config.data.source=jsonl",
        "--config.stages.base.total_steps=2",
    )
    names = [
        f"--config.data.options.{k}={v}"
        for k, v in (("prompt", "q"), ("response", "a"), ("judgment", "j"))
    ]
    done = run_main(tmp_path / "w", *args, *names, "--config.stages.cut.total_steps=2")
    assert done.returncode == 0, done.stderr
    assert "22 (" in done.stdout and "22 used" in done.stdout
    refused = run_main(
        tmp_path / "v", f"--config.data.path={data}", "--config.data.options.prompt=q"
    )
    assert refused.returncode == 2 and "'records' has no option 'prompt'" in refused.stderr


def test_import_is_light():
    code = "import time; t = time.perf_counter(); import lfjax; print(time.perf_counter() - t)"
    times = [
        float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)
    ]
    assert min(times) < 0.1


def test_skip_counts_bad_records(tmp_path):
    """Under on_error=skip a bad record is told and the rest is learned from."""
    lines = (ROOT / "lfjax/lab/demo/judgments.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:40]]
    rows[3].pop("prompt")
    rows[5]["feedback"] = []
    data = write_jsonl(tmp_path / "some.jsonl", rows)
    args = (
        f"--config.data.path={data}",
        "--config.data.heldout_examples=4",
        "--config.stages.base.total_steps=2",
    )
    stopped = run_main(tmp_path / "a", *args)
    assert stopped.returncode == 2 and "some.jsonl:4: field" in stopped.stderr
    skipped = run_main(tmp_path / "b", *args, "--config.data.on_error=skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "malformed, left out:" in skipped.stdout and "some.jsonl:4" in skipped.stdout
    assert "has no judgment text" in skipped.stdout
