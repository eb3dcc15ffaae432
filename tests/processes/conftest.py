"""Several real processes of the real `lfjax.main`, over loopback, on simulated devices."""

import contextlib
import socket
import subprocess
import sys
import time

from tests.conftest import ROOT
from tests.stages.conftest import environment

RECIPE = "tests/processes/recipe.py"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(workdir, *args: str, config: str) -> list[str]:
    door = [sys.executable, "-m", "lfjax.main", "--config", config, "--workdir", str(workdir)]
    return [*door, *args]


class Group:
    """Processes of one run. What they print goes to files beside the workdir, so that none waits
    for a reader."""

    def __init__(self, workdir, count: int, devices: int, *args: str, config: str, own=()):
        port = free_port()
        self.logs, self.processes = [], []
        for i in range(count):
            flags = [f"--cpu_devices={devices}", *args, *(own[i] if own else ())]
            if count > 1:
                where = f"--coordinator=127.0.0.1:{port}"
                flags += [where, f"--processes={count}", f"--process={i}"]
            log = workdir.parent / f"{workdir.name}.{port}.{i}.log"
            self.logs.append(log)
            with log.open("w") as stream:
                self.processes.append(
                    subprocess.Popen(
                        command(workdir, *flags, config=config),
                        cwd=ROOT,
                        env=environment(),
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self, timeout: float = 900) -> list[int]:
        """Statuses of all; none runs any more."""
        end = time.monotonic() + timeout
        try:
            return [p.wait(max(end - time.monotonic(), 0.1)) for p in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def wait_for(self, path, lines: int = 1, timeout: float = 600) -> None:
        """Until a file has so many lines; fails where the run ends before."""
        end = time.monotonic() + timeout
        while not path.is_file() or path.read_text().count("\n") < lines:
            running = all(p.poll() is None for p in self.processes)
            if not running or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"no {lines} lines in {path}: {self.told()}")
            time.sleep(0.01)

    def told(self, index: int | None = None) -> str:
        """What a process printed, or all."""
        if index is not None:
            return self.logs[index].read_text()
        return "\n".join(log.read_text() for log in self.logs)


def run(workdir, count: int, devices: int, *args: str, variant: str) -> Group:
    """A run to its good end."""
    group = Group(workdir, count, devices, *args, config=f"{RECIPE}:{variant}")
    assert group.wait() == [0] * count, group.told()
    return group
