"""Compile a program for chips that are not here, and say what it would take: memory, FLOPs,
communication, and the time below which it cannot fall."""

import math
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError

from lfjax.planning.chips import GIB, Chip
from lfjax.planning.hlo import Cost, cost_of
from lfjax.planning.program import Program

# What the compiler says where a program does not fit: before it has placed its arrays, and after.
REFUSED = re.compile(
    r"(?:HLO temporaries \(|Used )([\d.]+)([KMGT]?)\)? "
    r"(?:exceeds available HBM \(|of )([\d.]+)([KMGT]?)"
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Measured:
    """What a program takes; bytes and FLOPs are of one chip.

    Attributes:
      peak_bytes: what is there at one time at the most, arguments included, as the compiler has it;
        it refuses a program by this number, not by arguments and temporaries, which are more.
      parts: of the arguments, by name.
      resident: what else is there meanwhile, by name: not in the peak.
      replicated: share of the parameters' bytes that neither fsdp nor tensor splits; None on one
        chip.
      executed_flops, model_flops: of matrix products, as compiled and as the model needs them.
      unknown_loops: of which nothing says how often they run: counted once.
      seconds: of a call, at the least, by what limits it.
      compile_seconds: of tracing and compiling.
    """

    stage: str
    program: str
    about: str
    fits: bool
    hbm_bytes: float
    peak_bytes: float
    argument_bytes: float = 0.0
    temporary_bytes: float = 0.0
    parts: dict[str, float] | None = None
    resident: dict[str, float] | None = None
    replicated: float | None = None
    executed_flops: float = 0.0
    model_flops: float = 0.0
    collectives: dict[str, dict[str, int]] | None = None
    unknown_loops: int = 0
    seconds: dict[str, float] | None = None
    tokens: float = 0.0
    compile_seconds: float = 0.0
    help: tuple[str, ...] = ()

    @property
    def needed_bytes(self) -> float:
        """The peak, and what is resident besides."""
        return self.peak_bytes + sum((self.resident or {}).values())

    @property
    def step_seconds(self) -> float:
        """At the least: as if computing, memory and links worked side by side."""
        return max(self.seconds.values(), default=0.0) if self.seconds else 0.0

    def to_json(self, chip: Chip) -> dict[str, Any]:
        """All of it, with the estimates that follow."""
        more = {"needed_bytes": self.needed_bytes}
        if self.step_seconds:
            more |= {
                "step_seconds": self.step_seconds,
                "mfu": self.model_flops / (chip.flops * self.step_seconds),
                "tokens_per_second": self.tokens / self.step_seconds,
            }
        return asdict(self) | more


def measure(program: Program, chip: Chip) -> Measured:
    """Compile it and read the result. `tokens` and FLOPs are divided by the number of chips."""
    begun, mesh = time.monotonic(), program.mesh
    chips = mesh.size
    parts = {name: _bytes(tree) for name, tree in program.parts.items() if tree is not None}
    weights = {n: t for n, t in program.parts.items() if "parameters" in n and t is not None}
    known = dict(
        stage=program.stage,
        program=program.name,
        about=program.about,
        parts=parts,
        resident={name: _bytes(tree) for name, tree in program.resident.items()},
        replicated=_replicated(weights) if chips > 1 else None,
        model_flops=program.model_flops / chips,
        tokens=program.tokens / chips,
    )
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            compiled = program.function.lower(*program.args).compile()
    except JaxRuntimeError as error:
        used = REFUSED.search(str(error))
        if used is None:
            raise
        peak, room = (float(used[i]) * UNITS[used[i + 1]] for i in (1, 3))
        took = time.monotonic() - begun
        return Measured(
            fits=False,
            hbm_bytes=room,
            peak_bytes=peak,
            compile_seconds=took,
            help=remedies(program, room),
            **known,
        )
    took = time.monotonic() - begun
    m, cost = compiled.memory_analysis(), cost_of(compiled.as_text())
    extra = m.output_size_in_bytes - m.alias_size_in_bytes
    most = m.argument_size_in_bytes + m.temp_size_in_bytes + extra
    peak = m.peak_memory_in_bytes or most
    fits = peak + sum(known["resident"].values()) <= chip.hbm_bytes
    return Measured(
        fits=fits,
        hbm_bytes=chip.hbm_bytes,
        peak_bytes=float(peak),
        argument_bytes=float(m.argument_size_in_bytes),
        temporary_bytes=float(m.temp_size_in_bytes),
        executed_flops=cost.flops,
        collectives={
            kind: {"calls": cost.calls[kind], "bytes": cost.sent[kind]}
            for kind in sorted(cost.sent)
        },
        unknown_loops=cost.unknown_loops,
        seconds=_roofline(cost, m, chip),
        compile_seconds=took,
        help=() if fits else remedies(program, chip.hbm_bytes),
        **known,
    )


def _roofline(cost: Cost, memory, chip: Chip) -> dict[str, float]:
    """Seconds that computing, HBM and links take at the least. Of the HBM's traffic only the
    arguments and results are known to be there; an all-reduce goes over the links twice."""
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    sent = sum(cost.sent.values()) + cost.sent["all-reduce"]
    return {
        "computing": cost.flops / chip.flops,
        "memory": moved / chip.hbm_rate,
        "links": sent / chip.link_rate,
    }


def remedies(program: Program, room: float) -> tuple[str, ...]:
    """What would make a program, or what is there besides, smaller; the cheapest first."""
    c, mesh, out = program.config, program.mesh, []
    trees = (*program.parts.values(), *program.resident.values())
    arguments = sum(_bytes(t) for t in trees if t is not None)
    if program.name == "train step":
        shards = math.prod(mesh.shape[axis] for axis in ("data", "fsdp"))
        rows = program.parts["batch"].tokens.shape[0] // shards
        if c.dtype != "bfloat16":
            out.append("dtype=bfloat16")
        if c.remat != "full":
            out.append("remat=full")
        if rows > c.micro_batches:
            out.append(f"micro_batches={2 * c.micro_batches} (a chip has {rows} rows)")
        if c.logprob_chunk > 128:
            out.append("logprob_chunk=128")
        if arguments > room / 2 and not c.lora.rank:
            out.append("adapters (lora.rank=16, lora.base_dtype=bfloat16)")
    elif program.name in ("prefill", "decode"):
        dtype = "rollout_dtype" if "rollout_dtype" in c else "dtype"
        if c[dtype] != "bfloat16":
            out.append(f"{dtype}=bfloat16")
        out += ["fewer slots", "a smaller max_tokens"]
    if c.get("kl_dtype", "bfloat16") != "bfloat16":
        out.append("kl_dtype=bfloat16")
    if mesh.shape["data"] > 1:
        out.append("mesh.fsdp instead of mesh.data")
    what = "arguments and what is resident" if program.resident else "arguments"
    return (*out, f"more chips (the {what} alone are {arguments / GIB:.2f} GiB a chip)")


def _bytes(tree) -> float:
    """Of one chip."""
    return float(
        sum(
            math.prod(x.sharding.shard_shape(x.shape)) * _bits(x.dtype) / 8
            for x in jax.tree.leaves(tree)
        )
    )


def _replicated(tree) -> float:
    """Share of the bytes of arrays that neither fsdp nor tensor splits."""
    leaves = jax.tree.leaves(tree)
    whole = [x for x in leaves if math.prod(x.sharding.shard_shape(x.shape)) == x.size]
    total = sum(x.size * _bits(x.dtype) for x in leaves)
    return sum(x.size * _bits(x.dtype) for x in whole) / max(total, 1)


def _bits(dtype) -> int:
    """Of an element; those of 4 bits are stored two a byte."""
    small = jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits
    return small or 8 * dtype.itemsize
