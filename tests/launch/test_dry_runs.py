"""Scripts for machines that are not here: what they say they would run."""

import os
import re
import subprocess

import pytest

from tests.conftest import ROOT

RUN = ["--dry-run", "run"]
FLAGS = ["--config", "c.py:v", "--workdir", "/mnt/a b"]
MAIN = r"lfjax.main --config c.py:v --workdir /mnt/a\ b"


def shown(script, *args, status=0, **env):
    """The lines of a dry run, without one level of the shell's quoting."""
    run = subprocess.run(
        [str(ROOT / "launch" / script), *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stderr
    return re.sub(r"\\(.)", r"\1", run.stdout).splitlines() if status == 0 else run.stderr


@pytest.mark.parametrize("script", ["tpu_pod.sh", "gke.sh", "gpu_host.sh", "local.sh", "slurm.sh"])
def test_help(script):
    help_ = shown(script, "--help", ZONE="z", CLUSTER="c")
    assert any(line.startswith("Needs:") for line in help_)
    assert any("--dry-run" in line for line in help_)


def test_tpu_pod():
    create, pack, copy, setup, main = shown("tpu_pod.sh", *RUN, "v6e-16", *FLAGS, ZONE="z")
    assert create.strip() == (
        "gcloud compute tpus queued-resources create lfjax --zone z --accelerator-type=v6e-16 "
        "--runtime-version=v2-alpha-tpuv6e --node-id=lfjax"
    )
    assert pack.startswith("tar -czf /tmp/lfjax/lfjax.tgz --exclude=.git ")
    assert copy.startswith("gcloud compute tpus tpu-vm scp /tmp/lfjax/lfjax.tgz lfjax:")
    assert ".[tpu]" in setup and MAIN in main and "--worker=all" in main


def test_tpu_pod_of_spot_slices():
    lines = shown("tpu_pod.sh", *RUN, "v5e-16", *FLAGS, ZONE="z", SLICES="2", SPOT="1", NAME="n")
    assert "--accelerator-type=v5litepod-16" in lines[0]
    assert lines[0].split()[-3:] == ["--node-count=2", "--node-prefix=n", "--spot"]
    started = [line.split()[5] for line in lines if MAIN in line]
    assert started == ["n-0", "n-1"]


def test_spot_tpus_that_vanish_are_told_of():
    lines = shown("tpu_pod.sh", *RUN, "v6e-16", *FLAGS, ZONE="z", SPOT="1")
    assert "vanish" in lines[-2] and "queued-resources delete lfjax" in lines[-1]


def test_tpu_pod_is_looked_after():
    assert "tail" in shown("tpu_pod.sh", "--dry-run", "logs", ZONE="z")[0]
    assert "pkill -TERM" in shown("tpu_pod.sh", "--dry-run", "stop", ZONE="z")[0]
    assert "delete lfjax" in shown("tpu_pod.sh", "--dry-run", "delete", ZONE="z")[0]


def test_gke():
    env = dict(CLUSTER="c", IMAGE="r/lfjax")
    build, push, create = shown("gke.sh", *RUN, "v6e-16", *FLAGS, SLICES="2", **env)
    assert "EXTRA=tpu" in build and push.split() == ["docker", "push", "r/lfjax"]
    assert "--tpu-type=v6e-16 --num-slices=2" in create and MAIN in create
    assert "--coordinator" not in create
    v5e = shown("gke.sh", *RUN, "v5e-16", *FLAGS, **env)[-1]
    assert "--tpu-type=v5litepod-16 --num-slices=1" in v5e
    gpus = shown("gke.sh", *RUN, "h200-141gb-8", *FLAGS, SLICES="2", **env)[-1]
    assert "--device-type=h200-141gb-8 --num-nodes=2" in gpus
    assert "--processes $NNODES --process $NODE_RANK" in gpus
    for what, said in dict(logs="kubectl logs", delete="xpk workload delete").items():
        assert said in shown("gke.sh", "--dry-run", what, **env)[0]
    assert (ROOT / "launch" / "Dockerfile").read_text().count("lfjax.main") == 1


def test_gpu_host():
    copy, setup, main = shown("gpu_host.sh", "--dry-run", "me@host", "run", *FLAGS)
    assert copy.startswith("rsync -a") and ".[cuda12]" in setup and MAIN in main
    assert "pkill -TERM" in shown("gpu_host.sh", "--dry-run", "me@host", "stop")[0]


@pytest.mark.parametrize(
    "script, args, env, said",
    [
        ("tpu_pod.sh", ["run", "v6e-16"], {}, "set ZONE"),
        ("tpu_pod.sh", ["run", "h100-8"], {"ZONE": "z"}, "unknown TPU 'h100-8'"),
        ("tpu_pod.sh", ["start"], {"ZONE": "z"}, "unknown 'start'"),
        ("gke.sh", ["run", "v6e-16"], {}, "set CLUSTER"),
        ("gke.sh", ["run", "v6e-16"], {"CLUSTER": "c"}, "set IMAGE"),
        ("gke.sh", ["run", "h100"], {"CLUSTER": "c", "IMAGE": "i"}, "unknown accelerator 'h100'"),
        ("gpu_host.sh", ["me@host", "start"], {}, "unknown 'start'"),
    ],
)
def test_mistakes(script, args, env, said):
    assert said in shown(script, *args, status=2, **env)
