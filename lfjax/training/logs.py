"""What a run says of itself: `metrics.jsonl`, TensorBoard events, and one live line on the
terminal."""

import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from lfjax import processes


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file that is there whole or not at all. Process 0 does; all may call this."""
    if processes.index():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.writing")
    with open(part, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _summary_writer():
    """tensorboardX's SummaryWriter, imported without torch, which it would load wherever it is."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return SummaryWriter


class MetricLog:
    """`metrics.jsonl`, one object a step, and TensorBoard events.

    On resume, lines after the restored step, and a torn last line, are cut: those steps are about
    to be repeated. Process 0 writes; on others nothing happens.
    """

    def __init__(self, folder: str | Path, *, resume_step: int):
        self.writes = processes.index() == 0
        self.path = Path(folder) / "metrics.jsonl"
        if not self.writes:
            return
        SummaryWriter = _summary_writer()
        kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
        write_atomic(self.path, "".join(line + "\n" for line in kept))
        self.stream = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.events = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=resume_step + 1)

    def _lines(self):
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                json.loads(line)
            except json.JSONDecodeError:
                return
            yield line

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self.writes:
            return
        self.stream.write(json.dumps({"step": step, **values}) + "\n")
        self.stream.flush()
        for name, value in values.items():
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        if not self.writes:
            return
        self.stream.close()
        self.events.close()


def progress(name: str, *, done: int, total: int, unit: str = "step") -> tqdm:
    """The live line of process 0: step of steps, time left, and whatever `set_postfix` gives it.

    Where nobody watches (no terminal), a line every ten seconds.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit=unit,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
        disable=processes.index() > 0,
    )
