"""TPU chips, and topologies of them that the compiler knows without any being there.

Peak bfloat16 FLOPs, HBM bandwidth and the bandwidth of all links between chips are those of Google
Cloud's pages on TPU v4, v5e, v5p and v6e; what the compiler leaves of the HBM is what it says
itself.

For GPUs there is no compiler here: their programs are compiled for as many chips of a TPU, and what
that says of memory and FLOPs is taken for an estimate. Their numbers are those of NVIDIA's data
sheets, of dense bfloat16 products, and of what comes in over NVLink or PCIe; of the memory JAX and
its libraries are supposed to leave 92 %.
"""

import importlib.util
import os
import re
from dataclasses import dataclass

from lfjax.errors import UserError, nearest

GIB = 2**30
QUIET = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Chip:
    """One device of a topology.

    Attributes:
      flops: a second, of bfloat16 products.
      hbm_bytes: that a program may use.
      hbm_rate: bytes a second.
      link_rate: bytes a second that can come in over all links to other chips together.
      stands_in: for a GPU, the kind of TPU that programs are compiled for; empty for TPUs.
    """

    flops: float
    hbm_bytes: float
    hbm_rate: float
    link_rate: float
    stands_in: str = ""


def _gpu(flops: float, gigabytes: float, hbm_rate: float, link_rate: float) -> Chip:
    return Chip(flops, 0.92e9 * gigabytes, hbm_rate, link_rate, stands_in="v5p")


CHIPS = {
    "v4": Chip(275e12, 30.75 * GIB, 1.228e12, 300e9),
    "v5e": Chip(197e12, 15.75 * GIB, 0.819e12, 200e9),
    "v5p": Chip(459e12, 95.74 * GIB, 2.765e12, 600e9),
    "v6e": Chip(918e12, 31.25 * GIB, 1.640e12, 448e9),
    "a100": _gpu(312e12, 80.0, 2.039e12, 300e9),
    "h100": _gpu(989e12, 80.0, 3.35e12, 450e9),
    "h200": _gpu(989e12, 141.0, 4.8e12, 450e9),
    "l4": _gpu(121e12, 24.0, 0.3e12, 32e9),
    "rtx4090": _gpu(165e12, 24.0, 1.008e12, 32e9),
}
# GPUs -> the smallest topology of v5p with as many chips
STAND_INS = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}


def find_topology(name: str, slices: int = 1):
    """(what a chip can do, devices that programs can be compiled for).

    Args:
      name: chip:AxB or chip:AxBxC, such as v5p:4x4x8; of GPUs their number, such as h100:8.
      slices: how many such, joined by the data centre's network.

    Raises: UserError where there is no such topology, or no compiler for it.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise UserError(f"--topology: unknown chip '{kind}'. {nearest(kind, CHIPS)}")
    chip, count = CHIPS[kind], None
    if chip.stands_in:
        if slices > 1:
            raise UserError(f"--slices={slices}: slices are of TPUs; give the number of all GPUs.")
        if not re.fullmatch(r"[1-9]\d*", shape) or int(shape) > max(STAND_INS):
            raise UserError(
                f"--topology={name}: expected the number of GPUs after the colon, at most "
                f"{max(STAND_INS)}, such as h100:8."
            )
        count = int(shape)
        name = f"{chip.stands_in}:{next(s for n, s in STAND_INS.items() if n >= count)}"
    elif not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--topology={name}: expected chips by side after the colon, such as v5p:4x4x8, "
            "v5e:4x4 or v6e:16x16; of GPUs their number, such as h100:8."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler (libtpu) is not installed. It runs on machines without a TPU, too: "
            'pip install -e ".[tpu]".'
        )
    # It takes no chip: several may compile at once, and it need not ask what machine this is.
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    from jax.errors import JaxRuntimeError
    from jax.experimental.topologies import get_topology_desc

    how = {"num_slices": slices} if slices > 1 else {}
    if kind == "v4":  # its two cores as one device, as in use
        how["chip_config_name"] = "megacore"
    try:
        devices = get_topology_desc(platform="tpu", topology_name=name, **how).devices
    except (JaxRuntimeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--topology={name}: the compiler knows no such one ({str(error).splitlines()[0]}). "
            "v4 and v5p have three sides, v5e and v6e two; sides are multiples of a host's (2x2x1, "
            "2x2)."
        ) from None
    return chip, devices[:count]
