"""Attention by the kernel of a platform: what `attention` computes, without its loop over blocks.

Causality and segments are all that a row needs: each view of an example is a segment of its own,
prompt included. A window is counted in tokens of a row, which within a segment are its positions.

b rows, t tokens, n heads, k kv heads, h head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from lfjax.errors import UserError, nearest
from lfjax.models.attention import CONTEXT, attention
from lfjax.models.config import ModelConfig
from lfjax.sharding import BATCH, HEADS, axis_size

LANES = 128  # rows are padded to a multiple of it, the least that the kernels take
SPLASH_BLOCK = 512  # queries and keys of one step
TRITON_NEEDS = (8, 0)  # compute capability, NVIDIA's number of a generation: Ampere and newer


@dataclass(frozen=True)
class Kernel:
    """A way to compute attention on one platform.

    Attributes:
      platform: as jax calls it.
      run: (q, k, v, segment, window, scale, softcap, interpret) -> output, rows of `LANES`.
      windows, softcaps: whether it has them.
      capability: the least compute capability of a GPU that it is compiled for.
    """

    platform: str
    run: Callable[..., Array]
    windows: bool
    softcaps: bool
    capability: tuple[int, ...] = ()

    def lacks(self, config: ModelConfig) -> str:
        """What of a model it does not have; empty where it has all."""
        if any(config.windows) and not self.windows:
            return "sliding windows"
        return "soft caps" if config.attn_softcap and not self.softcaps else ""

    @property
    def too_new(self) -> bool:
        """Whether there is a GPU that is older than what it is compiled for."""
        here = oldest() if platform() == self.platform == "gpu" else ()
        return bool(here) and here < self.capability


def splash(q, k, v, segment, window, scale, softcap, interpret) -> Float[Array, "b t n h"]:
    """The TPU kernel that is part of jax; blocks that the mask leaves empty are skipped. Output and
    normaliser can be kept under the name `CONTEXT`."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    t, n = q.shape[1:3]
    mask = masks.CausalMask((t, t))
    if window is not None and window < t:
        mask = masks.LocalMask((t, t), (window - 1, 0), 0)
    block = next(size for size in (SPLASH_BLOCK, 256, LANES) if t % size == 0)
    names = ("q", "kv", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * n),
        block_sizes=kernel.BlockSizes(**{f"block_{name}": block for name in names}),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=CONTEXT,
        interpret=interpret,
    )
    q, k, v = (x.swapaxes(1, 2) for x in (q * scale, k, v))  # heads first
    return jax.vmap(run)(q, k, v, kernel.SegmentIds(segment, segment)).swapaxes(1, 2)


def triton(q, k, v, segment, window, scale, softcap, interpret) -> Float[Array, "b t n h"]:
    """The GPU kernel that is part of jax, which wants as many kv heads as heads."""
    from jax.experimental.pallas.ops.gpu.attention import mha

    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    out = mha(q, k, v, segment, sm_scale=scale, causal=True, interpret=interpret)
    return checkpoint_name(out, CONTEXT)


KERNELS = {
    "splash": Kernel("tpu", splash, windows=True, softcaps=True),
    "triton": Kernel("gpu", triton, windows=False, softcaps=False, capability=TRITON_NEEDS),
}
NAMES = ("auto", "plain", *KERNELS)


def attention_of(name: str, config: ModelConfig) -> Callable[..., Float[Array, "b t n h"]]:
    """What computes a model's attention, called as `attention` is.

    Args:
      name: of `NAMES`. `auto` is the kernel of the platform that is compiled for, if there is one
        that has all the model needs and is made for such devices, or `plain`. A kernel that is
        named runs on a CPU too, interpreted: to try it.

    Raises: UserError for an unknown name, or a kernel that cannot compute this model, or not here.
    """
    if name not in NAMES:
        raise UserError(f"attention: unknown '{name}'. {nearest(name, NAMES)}")
    here, mesh = platform(), jax.sharding.get_abstract_mesh()
    if name == "auto":
        of_here = (k for k in KERNELS.values() if k.platform == here and not k.too_new)
        kernel = next((k for k in of_here if not k.lacks(config)), None)
    else:
        kernel = KERNELS.get(name)
    if kernel is None:
        return attention
    if lack := kernel.lacks(config):
        raise UserError(f"attention={name} has no {lack}, which this model needs; use auto.")
    if here not in (kernel.platform, "cpu"):
        raise UserError(f"attention={name} is for {kernel.platform}, this is {here}; use auto.")
    if kernel.too_new:
        needs, found = (".".join(map(str, c)) for c in (kernel.capability, oldest()))
        raise UserError(
            f"attention={name} needs GPUs of compute capability {needs} or newer, this is {found}; "
            "use auto."
        )
    return partial(
        by_kernel, kernel, mesh, windows=frozenset(config.windows), interpret=here == "cpu"
    )


def platform() -> str:
    """tpu, gpu or cpu: of the mesh that is compiled for, or of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def oldest() -> tuple[int, ...]:
    """The lowest compute capability, as (7, 5), of the GPUs of all processes, so that all compile
    the same; empty where none has such a number, as AMD's."""
    told = [str(getattr(d, "compute_capability", "")).split(".") for d in jax.devices()]
    known = [tuple(map(int, parts)) for parts in told if all(p.isdigit() for p in parts)]
    return min(known, default=())


def by_kernel(
    kernel: Kernel,
    mesh,
    q_btnh: Float[Array, "b t n h"],
    k_btkh: Float[Array, "b t k h"],
    v_btkh: Float[Array, "b t k h"],
    segment_bt: Int[Array, "b t"],
    *,
    windows: frozenset[int],
    interpret: bool,
    window: int | Int[Array, ""] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "b t n h"]:
    """A kernel, under a mesh on each device's rows and heads.

    Args:
      windows: the model's, 0 where a layer has none; `window` is the one of this layer, which the
        kernel has to know when it is compiled.
    """
    rows, heads = (1 if mesh.empty else axis_size(mesh, axes) for axes in (BATCH, HEADS))
    # As when a model is made, of one row, or has fewer heads than the axis has devices.
    if len(q_btnh) % rows or k_btkh.shape[2] % heads:
        return attention(
            q_btnh, k_btkh, v_btkh, segment_bt, window=window, scale=scale, softcap=softcap
        )
    scale = q_btnh.shape[-1] ** -0.5 if scale is None else scale
    t = segment_bt.shape[1]
    tail = ((0, 0), (0, -t % LANES))
    # Padding of the rows' end is a segment of its own, so that every query sees a key.
    segment = jnp.pad(segment_bt, tail, constant_values=-1)
    args = [jnp.pad(x, (*tail, (0, 0), (0, 0))) for x in (q_btnh, k_btkh, v_btkh)]

    def with_window(size: int):
        def local(q, k, v, segment):
            return kernel.run(q, k, v, segment, size or None, scale, softcap, interpret)

        if mesh.empty:
            return local
        of_heads = P(BATCH, None, HEADS, None)
        specs = dict(in_specs=(*[of_heads] * 3, P(BATCH, None)), out_specs=of_heads)
        return jax.shard_map(local, mesh=mesh, check_vma=False, **specs)

    sizes = sorted(windows) or [0]
    if len(sizes) == 1:
        out = with_window(sizes[0])(*args, segment)
    else:  # the layers of one scan differ
        which = jnp.searchsorted(jnp.array([s for s in sizes if s]), window)
        ways = [with_window(s) for s in sizes if s] + [with_window(0)]
        out = lax.switch(which, ways, *args, segment)
    return out[:, :t]
