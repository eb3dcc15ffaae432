"""`launch/local.sh`: what it says it would do, and what it does with processes that end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.stages.conftest import environment

SCRIPT = str(ROOT / "launch" / "local.sh")


def start(*args, **env):
    return subprocess.Popen(
        [SCRIPT, *args],
        cwd=ROOT,
        env=environment() | {"PYTHON": str(ROOT / ".venv" / "bin" / "python")} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests that run in the background ignore it, and so would the launcher
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def stand_in(tmp_path):
    """A command in place of python: it notes its number, and ends as a file says."""
    script = tmp_path / "stand_in"
    script.write_text(
        "#!/usr/bin/env bash\n"
        "[[ $1 == -c ]] && { echo 4242; exit; }\n"
        'own="${*: -1}"\n'
        f'trap "echo told >> {tmp_path}/$own.log; exit 143" TERM\n'
        f'trap "echo told >> {tmp_path}/$own.log; exit 130" INT\n'
        f'echo "$*" > {tmp_path}/$own.log\n'
        f"while [[ ! -e {tmp_path}/$own.end ]]; do sleep 0.05; done\n"
        f'exit "$(cat {tmp_path}/$own.end)"\n'
    )
    script.chmod(0o755)
    return script


def wait_for(path):
    end = time.monotonic() + 20
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.02)
    return path.read_text()


def test_shellcheck():
    beside = Path(sys.executable).parent  # where pip puts it
    found = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    if not found:
        pytest.skip("shellcheck is not installed")
    scripts = sorted((ROOT / "launch").glob("*.sh"))
    assert scripts
    subprocess.run([found, "--external-sources", *scripts], cwd=ROOT, check=True)


def test_dry_run():
    out, err = start("--dry-run", "2", "--workdir", "a b", PYTHON="python").communicate()
    common = r"python -m lfjax.main --workdir a\ b --coordinator 127.0.0.1:PORT --processes 2"
    assert out.split("\n")[:2] == [f"{common} --process {i} " for i in (0, 1)] and not err
    out, _ = start("--dry-run", "1", "--workdir", "w", PYTHON="python").communicate()
    assert out.strip() == "python -m lfjax.main --workdir w"


def test_help_and_mistakes():
    run = start("--help")
    assert "Several processes of one run on this machine." in run.communicate()[0]
    run = start("two")
    assert "expected the number of processes, found 'two'" in run.communicate()[1]
    assert run.returncode == 2


def test_all_end_well(tmp_path, stand_in):
    run = start("3", "--flag", PYTHON=str(stand_in))
    for i in range(3):
        line = f"-m lfjax.main --flag --coordinator 127.0.0.1:4242 --processes 3 --process {i}\n"
        assert wait_for(tmp_path / f"{i}.log") == line
        (tmp_path / f"{i}.end").write_text("0")
    assert run.wait(20) == 0


def test_one_ends_badly(tmp_path, stand_in):
    """The others are killed when they do not end by themselves."""
    run = start("2", PYTHON=str(stand_in), GRACE="1")
    wait_for(tmp_path / "0.log")
    wait_for(tmp_path / "1.log")
    (tmp_path / "1.end").write_text("7")
    assert run.wait(20) == 7
    assert "told" not in (tmp_path / "0.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all(tmp_path, stand_in, number):
    run = start("2", PYTHON=str(stand_in))
    for i in range(2):
        wait_for(tmp_path / f"{i}.log")
    os.kill(run.pid, number)
    assert run.wait(20) == 128 + number
    for i in range(2):
        assert (tmp_path / f"{i}.log").read_text().count("told") == 1


@pytest.mark.slow
def test_a_run(tmp_path):
    """Real processes, told to stop by the launcher, and started again by the same command."""
    flags = ("--cpu_devices=1", "--config=tests/processes/recipe.py:adapters")
    run = start("2", *flags, f"--workdir={tmp_path}")
    log = tmp_path / "cut" / "metrics.jsonl"
    end = time.monotonic() + 600
    while not (log.is_file() and log.read_text().count("\n") > 2):
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    run.terminate()
    out, err = run.communicate(timeout=300)
    assert run.returncode == 143 and "stopped after step" in out, err
    run = start("2", *flags, f"--workdir={tmp_path}")
    out, err = run.communicate(timeout=900)
    assert run.returncode == 0 and "continuing after step" in out, err
