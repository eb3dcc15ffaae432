"""`launch/slurm.sh` under a real Slurm of one node, where its programs are installed (slurm-wlm,
munge) and may be started (root)."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.stages.conftest import environment

SCRIPT = str(ROOT / "launch" / "slurm.sh")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SwitchType=switch/none
MpiDefault=none
KillWait=120
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    found = [socket.socket() for _ in range(count)]
    for s in found:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in found]
    for s in found:
        s.close()
    return ports


@pytest.fixture
def slurm():
    """The environment of commands to a Slurm of this machine's own."""
    missing = [p for p in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(p)]
    if missing or os.geteuid():
        pytest.skip(f"a Slurm cannot be started: {', '.join(missing) or 'not root'}")
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are hidden from munge's user
        folder = Path(name)
        for part in ("state", "spool", "munge"):
            (folder / part).mkdir()
        (folder / "munge" / "key").write_bytes(os.urandom(1024))
        (folder / "munge" / "key").chmod(0o600)
        folder.chmod(0o755)
        for path in (folder / "munge", folder / "munge" / "key"):
            shutil.chown(path, "munge", "munge")
        host = socket.gethostname().partition(".")[0]
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, folder=folder, ports=free_ports(2)))
        env = environment() | {"SLURM_CONF": str(conf)}
        where = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        flags = [f"--{k}={folder}/munge/{v}" for k, v in where.items()]
        munged = ["runuser", "-u", "munge", "--", "munged", "--force", *flags]
        subprocess.run([*munged, f"--seed-file={folder}/munge/seed"], check=True)
        for daemon in (["slurmctld", "-c"], ["slurmd"]):
            subprocess.run(daemon, env=env, check=True)
        try:
            yield env
        finally:
            for pid in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
                if (folder / pid).is_file():
                    os.kill(int((folder / pid).read_text()), 15)
            time.sleep(1)


def test_dry_run():
    run = subprocess.run(
        [SCRIPT, "--dry-run", "--workdir", "a b"],
        env=os.environ | {"PYTHON": "python"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = r"srun --kill-on-bad-exit=1 python -u -m lfjax.main --workdir a\ b"
    assert run.stdout.strip() == expected


def test_outside_of_a_job():
    env = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
    run = subprocess.run([SCRIPT, "--workdir", "w"], env=env, capture_output=True, text=True)
    assert run.returncode == 2 and "submit it with sbatch" in run.stderr


@pytest.mark.slow
def test_trains_is_cancelled_and_resumes(slurm, tmp_path):
    """Two tasks; scancel saves on both; the same sbatch goes on from there."""
    env = slurm | {"PYTHON": str(ROOT / ".venv" / "bin" / "python")}
    flags = ["--cpu_devices=1", "--config=tests/processes/recipe.py:adapters"]
    flags += ["--config.stages.cut.save_steps=1000", f"--workdir={tmp_path}/w"]

    def ask(*command):
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
        ).stdout

    def run(log, until):
        """A job, until it prints something, or ends."""
        job = ask("sbatch", "--parsable", "--ntasks=2", f"--output={log}", SCRIPT, *flags).strip()
        end = time.monotonic() + 900
        while ask("squeue", "-h", "-j", job).strip() and time.monotonic() < end:
            if log.is_file() and until(log):
                ask("scancel", job)
                until = lambda log: False  # noqa: E731 (cancelled; now wait)
            time.sleep(0.5)
        return log.read_text()

    metrics = tmp_path / "w" / "cut" / "metrics.jsonl"
    first = run(tmp_path / "one", lambda log: metrics.is_file() and metrics.read_text())
    assert "2 processes (Slurm), 2 devices, 1 of them here" in first
    step = re.search(r"stopped after step (\d+)", first)[1]
    second = run(tmp_path / "two", lambda log: False)
    assert f"continuing after step {step} of 16" in second and "done: steps 16" in second
    assert (tmp_path / "w" / "cut" / "done.json").is_file()
