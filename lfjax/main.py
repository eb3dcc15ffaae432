"""Run a recipe.

    python -m lfjax.main --config configs/cut.py:tiny --workdir runs/demo

Any value of the config can be set on the command line: --config.data.path=FILE. The same command
continues a run that was stopped; a finished stage is not repeated unless it is named with --rerun.
"""

import os
import re
import runpy
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from lfjax import cluster, processes
from lfjax.errors import UserError, nearest

MEMORY_LINES = 16  # most that are shown of what jax says where memory ran out
CACHE = Path("~/.cache/lfjax/xla").expanduser()

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: a file of configs/, with :variant.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
RERUN = flags.DEFINE_list("rerun", [], "Stages to do again; what they had written is set aside.")
DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "Simulate this many devices on the CPU, to try a mesh."
)
# Slurm, Open MPI and Cloud TPU say these themselves (docs/processes.md).
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT on which process 0 listens, where several processes take part."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes take part.", 1)
PROCESS = flags.DEFINE_integer("process", None, "Which one of them this is, from 0.", 0)
START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout_s", 300, "Seconds that processes wait for each other at the start.", 1
)


def main(argv) -> None:
    start(argv)
    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError(
            "both --config FILE and --workdir DIR are needed. Example: "
            + __doc__.split("\n")[2].strip()
        )
    if "://" in WORKDIR.value:
        raise UserError(
            f"--workdir {WORKDIR.value}: a bucket cannot be written to directly; mount it on every "
            "host (gcsfuse), and give the folder."
        )
    from lfjax.report.page import write_report
    from lfjax.stages.run import run_recipe

    run_recipe(CONFIG.value, WORKDIR.value, tuple(RERUN.value))
    if processes.index() == 0:
        print(f"report: {write_report(WORKDIR.value)}", flush=True)


def start(argv) -> None:
    """What every door does first: refuse stray arguments, quieten logs, simulate devices, meet the
    other processes, keep what is compiled (JAX_COMPILATION_CACHE_DIR says where)."""
    import jax

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every file at INFO
    if len(argv) > 1:
        raise UserError(f"unexpected argument '{argv[1]}'; flags begin with --.")
    if DEVICES.value:
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
    found = cluster.find(COORDINATOR.value, PROCESSES.value, PROCESS.value, os.environ)
    cluster.join(found, timeout_s=START_TIMEOUT.value)
    if processes.index():  # process 0 alone speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (to the end)
    if processes.count() > 1:
        own, all_ = jax.local_device_count(), jax.device_count()
        print(f"{processes.count()} processes ({found.by}), {all_} devices, {own} of them here")
    if not jax.config.jax_compilation_cache_dir:
        # Stages of a loop, and starts of one run, compile the same programs.
        jax.config.update("jax_compilation_cache_dir", str(CACHE))


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with mistakes in the config told as its user would look for them."""
    spec = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if spec is None and "--config" in argv[:-1]:
        spec = argv[argv.index("--config") + 1]
    if spec is not None and not Path(spec.partition(":")[0]).is_file():
        raise UserError(f"--config: no file '{spec.partition(':')[0]}'. Recipes are in configs/.")
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(argv, spec) or f"--config: {error}") from None
    except (flags.Error, TypeError, ValueError) as error:
        # ml_collections wraps what a config file raises, traceback and all: find the first cause
        chain = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        causes = [e for e in chain if isinstance(e, UserError)]
        raise causes[-1] if causes else UserError(str(error)) from None


def _unknown_key(argv: list[str], spec: str) -> str | None:
    """Which --config.a.b of the command line names no key of the config, and the nearest one."""
    path, _, variant = spec.partition(":")
    get_config = runpy.run_path(path)["get_config"]
    config = get_config(variant) if variant else get_config()
    for arg in argv:
        match = re.match(r"--config\.([\w.]+)", arg)
        node = config
        for key in match[1].split(".") if match else ():
            known = list(node.keys()) if hasattr(node, "keys") else []
            if key not in known:
                return f"--config.{match[1]}: no key '{key}' there. {nearest(key, known)}"
            node = node[key]
    return None


def out_of_memory(error: BaseException) -> str | None:
    """What to say of a program, or an array, that does not fit the devices; None of others."""
    from jax.errors import JaxRuntimeError

    text = str(error)
    # Limits of the network have the same name.
    exhausted = "RESOURCE_EXHAUSTED" in text and re.search("memory|allocat", text, re.IGNORECASE)
    if not (isinstance(error, JaxRuntimeError) and exhausted):
        return None
    frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    own = [f for f in frames if f.startswith(str(Path(__file__).parent))]
    at = f" at {own[-1]}" if own else ""
    # Bytes of a device are hard to read, and a compiler's list of buffers is long.
    said = re.sub(r"(\d{8,}) bytes", lambda m: f"{int(m[1]) / 2**30:.2f} GiB", text)
    return (
        f"out of device memory{at}. What helps: in training, a larger micro_batches, remat=full, a "
        "smaller row_tokens; in drawing, fewer slots, a smaller max_tokens; in both, more devices, "
        "with mesh.fsdp. `python -m lfjax.plan` says before a run what fits. The words of jax:\n"
        + "\n".join(said.splitlines()[:MEMORY_LINES])
    )


def run(door=main) -> None:
    """Open a door: a UserError ends the program with its message alone and status 2, and so does
    too little device memory. What ends one of several processes ends all."""
    try:
        app.run(door, flags_parser=parse_flags)
    except UserError as error:
        from lfjax.data.load import safe  # a message may quote a record

        processes.fail(2, safe(str(error), lines=True))
    except (Exception, KeyboardInterrupt) as error:
        if message := out_of_memory(error):
            processes.fail(2, message)
        if processes.count() == 1:
            raise
        processes.fail_with_traceback(error)


if __name__ == "__main__":
    run()
