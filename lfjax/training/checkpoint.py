"""Checkpoints: asynchronous, atomic, the last few and the best kept, each with all that is needed
to use it."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy


class Checkpoints:
    """The checkpoints of one stage.

    Attributes:
      keep: how many of the newest are kept.
      best: name of a metric, the lower the better, whose best checkpoint is kept as well; or "".
    """

    def __init__(self, folder: str | Path, *, keep: int, best: str = ""):
        self.best = best
        policy = [preservation_policy.LatestN(keep)]
        if best:
            policy.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda m: -m[best], n=1, keep_checkpoints_without_metrics=False
                )
            )
        self.manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policy),
                # without it the metrics are not written, and a restarted run would not know the
                # best
                best_fn=(lambda m: m[best]) if best else None,
                best_mode="min",
                cleanup_tmp_directories=True,
            ),
            item_names=("state", "meta"),
        )
        # Orbax clears what an interrupted save left in a thread that complains where the program
        # ends meanwhile, as it does over a mistake; there is no public way to wait for it.
        getattr(self.manager, "_maybe_await_cleanup_tmp_directory", lambda: None)()

    def save(
        self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Start to save; `state` may be donated right after. A step that is already there is left
        as it is."""
        if step in self.manager.all_steps():
            return
        metrics = metrics if metrics and self.best in metrics else None
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self.manager.save(step, args=items, metrics=metrics, force=True)

    def wait(self) -> None:
        """Until everything started is on disk."""
        self.manager.wait_until_finished()

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def best_step(self) -> int | None:
        """The step whose metric is lowest; None if no kept step has one."""
        self.wait()
        return self.manager.best_step() if self.best else None

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the state."""
        items = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self.manager.restore(step, args=items)["meta"]

    def restore(self, step: int, state: Any) -> Any:
        """The state of a step, placed like `state` (arrays, or ShapeDtypeStructs with
        shardings)."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(state))
        return self.manager.restore(step, args=items)["state"]

    def close(self) -> None:
        self.wait()
        self.manager.close()
