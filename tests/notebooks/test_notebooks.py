"""The notebooks run from the first cell to the last, as their readers would run them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOKS = ROOT / "notebooks"


def execute(name: str, environment: dict[str, str], monkeypatch) -> str:
    """Run a notebook in a kernel of its own; everything that its cells printed or showed."""
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return json.dumps(outputs)


def test_saved_without_outputs():
    """What a notebook shows is what its reader's run shows."""
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path


@pytest.mark.parametrize("name", sorted(p.name for p in NOTEBOOKS.glob("*.ipynb")))
def test_doors_come_before_devices(name):
    """Without it a door finds the TPU taken by the notebook's own process, or most of a GPU's
    memory."""
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    codes = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    starts = [i for i, code in enumerate(codes) if re.search(r"^(import|from) jax\b", code, re.M)]
    doors = [i for i, code in enumerate(codes) if re.search(r"^lfjax_run\(|Popen\(", code, re.M)]
    assert max(doors, default=-1) < min(starts, default=len(codes))


SETUP = """
import importlib.metadata, runpy, subprocess, sys
def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = absent
subprocess.run = lambda command, **how: print(" ".join(command))
sys.path = [p for p in sys.path if p not in ("", sys.argv[1])]
found = runpy.run_path(sys.argv[2])
import lfjax
print(lfjax.__file__)
"""


@pytest.mark.parametrize("name", sorted(p.name for p in NOTEBOOKS.glob("*.ipynb")))
@pytest.mark.parametrize("start", ["repository", "notebooks", "beside"])
def test_setup_without_the_package(name, start, tmp_path):
    """In the repository, in notebooks/, or where it was cloned: the first cell installs it from
    there, and finds it without a new interpreter."""
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    first = next(c for c in cells if c["cell_type"] == "code")
    setup = tmp_path / "setup_cell.py"
    setup.write_text("".join(first["source"]), encoding="utf-8")
    (tmp_path / "lfjax").symlink_to(ROOT)
    where = {"repository": ROOT, "notebooks": NOTEBOOKS, "beside": tmp_path}[start]
    run = subprocess.run(
        [sys.executable, "-c", SETUP, str(ROOT), str(setup)],
        cwd=where,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    installed, found = run.stdout.splitlines()
    assert installed.startswith(f"{sys.executable} -m pip install -q -e {ROOT}")
    assert found == str(ROOT / "lfjax" / "__init__.py")


@pytest.mark.slow
def test_your_data(stories, iter1, tmp_path, monkeypatch):
    data = tmp_path / "judgments.json"
    rows = json.loads(Path(iter1).read_text(encoding="utf-8"))
    short = sorted(rows, key=lambda r: len(r["output"]))[:120]
    data.write_text(json.dumps(short), encoding="utf-8")
    shown = execute(
        "your_data.ipynb",
        {
            "LFJAX_MODEL": stories,
            "LFJAX_DATA": str(data),
            "LFJAX_SOURCE": "cut",
            "LFJAX_TEMPLATE": "alpaca",
            "LFJAX_STEPS": "4",
            "LFJAX_WORKDIR": str(tmp_path / "run"),
        },
        monkeypatch,
    )
    assert "image/png" in shown and "iframe" in shown
    assert "tokens/s" in shown and "chat_template.jinja" in shown
    assert (tmp_path / "run" / "cut" / "hf" / "model.safetensors").is_file()


@pytest.mark.slow
def test_lab_tour(tmp_path, monkeypatch):
    run = tmp_path / "lab"
    shown = execute(
        "lab_tour.ipynb", {"LFJAX_LAB": "smoke", "LFJAX_WORKDIR": str(run)}, monkeypatch
    )
    assert shown.count("image/png") == 2 and "iframe" in shown and "precision of blame" in shown
    assert (run / "report" / "index.html").is_file()


@pytest.mark.slow
def test_srt(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    given = {"LFJAX_SRT": "lab_smoke", "LFJAX_WORKDIR": str(workdir)}
    shown = execute("srt.ipynb", given, monkeypatch)
    assert "image/png" in shown and "Overall Score" in shown and "### Feedback" in shown
    assert "agreement_stage2" in shown and (workdir / "report" / "index.html").is_file()


@pytest.mark.slow
def test_pit(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    given = {"LFJAX_PIT": "gap_smoke", "LFJAX_WORKDIR": str(workdir)}
    shown = execute("pit.ipynb", given, monkeypatch)
    assert shown.count("image/png") == 2 and "w over l" in shown and "truth_gain" in shown
    assert len((workdir / "improved.jsonl").read_text().splitlines()) == 8
