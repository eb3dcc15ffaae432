"""Where arrays live: the mesh, the rules tables, and placement on it.

A mesh has four axes. `data` replicates the parameters and splits the batch; `fsdp` splits both the
batch and the parameters; `seq` replicates the parameters and splits the tokens of rows, within
attention the heads (DeepSpeed-Ulysses, arXiv 2309.14509); `tensor` splits the parameters along
heads, the MLP and the vocabulary. A rules table is an ordered list (path pattern, PartitionSpec);
the first match wins and an unmatched parameter is an error.
"""

import math
import re
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfjax.errors import UserError

AXES = ("data", "fsdp", "seq", "tensor")
BATCH = ("data", "fsdp")
HEADS = ("tensor", "seq")  # within attention
# Tokens between the parts of a layer, where every one is for itself: what is kept for the backward
# pass is split over `tensor`, too (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2).
STREAM = ("seq", "tensor")

# Kernels under layers/ carry the stacked layer axis first. The optimizer's moments repeat the
# parameters' paths.
TRAIN_RULES = (
    (r"(embed|head)/embedding$", P("tensor", "fsdp")),
    (r"layers/.*/(q|k|v|gate|up)/kernel(/qvalue)?$", P(None, "fsdp", "tensor")),
    (r"layers/.*/(o|down)/kernel(/qvalue)?$", P(None, "tensor", "fsdp")),
    (r"layers/.*/(q|k|v|gate|up)/kernel/scale$", P(None, None, "tensor")),
    (r"layers/.*/(o|down)/kernel/scale$", P(None, None, "fsdp")),
    (r"layers/attn/[qkv]_bias$", P(None, "tensor")),
    (r"layers/.*/(q|k|v|gate|up)/a$", P(None, "fsdp", None)),  # adapters: [layers, in, rank]
    (r"layers/.*/(q|k|v|gate|up)/b$", P(None, None, "tensor")),
    (r"layers/.*/(o|down)/a$", P(None, "tensor", None)),
    (r"layers/.*/(o|down)/b$", P(None, None, "fsdp")),
    (r"norm/scale$", P()),
    (r"score/kernel$", P()),
    (r"(^|/)(step|count)$", P()),
)

# Parameters of `Unrolled`, split along the same dimensions as in training, so that they get there
# without communication. Rows of activations are not split over fsdp, so that products over split
# dimensions are summed and no weight is gathered.
DECODE_RULES = (
    (r"(embed|head)/embedding$", P("tensor", "fsdp")),
    (r"layer_\d+/.*/(q|k|v|gate|up)/kernel$", P("fsdp", "tensor")),
    (r"layer_\d+/.*/(o|down)/kernel$", P("tensor", "fsdp")),
    (r"layer_\d+/attn/[qkv]_bias$", P("tensor")),
    (r"norm/scale$", P()),
)


def make_mesh(shape: dict[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices, or the given ones, from sizes per axis, one of which may be -1 (the
    rest).

    Raises: UserError for an unknown axis, sizes whose product is not the number of devices, or that
    would split parameters over slices of TPUs.
    """
    unknown = set(shape) - set(AXES)
    if unknown:
        raise UserError(f"mesh: unknown axis {sorted(unknown)}; the axes are {', '.join(AXES)}.")
    sizes = [int(shape.get(axis, 1)) for axis in AXES]
    found = jax.device_count() if devices is None else len(devices)
    fixed = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) == 1 and fixed > 0 and found % fixed == 0:
        sizes[sizes.index(-1)] = found // fixed
    if min(sizes) < 1 or math.prod(sizes) != found:
        asked = ", ".join(f"{a}={shape.get(a, 1)}" for a in AXES)
        raise UserError(
            f"mesh: {asked} does not fit the {found} device(s) found. "
            f"The sizes must multiply to {found}; one of them may be -1."
        )
    all_ = jax.devices() if devices is None else devices
    slices = len({getattr(d, "slice_index", 0) for d in all_ if d.platform == "tpu"})
    if slices > 1:
        placed = _over_slices(sizes, slices, all_)
    else:
        placed = create_device_mesh(sizes, all_, allow_split_physical_axes=True)
    # Explicit axes, the default, make gathers along a sharded axis an error.
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _over_slices(sizes: list[int], slices: int, devices) -> np.ndarray:
    """TPUs of several slices, between which only `data` goes: links within a slice are many times
    as fast."""
    data, *rest = sizes
    if data % slices:
        raise UserError(
            f"mesh: there are {slices} slices, and mesh.data={data}; set it to a multiple of "
            f"{slices}, so that parameters are split within a slice and gradients alone cross."
        )
    inner, outer = (data // slices, *rest), (slices,) + (1,) * len(rest)
    return create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)


def host_mesh(shape: dict[str, int]) -> Mesh:
    """A mesh over the devices of this process alone, of the same tensor axis.

    Raises: UserError where that does not divide them.
    """
    own = {"data": 1, "fsdp": -1, "tensor": shape.get("tensor", 1)}
    return make_mesh(own, jax.local_devices())


def path_str(path) -> str:
    """`layers/attn/q/kernel` from a jax key path."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def tree_shardings(tree, mesh: Mesh, rules=TRAIN_RULES):
    """NamedShardings for a tree of arrays or ShapeDtypeStructs.

    Raises: UserError for a leaf that no rule names, or whose dimensions the mesh does not divide.
    """

    def one(path, leaf):
        name = path_str(path)
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), None)
        if spec is None:
            raise UserError(
                f"sharding: no rule matches parameter '{name}' {tuple(leaf.shape)}; add one to "
                "the table."
            )
        for dim, axes in zip(leaf.shape, spec):
            parts = axis_size(mesh, axes)
            if dim % parts:
                raise UserError(
                    f"sharding: '{name}' {tuple(leaf.shape)} has a dimension of {dim}, which "
                    f"{parts} parts "
                    f"(mesh axis {axes}) do not divide; choose a smaller mesh axis."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def axis_size(mesh, axes) -> int:
    """Number of parts along one mesh axis, several, or none."""
    names = (axes,) if isinstance(axes, str) else (axes or ())
    return math.prod(mesh.shape[name] for name in names)


def constrain(x: jax.Array, *axes) -> jax.Array:
    """Pin an intermediate's sharding under `jax.set_mesh`; outside of a mesh, do nothing. What of
    `HEADS` or `STREAM` does not divide a dimension, as with the one token of decoding, is left
    out."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*map(partial(_dividing, mesh), x.shape, axes)))


def _dividing(mesh, dim: int, axes) -> tuple[str, ...] | None:
    """Mesh axes of a dimension; of several that include `seq`, those that divide it."""
    names = (axes,) if isinstance(axes, str) else (axes or ())
    if "seq" in names:
        ways = (names, [n for n in names if n != "seq"], [n for n in names if n != "tensor"], ())
        names = next(way for way in ways if dim % axis_size(mesh, tuple(way)) == 0)
    return tuple(names) or None


def tokens_axis(mesh, tokens: int) -> str | None:
    """`seq` where it divides a row's tokens."""
    return None if tokens % axis_size(mesh, "seq") else "seq"


def put(tree, mesh: Mesh, spec: P):
    """Host arrays, known to every process, onto the mesh; each process copies its own shards
    only."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: on_shards(x, sharding), tree)


def on_shards(x: np.ndarray | np.generic | jax.Array, sharding: NamedSharding) -> jax.Array:
    """One host array, known to every process, as an array of all devices."""
    return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])


def on_host(x: np.ndarray | jax.Array) -> np.ndarray:
    """An array whole, on every process. Those of several processes call this together; it lies
    whole on every device for a moment."""
    if isinstance(x, np.ndarray) or x.is_fully_addressable:
        return np.asarray(jax.device_get(x))
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(x, tiled=True)
