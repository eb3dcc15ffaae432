"""What a compiled program does on one device, read from its text: FLOPs of matrix products and
bytes between devices, bodies of loops counted as often as they run.

`cost_analysis()` counts the body of a loop once, and so a scan over layers as one layer.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

BITS = {"pred": 8, "bf16": 16, "token": 0, "tuple": 0, "opaque": 0}  # others end in their number
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
EITHER = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
# A collective that overlaps with what several fusions compute is written in each of them.
LATER = re.compile(r"async_collective_fusion|async-collective-done")
TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
# TPU kernels of attention -> products of [t, h] and [h, t], half of each left out by the mask
KERNELS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")


class Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    rest: str  # operands and attributes


@dataclass
class Cost:
    """Of one device.

    Attributes:
      flops: of matrix products; a multiply-add counts 2.
      sent: bytes by kind of collective, each the larger of what goes in and what comes out.
      calls: how often each kind runs.
      unknown_loops: loops whose number of rounds is not known before they run; counted as one.
    """

    flops: float = 0.0
    sent: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)
    unknown_loops: int = 0

    def add(self, other: "Cost", times: int = 1) -> None:
        self.flops += times * other.flops
        for own, more in ((self.sent, other.sent), (self.calls, other.calls)):
            for kind, count in more.items():
                own[kind] += times * count
        self.unknown_loops += other.unknown_loops


def cost_of(text: str) -> Cost:
    """The cost of a compiled module. Of the branches of a conditional the dearest counts."""
    computations, entry = _computations(text)

    @cache
    def total(name: str) -> Cost:
        out = Cost()
        shapes = {i.name: i.shape for i in computations[name]}
        for i in computations[name]:
            if i.operation in ("convolution", "dot"):
                out.flops += _product_flops(i, shapes)
            elif i.operation == "custom-call":
                out.flops += _kernel_flops(i, shapes)
            elif match := re.fullmatch(rf"({COLLECTIVES})(?:-start)?", i.operation):
                kind = match[1]
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"  # how TPU programs write one
                came = sum(size(shapes[o]) for o in _operands(i.rest) if o in shapes)
                # The result of a start is a tuple of what goes in and what comes out.
                made = size(i.shape) - (came if i.operation.endswith("-start") else 0)
                out.sent[kind] += max(made, came)
                out.calls[kind] += 1
            elif i.operation.endswith(("-done", "-update")):
                continue  # names again what its start has called
            if i.operation == "conditional":
                branches = [total(b) for b in _branches(i.rest)]
                out.add(max(branches, key=lambda c: c.flops))
                continue
            rounds = 1
            if i.operation == "while":
                found = _rounds(i, computations)
                rounds = found or 1
                out.unknown_loops += found is None
            for called in CALLED.findall(i.rest):
                if LATER.match(called) or LATER.match(i.name):
                    out.flops += total(called).flops
                else:
                    out.add(total(called), rounds)
        return out

    return total(entry)


def size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    total = 0
    for kind, dims in ARRAY.findall(shape):
        digits = re.match(r"[a-z]+(\d+)", kind)
        bits = BITS[kind] if kind in BITS else int(digits[1]) if digits else 0
        total += math.prod(_dims(dims)) * bits // 8
    return total


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions by the name of their computation, and the name of the first to run."""
    out, entry, lines = {}, "", []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            lines = out.setdefault(name, [])
            entry = name if line.startswith("ENTRY ") else entry
        elif match := INSTRUCTION.match(line):
            lines.append(Instruction(*match.groups()))
    return out, entry


def _rounds(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """How often a loop's body runs: as the loop says itself, or, in TPU programs, which do not, as
    its condition and its body do, where they count from 0 up to a constant. None where neither is
    so."""
    if found := TRIPS.search(loop.rest):
        return int(found[1])
    condition, body = (
        computations[re.search(rf"{part}=%?([\w.\-]+)", loop.rest)[1]]
        for part in ("condition", "body")
    )
    last, known = condition[-1], {i.name: i for i in condition}
    sides = [known[name] for name in _operands(last.rest) if name in known]
    limits = [_constant(i) for i in sides if i.operation == "constant"]
    counters = [_index(i) for i in sides if i.operation == "get-tuple-element"]
    if last.operation != "compare" or "direction=LT" not in last.rest or len(limits) != 1:
        return None
    return -(-limits[0] // (_step(body, counters[0]) if counters else 1))


def _step(body: list[Instruction], index: int) -> int:
    """By how much a body raises an element of the tuple that it is given: loops in which products
    and their collectives overlap count by twos. 1 where it does not say so."""
    known = {i.name: i for i in body}
    counter = known.get(list(_operands(body[-1].rest))[index])
    if counter is None or counter.operation != "add":
        return 1
    sides = [known[name] for name in _operands(counter.rest) if name in known]
    return next((_constant(i) for i in sides if i.operation == "constant"), 1)


def _constant(i: Instruction) -> int:
    return int(i.rest.partition(")")[0])


def _index(i: Instruction) -> int:
    return int(re.search(r"index=(\d+)", i.rest)[1])


def _branches(rest: str) -> list[str]:
    several = BRANCHES.search(rest)
    return re.findall(r"[\w.\-]+", several[1]) if several else EITHER.findall(rest)


def _operands(rest: str) -> Iterator[str]:
    """Names between the opening parenthesis, which is not part of `rest`, and its end."""
    depth = 1
    for end, character in enumerate(rest):  # noqa: B007
        depth += (character == "(") - (character == ")")
        if depth == 0:
            break
    yield from re.findall(r"%([\w.\-]+)", rest[:end])


def _dims(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def _product_flops(i: Instruction, shapes: dict[str, str]) -> float:
    """FLOPs of a `dot`, or of a `convolution`, which is what TPU programs make of one."""
    out = _dims(ARRAY.search(i.shape)[2])
    left, right = (_dims(ARRAY.search(shapes[o])[2]) for o in list(_operands(i.rest))[:2])
    if i.operation == "dot":
        summed = _dims(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)[1])
        return 2.0 * math.prod(out) * math.prod(left[d] for d in summed)
    lhs, rhs, result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest).groups()
    window = re.search(r"window=\{(.*?)\}", i.rest)
    pairs = 1
    for axis in range(sum(label.isdigit() for label in lhs)):
        label = str(axis)
        sides = (left[lhs.index(label)], right[rhs.index(label)], out[result.index(label)])
        pairs *= _pairs(*sides, **_of_axis(window[1] if window else "", axis))
    return 2.0 * out[result.index("b")] * out[result.index("f")] * right[rhs.index("i")] * pairs


def _kernel_flops(i: Instruction, shapes: dict[str, str]) -> float:
    """FLOPs of an attention kernel, by its name and the largest array that it reads, [.., t, h] of
    the queries; 0 of any other call."""
    products = next((n for name, n in KERNELS.items() if i.name.startswith(name)), 0)
    if not products:
        return 0.0
    read = (ARRAY.findall(shapes.get(o, "")) for o in _operands(i.rest))
    *heads, t, h = max((_dims(dims) for found in read for _, dims in found), key=math.prod)
    return products * math.prod(heads) * float(t) ** 2 * h


def _of_axis(window: str, axis: int) -> dict[str, int]:
    """The attributes of one axis of a window: `size=4x1 pad=3_3x0_0 …`."""
    found = {
        key: values.split("x")[axis] for key, values in re.findall(r"(\w+)=([\d_x\-]+)", window)
    }
    low = int(found.get("pad", "0_0").split("_")[0])
    rest = {key: int(found.get(key, 1)) for key in ("stride", "lhs_dilate", "rhs_dilate")}
    return {"low": low, **rest}


def _pairs(
    size: int, kernel: int, result: int, *, low: int, stride: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Positions of an axis where an element of the kernel meets one of the input, and not padding:
    batched products are convolutions that mostly meet padding."""
    at = np.arange(result)[:, None] * stride + np.arange(kernel) * rhs_dilate - low
    return int(((at >= 0) & (at <= (size - 1) * lhs_dilate) & (at % lhs_dilate == 0)).sum())
