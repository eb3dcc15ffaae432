"""Options of XLA by accelerator: mostly, that what goes over links overlaps with what is computed.

The TPU's are those of Google's recipes for MaxText, the GPU's those of NVIDIA's JAX-Toolbox, as far
as this jaxlib and libtpu know them.
"""

import re

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Options = dict[str, bool | int]

MIB = 2**20
TPU: Options = {
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
}
V5P: Options = TPU | {
    "xla_tpu_megacore_fusion_allow_ags": False,
    "xla_enable_async_collective_permute": True,
    "xla_tpu_enable_ag_backward_pipelining": True,
}
# by the device's kind, or its platform
OPTIONS: dict[str, Options] = {
    "TPU v4": TPU,
    "TPU v5 lite": TPU
    | {
        "xla_tpu_enable_data_parallel_all_reduce_opt": True,
        "xla_tpu_data_parallel_opt_different_sized_ops": True,
    },
    "TPU v5": V5P,
    "TPU v5p": V5P,
    "TPU v6 lite": TPU | {"xla_tpu_scoped_vmem_limit_kib": 98304},
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_enable_pipelined_all_gather": True,
        "xla_gpu_enable_pipelined_reduce_scatter": True,
        "xla_gpu_enable_pipelined_all_reduce": True,
        "xla_gpu_all_gather_combine_threshold_bytes": 128 * MIB,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 64 * MIB,
        "xla_gpu_all_reduce_combine_threshold_bytes": 128 * MIB,
    },
}


def compiler_options(mesh: Mesh) -> Options | None:
    """The options for the devices of a mesh, None where there are none. One that the compiler does
    not know is left out, with a line that says so."""
    device = mesh.devices.flat[0]
    wanted = OPTIONS.get(device.device_kind, OPTIONS.get(device.platform))
    return known(wanted, mesh) if wanted else None


def known(options: Options, mesh: Mesh) -> Options:
    """Those that the compiler takes: it is asked with a program that does nothing."""
    options = dict(options)
    nothing = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
    while options:
        program = jax.jit(lambda x: x, compiler_options=options)
        try:
            program.lower(nothing).compile()
            break
        except JaxRuntimeError as error:
            name = re.search(r"No such compile option: '(\w+)'", str(error))
            if name is None:
                raise
            del options[name[1]]
            print(f"  note: this compiler has no option {name[1]}; left out.", flush=True)
    return options
