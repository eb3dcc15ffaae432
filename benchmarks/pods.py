"""The table of docs/pods.md: recipes compiled for pods that are not here.

    python benchmarks/pods.py            # all rows of PODS, one after the other
    python benchmarks/pods.py sft_7b     # these alone, the others as they were

Writes docs/pods.json, what was found, and the table between the marks of docs/pods.md. Needs the
TPU compiler (`pip install -e ".[tpu]"`) and some minutes a row.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from lfjax.errors import nearest
from lfjax.planning.chips import GIB

DOCS = Path(__file__).parent.parent / "docs"
FOUND, PAGE = DOCS / "pods.json", DOCS / "pods.md"
BEGIN, END = "<!-- table: benchmarks/pods.py -->", "<!-- end of the table -->"
HEAD = (
    *("what", "chips", "mesh", "program", "batch", "GiB a chip", "of", "executed / model FLOPs"),
    *("ms at the least", "tokens/s a chip at the most", "replicated", "compile s", "command"),
)

SFT, CUT, PIT, SRT = (f"--config=configs/{name}.py:" for name in ("sft", "cut", "pit", "srt"))
AUTHORS = f"{CUT}llama2_13b_chat_online"
LLAMA2_7B = "--config.model.path=meta-llama/Llama-2-7b-hf"
TENSOR_2 = "--config.mesh.tensor=2"  # where there are twice as many chips as rows
# name -> (what, topology, arguments of lfjax.plan)
PODS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "sft_70b": ("SFT, Llama 2 70B", "v5p:4x4x8", (f"{SFT}llama2_70b",)),
    "sft_13b": ("SFT, Llama 2 13B", "v5e:4x4", (f"{SFT}llama2_13b",)),
    "sft_8b": ("SFT, Llama 3 8B", "v6e:4x4", (f"{SFT}llama3_8b",)),
    "sft_7b": ("SFT, Llama 2 7B", "v5p:2x2x2", (f"{SFT}llama2_7b",)),
    "cut_13b_adapters": ("CUT with the authors' adapters, 13B", "v5e:4x4", (AUTHORS, TENSOR_2)),
    "cut_13b": (
        "CUT of all parameters, 13B",
        "v5p:2x2x2",
        (AUTHORS, "--config.stages.cut.lora.rank=0"),
    ),
    "pit_7b": (
        "PIT, Llama 2 7B",
        "v6e:4x4",
        (f"{PIT}hh_7b", LLAMA2_7B, "--stage=improver,gap,easy"),
    ),
    "srt_7b": ("SRT, Tulu 2 7B", "v5p:2x2x2", (f"{SRT}tulu2_7b", "--stage=stage1,stage2")),
    "srt_13b": ("SRT, Tulu 2 13B", "v5p:2x2x4", (f"{SRT}tulu2_13b", "--stage=stage1,stage2")),
    "srt_70b": ("SRT, Tulu 2 70B", "v5p:4x4x8", (f"{SRT}tulu2_70b", "--stage=stage1,stage2")),
    "srt_7b_v6e": (
        "SRT, Tulu 2 7B",
        "v6e:8x8",
        (f"{SRT}tulu2_7b", "--stage=stage1,stage2", TENSOR_2),
    ),
    "srt_13b_v6e": (
        "SRT, Tulu 2 13B",
        "v6e:8x8",
        (f"{SRT}tulu2_13b", "--stage=stage1,stage2", TENSOR_2),
    ),
    "srt_70b_v6e": (
        "SRT, Tulu 2 70B",
        "v6e:8x8",
        (
            f"{SRT}tulu2_70b",
            "--stage=stage1,stage2",
            "--config.stages.stage2.micro_batches=2",  # without them 32.5 GiB
        ),
    ),
    "cut_13b_h100": ("CUT with the authors' adapters, 13B", "h100:1", (AUTHORS,)),
    "cut_13b_nf4": (
        "the same on a base in 4 bits",
        "rtx4090:1",
        (AUTHORS, "--config.stages.cut.lora.base_dtype=nf4", "--config.stages.cut.micro_batches=8"),
    ),
}


def main(names: list[str]) -> None:
    for name in names:
        if name not in PODS:
            sys.exit(f"no row '{name}'. {nearest(name, PODS)}")
    found = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    for name in names or PODS:
        print(name, flush=True)
        found[name] = compiled(name)
        FOUND.write_text(json.dumps(found, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}")


def command(name: str) -> list[str]:
    """The command line of a row, without the interpreter."""
    _, topology, arguments = PODS[name]
    return ["-m", "lfjax.plan", f"--topology={topology}", *arguments]


def compiled(name: str) -> dict[str, Any]:
    """What lfjax.plan says of a row."""
    done = subprocess.run(
        [sys.executable, *command(name), "--json"], stdout=subprocess.PIPE, text=True
    )
    if done.returncode not in (0, 1):  # 1: does not fit, which is said in the table
        sys.exit(f"{name}: lfjax.plan failed.")
    return json.loads(done.stdout)


def table(found: dict[str, Any]) -> str:
    """Rows of all that was found, in the order of PODS."""
    lines = [HEAD, ("---",) * len(HEAD)]
    lines += [row for name in PODS if name in found for row in rows(name, found[name])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(name: str, found: dict[str, Any]) -> list[tuple[str, ...]]:
    """One for each program."""
    what, topology, _ = PODS[name]
    mesh = " × ".join(f"{axis} {n}" for axis, n in found["mesh"].items() if n > 1)
    topology += " (estimate)" * found["estimate"]
    one_chip = math.prod(found["mesh"].values()) == 1  # which nothing can be split over
    out = []
    for p in found["programs"]:
        gib = f"{p['peak_bytes'] / GIB:.2f}"
        if p["argument_bytes"]:
            sizes = (p["argument_bytes"] / GIB, p["temporary_bytes"] / GIB)
            gib += " ({:.2f} + {:.2f})".format(*sizes)
        if p.get("resident"):
            gib += f", {sum(p['resident'].values()) / GIB:.2f} besides"
        measured = ("",) * 3
        if p["seconds"]:
            measured = (
                f"{p['executed_flops'] / p['model_flops']:.2f}",
                f"{1e3 * p['step_seconds']:,.0f}",
                f"{p['tokens_per_second']:,.0f}",
            )
        about = (what, topology, mesh, f"{p['stage']}, {p['program']}", p["about"])
        room = f"{p['hbm_bytes'] / GIB:.2f}" + ("" if p["fits"] else ": does not fit")
        replicated = "–" if one_chip else f"{p['replicated']:.2%}"
        last = (replicated, f"{p['compile_seconds']:.0f}")
        # of all its programs
        shown = "" if out else f"`python {' '.join(command(name))}`"
        out.append((*about, gib, room, *measured, *last, shown))
    return out


if __name__ == "__main__":
    main(sys.argv[1:])
