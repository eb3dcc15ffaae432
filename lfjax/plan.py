"""Compile a recipe for a TPU pod that is not here, and say whether it fits
and how fast it could be.

    python -m lfjax.plan --config configs/srt.py:tulu2_70b --topology v5p:4x4x8

No weights and no data are read: model.path is a directory with a config.json, or the hub id of
Llama 2, Tulu 2 or Llama 3. Any value of the config can be set as for lfjax.main; the mesh is the
config's. --stage NAME looks at some stages, --json prints one object instead of the table. Needs
the compiler, libtpu, which runs on CPU machines: pip install -e ".[tpu]". GPUs are estimated, by
what as many chips of a TPU would take: --topology h100:8, a100, h200, l4 or rtx4090. --slices N
takes N such topologies; what goes between them is counted as if it went over a slice's own links,
so that the bound on the time leaves out how much slower the network is.
"""

import json
import os
import sys

from absl import flags

from lfjax.errors import UserError, nearest
from lfjax.main import CONFIG, RERUN, run, start

TOPOLOGY = flags.DEFINE_string("topology", None, "Chips: v5p:4x4x8, v5e:4x4, v6e:4x4, h100:8, …")
SLICES = flags.DEFINE_integer(
    "slices",
    1,
    "Slices of that topology, with --config.mesh.data a multiple of their number. Memory is what a "
    "chip would need; the network between slices is taken to be as fast as links within one.",
    lower_bound=1,
)
STAGE = flags.DEFINE_list("stage", [], "Look at these stages only.")
JSON = flags.DEFINE_boolean("json", False, "Print JSON.")
EXAMPLE = flags.DEFINE_integer(
    "example_tokens",
    0,
    "Tokens of an example with all its views, to know the rows of a batch of so many examples; 0 "
    "for a row's, which is the most that a batch can take.",
    lower_bound=0,
)


def main(argv) -> None:
    on_cpu()
    start(argv)
    if CONFIG.value is None or TOPOLOGY.value is None:
        example = next(line.strip() for line in __doc__.splitlines() if "python -m" in line)
        raise UserError(f"both --config FILE and --topology CHIPS are needed. Example: {example}")
    if RERUN.value:
        raise UserError("--rerun: this runs nothing; that is for lfjax.main.")
    import jax

    from lfjax.planning.chips import find_topology
    from lfjax.planning.measure import measure
    from lfjax.planning.programs import programs_of
    from lfjax.planning.tell import told
    from lfjax.sharding import make_mesh

    jax.config.update("jax_enable_compilation_cache", False)  # compile seconds are told
    config = CONFIG.value
    for name in STAGE.value:
        if name not in config.order:
            raise UserError(f"--stage: no stage '{name}'. {nearest(name, config.order)}")
    chip, devices = find_topology(TOPOLOGY.value, SLICES.value)
    mesh = make_mesh(dict(config.mesh), devices)
    axes = " × ".join(f"{axis} {n}" for axis, n in mesh.shape.items() if n > 1) or "one chip"
    if not JSON.value:
        several = f" × {SLICES.value} slices" * (SLICES.value > 1)
        print(f"{TOPOLOGY.value}{several}: {mesh.size} chips, {axes}", flush=True)
        if chip.stands_in:
            print(f"AN ESTIMATE: compiled for TPU {chip.stands_in}, not for GPUs", flush=True)
    found, left_out = [], {}
    for name in STAGE.value or config.order:
        programs = programs_of(config, name, mesh, EXAMPLE.value)
        count = len(found)
        for program in programs:
            one = measure(program, chip)
            found.append(one)
            if not JSON.value:
                print("\n".join(told(one, chip)), flush=True)
        if len(found) == count:
            left_out[name] = config.stages[name].kind
    if JSON.value:
        whole = {"topology": TOPOLOGY.value, "mesh": dict(mesh.shape), "left_out": left_out}
        whole |= {"slices": SLICES.value, "estimate": bool(chip.stands_in)}
        print(json.dumps(whole | {"programs": [m.to_json(chip) for m in found]}, indent=2))
    elif left_out:
        print("not compiled: " + ", ".join(f"{n} ({kind})" for n, kind in left_out.items()))
    if not all(m.fits for m in found):
        sys.exit(1)


def on_cpu() -> None:
    """Compile on the host's CPU, and leave an accelerator that may be here alone."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")


if __name__ == "__main__":
    run(main)
