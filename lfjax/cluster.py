"""Start-up of several processes: how many they are, which one this is, where process 0 listens.

By flags (`--coordinator HOST:PORT --processes N --process I`), or as Slurm, Open MPI and Cloud TPU
tell it. A program that is started alone stays alone.
"""

import importlib.util
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from itertools import combinations
from pathlib import Path

from lfjax import processes
from lfjax.errors import UserError

HEARTBEAT_SECONDS = 30  # without one, a process counts as dead, and the others end
GOOGLE = "0x1ae0"  # vendor of a PCI device
# what an srun sets, and a batch script alone does not
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class Start:
    """How this process was started among others. jax finds out what is None.

    Attributes:
      by: who said so.
      coordinator: HOST:PORT where process 0 listens.
      count, index: of processes.
      gpus: which of the visible ones are this process's.
    """

    by: str
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    gpus: tuple[int, ...] | None = None


def join(start: Start | None, *, timeout_s: int) -> None:
    """Meet the other processes, before jax starts its devices; alone, do nothing.

    Without them after `timeout_s` the program ends with a message and status 2: jax itself would
    abort.

    Raises: UserError where process 0 cannot listen.
    """
    if start is None:
        return
    if start.index == 0 and start.coordinator:
        _check_free(start.coordinator)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    timer = threading.Timer(timeout_s, _give_up, (start, timeout_s))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            start.coordinator,
            start.count,
            start.index,
            local_device_ids=start.gpus,
            initialization_timeout=timeout_s + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        if start.coordinator is None and start.by == "Cloud TPU":
            return  # a TPU without neighbours
        raise UserError(f"several processes ({start.by}): {error}") from None
    finally:
        timer.cancel()
    if processes.count() > 1:
        processes.watch()


def connect(mesh) -> None:
    """Open the connections between the CPUs of several processes along all axes of a mesh.

    Gloo wants both sides of a new connection within 30 seconds of each other. Later that would be
    luck: one process compiles what another has in its cache. An open one waits for hours.
    """
    import jax
    import jax.numpy as jnp
    from jax.experimental.multihost_utils import sync_global_devices
    from jax.sharding import PartitionSpec as P

    if processes.count() == 1 or jax.default_backend() != "cpu":
        return
    axes = [name for name, size in mesh.shape.items() if size > 1]
    groups = [g for n in range(1, len(axes) + 1) for g in combinations(axes, n)]

    def add():
        return sum((jax.lax.psum(jnp.ones(()), group) for group in groups), jnp.zeros(()))

    mapped = jax.shard_map(add, mesh=mesh, in_specs=(), out_specs=P(), check_vma=False)
    program = jax.jit(mapped).lower().compile()
    processes.gather("compiled")
    jax.block_until_ready(program())
    sync_global_devices("lfjax")  # connections that Orbax uses


def _check_free(address: str) -> None:
    """Raises: UserError where another program listens, at which jax would crash."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            raise UserError(
                f"--coordinator {address}: process 0 cannot listen on its port ({error.strerror}). "
                "Is another run using it? Choose another."
            ) from None


def _give_up(start: Start, timeout_s: int) -> None:
    where = start.coordinator or "process 0"
    if start.index == 0:
        why = f"not all {start.count} processes reached {where}"
    elif start.coordinator and not _listens(start.coordinator):
        why = f"coordinator {where} cannot be reached"
    else:
        why = f"{where} answers, but not all processes have come"
    print(
        f"lfjax: process {start.index}: {why} within {timeout_s} seconds ({start.by}). Process 0 "
        "listens on the coordinator's port; every process is given the same --coordinator and "
        "--processes, and a --process of its own.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def find(
    coordinator: str | None, count: int | None, index: int | None, env: Mapping[str, str]
) -> Start | None:
    """How this process was started: by flags, or else by what an environment says; None where it is
    alone.

    Raises: UserError for flags or an environment that make no sense.
    """
    if count == 1 and index in (None, 0):
        return None
    if (coordinator, count, index) != (None, None, None):
        return _by_flags(coordinator, count, index, env)
    if int(env.get("SLURM_NTASKS", 1)) > 1:
        return _by_slurm(env)
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return _by_mpi(env)
    return Start("Cloud TPU") if _tpu_here(env) else None


def _by_flags(coordinator, count, index, env) -> Start:
    if "OMPI_COMM_WORLD_SIZE" in env:
        count = int(env["OMPI_COMM_WORLD_SIZE"]) if count is None else count
        index = int(env["OMPI_COMM_WORLD_RANK"]) if index is None else index
    flags = {"--coordinator": coordinator, "--processes": count, "--process": index}
    missing = [name for name, value in flags.items() if value is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: --coordinator HOST:PORT, --processes N and "
            "--process I (from 0) go together."
        )
    if not 0 <= index < count:
        raise UserError(f"--process {index}: expected 0 to {count - 1}, with --processes {count}.")
    _check_address(coordinator)
    return Start("flags", coordinator, count, index)


def _check_address(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator {coordinator}: expected HOST:PORT, such as node0:8476.")


def _by_slurm(env: Mapping[str, str]) -> Start:
    """jax reads coordinator, count and index itself; the GPUs, of which it would take one."""
    tasks = int(env["SLURM_NTASKS"])
    if any(name not in env for name in SLURM_STEP):
        raise UserError(
            f"SLURM_NTASKS={tasks}, but this process was not started by srun. Start it with `srun "
            "python -m lfjax.main …`; or with --processes 1, if it is to run alone."
        )
    step = int(env.get("SLURM_STEP_NUM_TASKS", tasks))
    if step != tasks:
        raise UserError(
            f"srun started {step} processes, but SLURM_NTASKS={tasks}. Start as many as the job "
            "has, or ask for another number."
        )
    node = int(env.get("SLURM_NODEID", 0))
    if node and _is_loopback(name := _first_node(env["SLURM_STEP_NODELIST"])):
        raise UserError(
            f"the first node, {name}, is this node itself (127.*) to {socket.gethostname()}, so "
            "process 0 cannot be reached; mend its entry in /etc/hosts, or give --coordinator."
        )
    here = _tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)))[node]
    gpus = _own_gpus(env, here, int(env["SLURM_LOCALID"]))
    return Start("Slurm", count=tasks, index=int(env["SLURM_PROCID"]), gpus=gpus)


def _by_mpi(env: Mapping[str, str]) -> Start:
    size, rank = int(env["OMPI_COMM_WORLD_SIZE"]), int(env["OMPI_COMM_WORLD_RANK"])
    if "OMPI_MCA_orte_hnp_uri" not in env:  # Open MPI 5 has it no more
        raise UserError(
            "this Open MPI does not say where process 0 is; give --coordinator HOST:PORT, the host "
            "of rank 0."
        )
    here, local = int(env["OMPI_COMM_WORLD_LOCAL_SIZE"]), int(env["OMPI_COMM_WORLD_LOCAL_RANK"])
    return Start("Open MPI", count=size, index=rank, gpus=_own_gpus(env, here, local))


def _first_node(nodes: str) -> str:
    """`gpu007` of `gpu[007-012],login`."""
    head = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return head[1] + (head[2] or "")


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


def _tasks_per_node(text: str) -> list[int]:
    """[2, 2, 1] of `2(x2),1`."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in parts for _ in range(int(nodes or 1))]


def _own_gpus(env: Mapping[str, str], tasks: int, local: int) -> tuple[int, ...] | None:
    """An equal part of the visible GPUs for each process of a machine; None without any.

    Raises: UserError where they cannot be shared.
    """
    visible = env.get("CUDA_VISIBLE_DEVICES", "")
    found = len(visible.split(",")) if visible else len(glob("/proc/driver/nvidia/gpus/*"))
    if not found or env.get("JAX_PLATFORMS") == "cpu":
        return None
    if found % tasks:
        raise UserError(
            f"{socket.gethostname()}: {tasks} processes see {found} GPU(s), which cannot be shared "
            "equally. Let all processes of a machine see all its GPUs (--gres=gpu:8, never "
            "--gpus-per-task), and start one process a GPU, or one a machine."
        )
    own = found // tasks
    return tuple(range(local * own, (local + 1) * own))


def _tpu_here(env: Mapping[str, str]) -> bool:
    """Whether to let jax look for a pod. Where there is no TPU it finds none."""
    if env.get("JAX_PLATFORMS") == "cpu" or importlib.util.find_spec("libtpu") is None:
        return False
    vendors = (Path(path) for path in glob("/sys/bus/pci/devices/*/vendor"))
    return any(vendor.read_text().strip() == GOOGLE for vendor in vendors)
