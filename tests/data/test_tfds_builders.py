"""Published sets as TFDS datasets: what the source reads is what a recipe learns from later."""

import json
import subprocess
import sys

import jax
import pytest

from lfjax.data import tfds_adapter
from lfjax.data.sources import SOURCES, load
from lfjax.data.tfds_adapter import read_tfds
from lfjax.data.tfds_builders import main, prepare
from lfjax.errors import UserError
from tests.conftest import ROOT, shared, write_jsonl
from tests.data.public_rows import DEFACTO, ROWS
from tests.data.test_sources import CUT
from tests.stages.conftest import run_main

PUBLISHED = {**ROWS, "cut": [CUT]}


@pytest.mark.parametrize("source", PUBLISHED)
def test_every_published_source(source, tmp_path):
    """Without it a run that reads the dataset learns from other records, or in another order, than
    one that reads the file."""
    rows = PUBLISHED[source] * 5
    rows = [{**row, **{k: i for k in ("id", "doc_id") if k in row}} for i, row in enumerate(rows)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    path = prepare(source, {"train": file}, str(tmp_path))
    assert path == f"{tmp_path}/{source}/{tfds_adapter.VERSION}"
    given = load(file, source).records
    assert len(given) >= 5 and load(path, "records").records == given
    assert list(read_tfds(path)) == given


def test_splits_options_and_real_files(tmp_path):
    """Without it a set is prepared with other options than were asked for, or splits are mixed."""
    files = {split: str(shared(f"data/defacto/{split}.jsonl")) for split in ("train", "val")}
    options = {"request": "Sum up."}
    path = prepare("defacto", files, str(tmp_path), name="mine", options=options)
    for split, file in files.items():
        assert list(read_tfds(path, split)) == load(file, "defacto", options=options).records


def test_all_pairs_of_a_prepared_set(tmp_path):
    """Without it a set that is prepared once serves one kind of pairs."""
    file = write_jsonl(tmp_path / "a.jsonl", ROWS["ultrafeedback"])
    path = prepare("ultrafeedback", {"train": file}, str(tmp_path))
    pairs = {"pairs": "all"}
    later = load(path, "records", options=pairs)
    assert later.records == load(file, "ultrafeedback", options=pairs).records
    assert [r.id for r in later.records] == ["a.jsonl:1/0-1"]


def test_a_process_that_has_no_files_waits(tmp_path, monkeypatch):
    """Without it every host of a pod must hold the original files, or several write at once."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(tfds_adapter, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(tfds_adapter, "WAIT_SECONDS", 0.1)
    absent = {"train": "absent.jsonl"}
    with pytest.raises(UserError, match="process 0 has not written it"):
        prepare("defacto", absent, str(tmp_path))
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    path = prepare(
        "defacto", {"train": write_jsonl(tmp_path / "a.jsonl", [DEFACTO])}, str(tmp_path)
    )
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert prepare("defacto", absent, str(tmp_path)) == path


def test_the_command(tmp_path):
    """Without it preparing a set takes a program, or TensorFlow."""
    file = write_jsonl(tmp_path / "a.jsonl", [DEFACTO, {**DEFACTO, "doc_id": 18}, {}])
    program = (
        "import sys\n"
        "from lfjax.data.tfds_builders import main\n"
        "main()\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])\n"
    )
    words = ["--source=defacto", "--path", file, f"--data_dir={tmp_path}", "--on_error=skip"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *said, path, last = done.stdout.splitlines()
    assert said[0] == "train: 2 records, left out: none" and "a.jsonl:3" in said[1]
    path = path.partition("--config.data.path=")[2]
    assert last == "[]" and [r.id for r in load(path, "records").records] == ["17", "18"]


def test_a_recipe_learns_the_same_from_it(tmp_path):
    """Without it a pod that reads the dataset trains another model than a laptop with the file."""
    file = str(ROOT / "lfjax" / "lab" / "demo" / "judgments.jsonl")
    dataset = prepare("records", {"train": file}, str(tmp_path), name="demo")
    losses = []
    for name, path in (("file", file), ("dataset", dataset)):
        steps = (f"--config.stages.{stage}.total_steps=2" for stage in ("base", "cut"))
        done = run_main(tmp_path / name, f"--config.data.path={path}", *steps)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "cut" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == losses[1] and len(losses[0]) == 2


@pytest.mark.parametrize(
    "args, said",
    [
        (["--source=defact"], "unknown source 'defact'. Did you mean 'defacto'?"),
        (["--options={"], "--options: not JSON"),
        (["--options=[]"], "--options: [], expected a JSON object"),
        (["--options", json.dumps({"requests": "x"})], "Did you mean 'request'?"),
        (["--path", "a=x", "b=y", "a=z"], "'x' and 'z' are both the split a"),
        (["--path", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--name=My set"], "name 'My set', expected small letters"),
        (["--on_error=ignore"], "expected stop or skip"),
        (["--data_dir=/dev/null/x"], "/dev/null/x"),
    ],
)
def test_what_cannot_be_prepared(args, said, tmp_path, capsys):
    """Without it a slip on the command line ends in a traceback."""
    file = write_jsonl(tmp_path / "a.jsonl", [DEFACTO])
    words = ["--source=defacto", "--path", file, f"--data_dir={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as error:
        main([*words, *args])
    told = capsys.readouterr().err
    assert error.value.code == 2 and told.startswith("lfjax: ") and said in told
    assert not list(tmp_path.rglob(tfds_adapter.INFO))


def test_another_file_under_the_same_name(tmp_path):
    """Without it a set of an earlier day is taken for the one that was asked for."""
    file = {"train": write_jsonl(tmp_path / "a.jsonl", [DEFACTO])}
    path = prepare("defacto", file, str(tmp_path))
    assert prepare("defacto", file, str(tmp_path)) == path  # a restart
    write_jsonl(tmp_path / "a.jsonl", [{**DEFACTO, "doc_id": 18}])
    with pytest.raises(UserError, match="holds other records"):
        prepare("defacto", file, str(tmp_path))
    assert [r.id for r in read_tfds(path)] == ["17"]


def test_every_source_is_named_in_the_help(capsys):
    """Without it nobody learns which sets can be prepared."""
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(source in told for source in SOURCES)
