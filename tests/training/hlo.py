"""What a compiled program sends between devices, and from where."""

import re
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
OPERATIONS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


class Collective(NamedTuple):
    operation: str
    bytes: int  # of the larger side: what goes in or what comes out
    in_loop: bool


def collectives(text: str) -> list[Collective]:
    """All collectives of a compiled module, and whether a loop runs them."""
    computations, loops = {}, set()
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            lines = computations.setdefault(name, [])
        elif line.startswith(" "):
            lines.append(line)
            loops |= set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", line))
    inside, waiting = set(), list(loops)
    while waiting:
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            words = set(re.findall(r"[\w.\-]+", "\n".join(computations[name])))
            waiting += words & computations.keys()
    found = []
    for name, lines in computations.items():
        shapes = dict(
            re.findall(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) [\w\-]+\(", "\n".join(lines), re.M)
        )
        for line in lines:
            match = re.search(rf"= (.*?) ({OPERATIONS})(?:-start)?\((.*?)\)", line)
            if match:
                out, operation, operands = match.groups()
                came = sum(size(shapes[o]) for o in re.findall(r"%([\w.\-]+)", operands))
                found.append(Collective(operation, max(size(out), came), name in inside))
    return found


def size(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    total = 0
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        count = 1
        for n in filter(None, dims.split(",")):
            count *= int(n)
        total += count * BYTES[kind]
    return total
