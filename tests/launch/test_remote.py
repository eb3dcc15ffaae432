"""`tpu_pod.sh` and `gpu_host.sh` with stand-ins for gcloud and ssh, which run what a host is told
in a folder of this machine."""

import fcntl
import os
import re
import subprocess
import tarfile

import pytest

from tests.conftest import ROOT

# `state` has what describe says, a line a look, the last one for good.
GCLOUD = """#!/usr/bin/env bash
cd {home}
if [[ $* == *describe* ]]; then
  said=$(head -n 1 state)
  (($(wc -l < state) > 1)) && sed -i 1d state
  echo "$said" >> looks
  [[ $said == NONE ]] && echo "ERROR: NOT_FOUND: Resource 'lfjax' was not found." >&2 && exit 1
  [[ $said == FAIL ]] && echo "ERROR: UNAVAILABLE: try again." >&2 && exit 1
  echo "Updates are available." >&2
  echo "$said"
  exit
fi
echo "$*" >> asked
case $* in
  *' create '*) [[ -e refuse ]] && rm refuse && exit 1; echo ACTIVE > state ;;
  *' delete '*) echo NONE > state ;;
  *' scp '*) cp "$5" . ;;
  *uv*) ;;
  *) last=${{*: -1}}; HOME={home} bash -c "${{last#--command=}}" ;;
esac
"""
SSH = '#!/usr/bin/env bash\n[[ $2 == *uv* ]] || { cd {home}; HOME={home} bash -c "$2"; }\n'


@pytest.fixture
def home(tmp_path):
    """The folder that stands for the host's, and a checkout of a few files."""
    home = tmp_path / "home"
    for folder in ("home/lfjax", "home/env/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("lfjax/main.py", "lfjax/__pycache__/main.pyc", ".git/x", ".venv/x", "runs/a/x"):
        (tmp_path / "checkout" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / file).write_text("")
    (home / "state").write_text("NONE\n")
    script(tmp_path / "bin" / "gcloud", GCLOUD.format(home=home))
    script(tmp_path / "bin" / "ssh", SSH.replace("{home}", str(home)))
    script(tmp_path / "bin" / "rsync", "#!/bin/sh\n")
    return home


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


def python(home, text):
    """What the host has for its Python."""
    script(home / "env" / "bin" / "python", f"#!/usr/bin/env bash\ncd {home}\n{text}\n")


def launch(home, *args, **env):
    path = f"{home.parent / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [str(ROOT / "launch" / args[0]), *args[1:]],
        cwd=home.parent / "checkout",
        env=dict(ZONE="z", POLL="0.01", PATH=path) | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def tpu_pod(home, **env):
    return launch(home, "tpu_pod.sh", "run", "v6e-16", "--workdir", "/mnt/a b", **env)


def asked(home):
    """What gcloud was told to do, in a word each."""
    words = "create|delete|scp|uv|lfjax.main|tail"
    return [re.search(f" .*?({words})", line)[1] for line in (home / "asked").open()]


ONCE = ["create", "scp", "uv", "lfjax.main"]


@pytest.mark.parametrize("status", [143, 255, 1])
def test_spot_tpus_that_vanish(home, status):
    """Which shows a few looks after the run on them ended, at one of which gcloud cannot say: they
    are given back and asked for again, and the same command is started on the new ones."""
    shown = "ACTIVE\\nFAIL\\nACTIVE\\nSUSPENDED\\n"
    python(home, f"[[ -e again ]] || {{ touch again; printf '{shown}' > state; exit {status}; }}")
    run = tpu_pod(home, SPOT="1")
    assert run.returncode == 0, run.stderr
    assert asked(home) == [*ONCE, "delete", *ONCE]


def test_spot_tpus_that_stay(home):
    """The run failed by itself: it is not started again, and its log is shown."""
    python(home, "echo the reason; exit 1")
    run = tpu_pod(home, SPOT="1")
    assert run.returncode == 1 and "the reason" in run.stderr
    assert asked(home) == [*ONCE, "tail"]
    assert (home / "looks").read_text().split() == ["NONE", "ACTIVE"] + ["ACTIVE"] * 10


def test_spot_tpus_that_are_given_back(home):
    """By `delete` at another terminal: they are not asked for again."""
    python(home, "echo DELETING > state; exit 143")
    assert tpu_pod(home, SPOT="1").returncode == 143
    assert asked(home) == [*ONCE, "tail"]


@pytest.mark.parametrize("spot", ["", "1"])
def test_a_mistake_is_shown(home, spot):
    python(home, "echo 'lfjax: --config: no file'; exit 2")
    run = tpu_pod(home, SPOT=spot)
    assert run.returncode == 2 and "lfjax: --config: no file" in run.stderr
    assert asked(home) == [*ONCE, "tail"]
    assert (home / "looks").read_text().count("ACTIVE") <= 2


def test_a_gcloud_that_fails_at_times(home):
    """What it cannot say is not taken for TPUs that are not there."""
    (home / "state").write_text("FAIL\nNONE\nFAIL\nNONE\n")
    (home / "refuse").touch()
    python(home, "")
    run = tpu_pod(home)
    assert run.returncode == 0, run.stderr
    assert asked(home) == ["create", *ONCE]


def test_a_gcloud_that_always_fails(home):
    (home / "state").write_text("FAIL\n")
    run = tpu_pod(home, SPOT="1")
    assert run.returncode == 1 and "UNAVAILABLE" in run.stderr and "again and again" in run.stderr
    assert not (home / "asked").exists()


def test_what_is_copied(home):
    """No history, environment, runs or caches."""
    python(home, "")
    assert tpu_pod(home).returncode == 0
    with tarfile.open(home / "lfjax.tgz") as packed:
        assert [m.name for m in packed if m.isfile()] == ["./lfjax/main.py"]


@pytest.mark.parametrize("of", ["tpu_pod", "gpu_host"])
def test_a_second_start_leaves_the_log(home, of):
    """It is refused, and says so; the first one's log goes on."""
    python(home, "echo second")
    (home / "lfjax.log").write_text("first\n")
    with (home / "lfjax.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = tpu_pod(home) if of == "tpu_pod" else launch(home, "gpu_host.sh", "me@host", "run")
    assert run.returncode == 2 and "goes on there already" in run.stderr
    assert (home / "lfjax.log").read_text() == "first\n"


@pytest.mark.slow
def test_gpu_host(home):
    """It holds the lock for as long as it runs, after the connection ended."""
    python(home, "echo begun; while [[ ! -e end ]]; do sleep 0.05; done")
    run = launch(home, "gpu_host.sh", "me@host", "run")
    assert run.stdout.split() == ["started", "begun"], run.stderr
    assert launch(home, "gpu_host.sh", "me@host", "run").returncode == 2
    (home / "end").touch()
