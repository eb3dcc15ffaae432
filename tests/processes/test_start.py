"""How processes find each other, and what is said where they cannot."""

import time

import pytest

from lfjax.cluster import Start, find
from lfjax.errors import UserError
from tests.processes.conftest import RECIPE, Group, free_port

CONFIG = f"{RECIPE}:together"
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}


def by_env(env, **more):
    return find(None, None, None, env | more)


def test_alone():
    assert by_env({}) is None
    assert find(None, 1, None, SLURM) is None  # asked for
    assert by_env({"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1"}) is None


def test_flags():
    assert find("node0:8476", 2, 1, {}) == Start("flags", "node0:8476", 2, 1)
    assert find("node0:8476", None, None, MPI) == Start("flags", "node0:8476", 2, 1)
    for given, said in (
        (("node0:8476", 2, None), "--process missing"),
        ((None, 2, 0), "--coordinator missing"),
        (("node0:8476", 2, 2), "--process 2: expected 0 to 1"),
        (("node0", 2, 0), "expected HOST:PORT"),
    ):
        with pytest.raises(UserError, match=said):
            find(*given, {})


def test_slurm():
    """GPUs are shared by the processes of a machine, all of them where there is one process."""
    assert by_env(SLURM, JAX_PLATFORMS="cpu") == Start("Slurm", None, 4, 3)
    eight = ",".join(map(str, range(8)))
    assert by_env(SLURM, CUDA_VISIBLE_DEVICES=eight).gpus == (4, 5, 6, 7)
    one = dict(SLURM_NTASKS="2", SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="1(x2)")
    one |= dict(SLURM_LOCALID="0", SLURM_PROCID="1", CUDA_VISIBLE_DEVICES=eight)
    assert by_env(SLURM, **one).gpus == tuple(range(8))


@pytest.mark.parametrize(
    "more, said",
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, "2 processes see 1 GPU"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "srun started 1 processes, but SLURM_NTASKS=4"),
        ({"SLURM_STEP_NODELIST": "localhost,gpu008"}, "localhost, is this node itself"),
    ],
)
def test_slurm_that_makes_no_sense(more, said):
    with pytest.raises(UserError, match=said):
        by_env(SLURM, **more)


def test_slurm_without_srun():
    batch = {k: v for k, v in SLURM.items() if "STEP" not in k}
    with pytest.raises(UserError, match="not started by srun"):
        by_env(batch)


def test_open_mpi():
    assert by_env(MPI, JAX_PLATFORMS="cpu") == Start("Open MPI", None, 2, 1)
    with pytest.raises(UserError, match="give --coordinator"):
        by_env({k: v for k, v in MPI.items() if "uri" not in k})


@pytest.mark.parametrize(
    "process, said", [(1, "cannot be reached within 3 seconds"), (0, "not all 2 processes reached")]
)
def test_nobody_there(tmp_path, process, said):
    """One message, within the time, and no trace of jax's."""
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", f"--process={process}")
    then = time.monotonic()
    group = Group(tmp_path / "w", 1, 1, *where, "--start_timeout_s=3", config=CONFIG)
    assert group.wait(120) == [2] and time.monotonic() - then < 30
    told = group.told(0)
    assert said in told and "Traceback" not in told and "stack trace" not in told


def test_a_taken_port(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        port = s.getsockname()[1]
        where = (f"--coordinator=127.0.0.1:{port}", "--processes=2", "--process=0")
        group = Group(tmp_path / "w", 1, 1, *where, config=CONFIG)
        assert group.wait(120) == [2]
    assert "cannot listen on its port" in group.told(0) and "Traceback" not in group.told(0)


def messages(group):
    assert "Traceback" not in group.told() and "stack trace" not in group.told(), group.told()
    return [line for line in group.told().splitlines() if line.startswith("lfjax: ")]


def test_a_mistake_is_told_once(tmp_path):
    """All make it; process 0 says it; nobody waits for anybody."""
    flags = ("--config.data.path=/nowhere.jsonl",)
    group = Group(tmp_path / "w", 2, 1, *flags, config=CONFIG)
    assert group.wait(300) == [2, 2], group.told()
    (message,) = messages(group)
    assert message.startswith("lfjax: /nowhere.jsonl: no such file")


def test_a_mistake_of_one_ends_all(tmp_path):
    """A file that is not on another host; process 0 says where."""
    own = ((), ("--config.data.path=/nowhere.jsonl",))
    group = Group(tmp_path / "w", 2, 1, config=CONFIG, own=own)
    assert group.wait(300) == [2, 2], group.told()
    (message,) = messages(group)
    assert message.startswith("lfjax: process 1: /nowhere.jsonl: no such file")
    assert message in group.told(0)


def test_other_data_than_process_0(tmp_path):
    """Records that differ between hosts would be learned as neither has them."""
    own = ((), ("--config.data.heldout_examples=3",))
    group = Group(tmp_path / "w", 2, 1, config=CONFIG, own=own)
    assert group.wait(300) == [2, 2], group.told()
    (message,) = messages(group)
    assert "not the same here as on process 0" in message
