"""Stages that are kept for other workdirs."""

import json

import pytest

from lfjax.recipe import base, cached, make, recipe
from lfjax.stages import kept
from lfjax.stages.run import run_recipe

WORLD = "lfjax.lab.making:phrasebook"
SIZES = dict(pretraining=3, feedback=2, evaluated=1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LFJAX_STAGES", str(tmp_path / "kept"))
    return tmp_path / "kept"


def run(workdir, rerun=(), **changed):
    c = base(source="records", path="none")
    c.seed = changed.pop("seed", 42)
    run_recipe(recipe(c, world=cached(make(WORLD, **SIZES | changed))), str(workdir), rerun)
    return workdir / "world"


def test_the_next_run_takes_it(tmp_path, capsys, monkeypatch):
    one = run(tmp_path / "one")
    monkeypatch.setattr("lfjax.lab.making.phrasebook", None)  # would fail if it were made again
    other = run(tmp_path / "other")
    assert "taken from" in capsys.readouterr().out
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize("changed", [{"feedback": 1}, {"seed": 7}])
def test_another_one_is_made(tmp_path, capsys, changed):
    run(tmp_path / "one")
    run(tmp_path / "other", **changed)
    assert "taken from" not in capsys.readouterr().out


def test_other_code_makes_it_anew(tmp_path, capsys, monkeypatch):
    run(tmp_path / "one")
    monkeypatch.setattr(kept, "_code", lambda: {"a.py": "changed"})
    run(tmp_path / "other")
    assert "taken from" not in capsys.readouterr().out


def test_rerun_does_it_again(tmp_path, capsys):
    run(tmp_path / "one")
    run(tmp_path / "one", rerun=("world",))
    assert "taken from" not in capsys.readouterr().out
    assert (tmp_path / "one" / "world.old1").is_dir()


def test_half_a_copy_is_not_taken(tmp_path, folder, capsys):
    run(tmp_path / "one")
    (only,) = folder.iterdir()
    (only / "done.json").unlink()
    assert json.loads((run(tmp_path / "other") / "done.json").read_text())
    assert "taken from" not in capsys.readouterr().out


def test_nowhere_to_keep_it(tmp_path, folder, capsys):
    folder.write_text("a file")
    assert (run(tmp_path / "one") / "done.json").is_file()
    assert "not kept" in capsys.readouterr().out
