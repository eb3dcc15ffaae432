"""A window of steps in which jax's profiler looks on."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from lfjax.errors import UserError


class Profile:
    """Called before every step, profiles steps first, …, first + count - 1; nothing if count is 0.

    Each process writes a trace for TensorBoard, XProf or Perfetto. A window that the run ends in is
    written too.
    """

    def __init__(self, folder: Path, first: int, count: int):
        """Raises: UserError for a window that makes no sense."""
        if first < 1 or count < 0:
            raise UserError(
                f"profile_first_step={first}, profile_steps={count}: expected a step from 1 and a "
                "number of steps, 0 for none."
            )
        self.folder, self.first, self.count = folder, first, count
        self.running = False

    def __call__(self, step: int, state: Any) -> None:
        """Args: state: what the step before made, which is waited for at the window's borders."""
        if self.running and step == self.first + self.count:
            self.stop(state)
        elif self.count and step == self.first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self.folder)
            self.running = True

    def stop(self, state: Any = None) -> None:
        """End the window, if it is open."""
        if self.running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.running = False
            print(f"\n  profile of the steps from {self.first}: {self.folder}", flush=True)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
