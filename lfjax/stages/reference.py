"""The reference pass: log-probabilities of whole responses under the model that training starts
from, as a column of the rows.

The pass goes over the first epoch of the training plan with the training forward, so that at the
first step policy and reference agree to the last bit.   b rows, s segments of a row.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lfjax import processes
from lfjax.data.load import Batches
from lfjax.data.rows import Rows, Unit
from lfjax.losses import segment_sum
from lfjax.sharding import BATCH, put
from lfjax.stages.artifacts import Stage
from lfjax.training.logs import progress, write_atomic
from lfjax.training.step import batch_shardings


def with_reference(
    stage: Stage, parts: dict[str, Batches], logprobs: Callable[..., jax.Array], start
) -> dict[str, Batches]:
    """The batches with `ref_logp` filled in.

    The columns are kept in the stage's folder: a run that continues has no model of the start any
    more.

    Args:
      parts: batches by name.
      logprobs: (trained, rows, frozen) -> log-probability of every target.
      start: () -> (trained, frozen) before the first step; called if the columns are not there.
    """
    file = stage.folder / "reference.safetensors"
    columns = _stored(file, stage.fingerprint)
    if not processes.decide(bool, columns):
        params = start()
        shardings = jax.tree.map(lambda x: x.sharding, params)
        score = make_scorer(stage.mesh, logprobs, shardings)
        columns = {
            name: _columns(stage, f"reference, {name}", batches, score, params)
            for name, batches in parts.items()
        }
        if processes.index() == 0:
            write_atomic(file, save(columns, {"fingerprint": stage.fingerprint}))
    return {name: _filled(batches, columns[name]) for name, batches in parts.items()}


def _stored(file, fingerprint: str) -> dict[str, np.ndarray] | None:
    """Columns of an earlier start of the same stage."""
    try:
        with safe_open(file, "numpy") as found:
            if found.metadata().get("fingerprint") == fingerprint:
                return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        pass
    return None


def make_scorer(mesh, logprobs, shardings):
    """(params, rows) -> sum of the learned log-probabilities of every segment, `[b, s]`."""

    def score(params, rows: Rows):
        logp = jnp.where(rows.weight > 0, logprobs(params[0], rows, params[1]), 0.0)
        return segment_sum(logp, rows.segment, rows.kind.shape[1])

    rows = batch_shardings(Rows.empty(1, 1), mesh)
    return jax.jit(score, in_shardings=(shardings, rows), out_shardings=NamedSharding(mesh, P()))


def _columns(
    stage: Stage, title: str, batches: Batches, score, params: Any
) -> Float[np.ndarray, "u s"]:
    """Per unit, the sums of its segments; zeros for units that no step takes."""
    plan, units = batches.plan, batches.encoded.units
    out = np.zeros((len(units), batches.segments), np.float32)
    steps = min(plan.steps, plan.epoch_steps)
    with progress(title, done=0, total=steps) as bar:
        for step in range(steps):
            sums = np.asarray(score(params, put(batches.rows(step), stage.mesh, P(BATCH))))
            taken = np.zeros(len(sums), int)  # segments of each row that have been read
            part = slice(plan.first[step], plan.first[step + 1])
            for u, row in zip(plan.unit[part], plan.row[part]):
                n = len(units[u].segments)
                out[u, :n] = sums[row, taken[row] : taken[row] + n]
                taken[row] += n
            bar.update(1)
    return out


def _filled(batches: Batches, column: Float[np.ndarray, "u s"]) -> Batches:
    def one(unit: Unit, values) -> Unit:
        parts = (replace(s, ref_logp=float(v)) for s, v in zip(unit.segments, values))
        return Unit(unit.record, tuple(parts))

    units = [one(unit, values) for unit, values in zip(batches.encoded.units, column)]
    return replace(batches, encoded=replace(batches.encoded, units=units))
