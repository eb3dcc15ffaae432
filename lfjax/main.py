"""Run a recipe.

    python -m lfjax.main --config configs/cut.py:tiny --workdir runs/demo

Any value of the config can be set on the command line: --config.data.path=FILE. The same command
continues a run that was stopped; a finished stage is not repeated unless it is named with --rerun.
"""

import re
import sys

from absl import app, flags
from ml_collections import config_flags

from lfjax.errors import UserError, nearest

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: a file of configs/, with :variant.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
RERUN = flags.DEFINE_list("rerun", [], "Stages to do again; what they had written is set aside.")
DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "Simulate this many devices on the CPU, to try a mesh."
)


def main(argv) -> None:
    import jax

    if len(argv) > 1:
        raise UserError(f"unexpected argument '{argv[1]}'; flags begin with --.")
    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError(
            "both --config FILE and --workdir DIR are needed. Example: "
            + __doc__.split("\n")[2].strip()
        )
    if DEVICES.value:
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
    from lfjax.stages.run import run_recipe

    run_recipe(CONFIG.value, WORKDIR.value, tuple(RERUN.value))


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with errors of the config named as a user would look for them."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(argv) or f"--config: {error}") from None
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{error}") from None
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise UserError(f"--config: cannot be read ({error}).") from None


def _unknown_key(argv: list[str]) -> str | None:
    """Which --config.a.b of the command line names no key, and the nearest one."""
    config = flags.FLAGS["config"].value
    for arg in argv:
        match = re.match(r"--config\.([\w.]+)", arg)
        node = config
        for key in match[1].split(".") if match and config is not None else ():
            if not hasattr(node, "keys") or key not in node:
                known = list(node.keys()) if hasattr(node, "keys") else ["(a value, not a group)"]
                return f"--config.{match[1]}: unknown key '{key}'. {nearest(key, known)}"
            node = node[key]
    return None


def run() -> None:
    """The door: a UserError ends the program with its message alone and status 2."""
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        print(f"lfjax: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
