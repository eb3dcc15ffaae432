"""A mixture through the real door: its files count, its shares are told, its mistakes are named."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.stages.conftest import environment, run_main

RECIPE = """
from lfjax.recipe import base, recipe, train

DEMO = "{demo}"

def get_config(arg="file"):
    blocks = dict(
        first=dict(source="records", weight=3.0, path="{first}"),
        second=dict(source="records", weight=1.0),
    )
    c = base(model_path=DEMO, **(dict(mixture=blocks) if arg == "blocks" else {{}}))
    c.model.weights = "random"
    c.data.heldout_examples = 8
    rows = dict(max_tokens=128, row_tokens=512, total_steps=2, total_epochs=0, eval_steps=2)
    return recipe(c, base=train("sft", data=c.data, init=c.model, **rows))
"""


@pytest.fixture
def files(tmp_path):
    """A recipe, a file of blocks, and the two files that both of them name."""
    demo = ROOT / "lfjax" / "lab" / "demo"
    lines = (demo / "judgments.jsonl").read_text().splitlines(keepends=True)
    found = {name: tmp_path / f"{name}.jsonl" for name in ("first", "second")}
    found["first"].write_text("".join(lines[:60]))
    found["second"].write_text("".join(lines[60:120]))
    blocks = {
        name: {"path": f"{name}.jsonl", "source": "records", "weight": weight}
        for name, weight in (("first", 3), ("second", 1))
    }
    found["mix"] = tmp_path / "mix.json"
    found["mix"].write_text(json.dumps(blocks))
    found["recipe"] = tmp_path / "recipe.py"
    found["recipe"].write_text(RECIPE.format(demo=demo, first=found["first"]))
    return found


def run(files, workdir, *args, variant="file"):
    how = dict(config=f"{files['recipe']}:{variant}", quick=False)
    return run_main(workdir, *args, **how)


def test_a_file_of_blocks(files, tmp_path):
    """Without it a block's file is exchanged and the old result passes for the new one's."""
    workdir, path = tmp_path / "w", f"--config.data.path={files['mix']}"
    done = run(files, workdir, path)
    assert done.returncode == 0, done.stderr
    assert "records: 72 (" in done.stdout  # 60 and a third of it, less 8
    told = next(line for line in done.stdout.splitlines() if "of these: " in line)
    counts = {name: int(n) for n, name in (x.split() for x in told.split(": ")[1].split(", "))}
    assert (
        set(counts) == {"first/lfjax.lab.demo", "second/lfjax.lab.demo"}
        and sum(counts.values()) == 72
    )
    assert "40 second: beyond its share" in done.stdout
    inputs = json.loads((workdir / "base" / "done.json").read_text())["inputs"]
    assert {"data", "data/first", "data/second", "init"} == set(inputs)
    assert inputs["data/second"]["path"] == str(files["second"])
    assert len({item["hash"] for item in inputs.values()}) == 4
    assert "finished before" in run(files, workdir, path).stdout
    files["second"].write_text(files["second"].read_text().replace("fox", "cat"))
    changed = run(files, workdir, path)
    assert changed.returncode == 2 and "inputs.data/second:" in changed.stderr
    assert "inputs.data/first:" not in changed.stderr and "inputs.data:" not in changed.stderr
    files["second"].unlink()
    gone = run(files, workdir, path)
    assert gone.returncode == 2 and "(stage 'base', data/second)" in gone.stderr


def test_blocks_of_a_recipe(files, tmp_path):
    """Without it what a recipe mixes cannot be brought, or weighted, on the command line."""
    workdir = tmp_path / "w"
    refused = run(files, workdir, variant="blocks")
    assert refused.returncode == 2 and "--config.data.mixture.second.path=FILE" in refused.stderr
    path = f"--config.data.mixture.second.path={files['second']}"
    done = run(files, workdir, path, "--config.data.mixture.second.weight=3", variant="blocks")
    assert done.returncode == 0, done.stderr
    assert "records: 112 (" in done.stdout and "beyond its share" not in done.stdout
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["mixture"]["second"]["weight"] == 3.0
    changed = run(files, workdir, path, variant="blocks")
    assert changed.returncode == 2
    assert "config.data.mixture.second.weight: 3.0 -> 1.0" in changed.stderr
    misspelt = run(files, workdir, "--config.data.mixture.secnd.weight=3", variant="blocks")
    assert misspelt.returncode == 2 and "Did you mean 'second'?" in misspelt.stderr


def test_the_doctor_tells_blocks_apart(files, tmp_path):
    """Without it nobody sees what a block becomes before the run."""
    words = ["--config", f"{files['recipe']}:file", f"--config.data.path={files['mix']}"]
    done = subprocess.run(
        [sys.executable, "-m", "lfjax.doctor", *words, "--rows=0"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "first/lfjax.lab.demo" in done.stdout and "second/lfjax.lab.demo" in done.stdout
