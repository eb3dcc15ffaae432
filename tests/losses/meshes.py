"""Meshes over some of the simulated devices, and the measure in which results are compared."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from lfjax.sharding import AXES

# data, fsdp, tensor; and seq
SHAPES = [
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (1, 1, 2),
    (2, 2, 1),
    (1, 2, 2),
    (2, 1, 2),
    (8, 1, 1),
    (1, 8, 1),
    (1, 1, 8),
    (2, 2, 2),
    (1, 1, 1, 2),
    (1, 2, 2, 2),
    (2, 1, 1, 4),
]


def mesh_of(shape: tuple[int, ...]) -> Mesh:
    """A mesh over the first devices; sizes along data, fsdp, tensor, and perhaps seq."""
    data, fsdp, tensor, seq = (*shape, 1)[:4]
    devices = jax.devices()[: int(np.prod(shape))]
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((data, fsdp, seq, tensor), AXES, axis_types=types, devices=devices)


def difference(found, expected) -> float:
    """The largest norm of a difference among the tensors of two trees, relative to the tensor's
    norm if it has one; NaN where there is any."""

    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0)

    return float(np.max(jax.tree.leaves(jax.tree.map(one, found, expected))))
