"""Run a recipe: its stages in order, finished ones skipped, changed ones refused until they are
named."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax

from lfjax.errors import UserError, nearest
from lfjax.sharding import make_mesh
from lfjax.stages import claims, detect, evaluate, gate, generate, improve, judge, make, rl, train
from lfjax.stages import filter as filtering
from lfjax.stages.artifacts import Result, Stage, find_input, hash_path, output_of, provenance
from lfjax.training.logs import write_atomic

# kind -> (run, inputs)
STAGES = {
    "train": (train.train, train.inputs),
    "rl": (rl.rl, rl.inputs),
    "generate": (generate.generate, generate.inputs),
    "judge": (judge.judge, judge.inputs),
    "improve": (improve.improve, improve.inputs),
    "make": (make.make, make.inputs),
    "detect": (detect.detect, detect.inputs),
    "gate": (gate.gate, gate.inputs),
    "claims": (claims.claims, claims.inputs),
    "filter": (filtering.filter_records, filtering.inputs),
    "evaluate": (evaluate.evaluate, evaluate.inputs),
}

# Keys that do not change what a stage computes; they may differ between a start and its resumption.
# Inputs count by their content, not by where they lie.
OPERATIONAL = (
    *("path", "log_every_steps", "keep", "save_steps", "save_epochs", "save_examples"),
    *("blame_steps", "blame_epochs", "blame_examples", "blame_records"),
    *("key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s"),
    *("deadline_s", "prompt_price", "price", "budget"),
)


def run_recipe(config, workdir: str, rerun: tuple[str, ...] = ()) -> None:
    """Run the stages of `config.order` in `workdir`.

    Raises: UserError for a stage that changed since it was started, or that is named wrongly.
    """
    folder = Path(workdir)
    for name in rerun:
        if name not in config.order:
            raise UserError(f"--rerun: no stage '{name}'. {nearest(name, config.order)}")
    mesh = make_mesh(dict(config.mesh))
    for position, name in enumerate(config.order, 1):
        print(f"[{position}/{len(config.order)}] {name}", flush=True)
        stage = _prepare(config, folder, name, mesh)
        if name in rerun and not _under_way(stage):
            _set_aside(folder, name)
        _check_unchanged(stage)
        if (stage.folder / "done.json").is_file():
            print(f"  finished before: {stage.folder / 'done.json'}", flush=True)
            continue
        text = json.dumps(config.to_dict(), indent=2, default=str)
        write_atomic(folder / "config.json", text + "\n")
        begun = time.monotonic()
        with jax.set_mesh(mesh):
            result = STAGES[stage.config.kind][0](stage)
        _finish(stage, result, time.monotonic() - begun)


def _prepare(config, folder: Path, name: str, mesh) -> Stage:
    """The stage with its inputs resolved."""
    own = config.stages[name]
    inputs, hashes = {}, {}
    for role, source in STAGES[own.kind][1](own).items():
        earlier, _, output = source.partition("/")
        if earlier in config.order:
            inputs[role], hashes[role] = output_of(folder, name, earlier, output)
        else:
            inputs[role] = find_input(name, role, source)
            hashes[role] = hash_path(inputs[role])
    seed = own.get("seed", config.seed)  # a stage of its own seed is one of several repetitions
    settings = _without(own.to_dict(), OPERATIONAL)
    identity = {"config": settings, "seed": seed, "inputs": hashes}
    identity = json.loads(json.dumps(identity, default=str))  # as it will be read back
    return Stage(name, folder / name, own, inputs, seed, mesh, identity)


def _under_way(stage: Stage) -> bool:
    """Begun as it is asked for now, and not finished: the same command, --rerun and all, given
    again after an interruption continues."""
    return not (stage.folder / "done.json").is_file() and _begun_as(stage) == stage.identity


def _begun_as(stage: Stage) -> dict[str, Any] | None:
    """The identity with which the stage was begun, if it was."""
    started = stage.folder / "stage.json"
    return json.loads(started.read_text()) if started.is_file() else None


def _check_unchanged(stage: Stage) -> None:
    before = _begun_as(stage)
    if before is None or before == stage.identity:
        return
    old, new = _flat(before), _flat(stage.identity)
    changes = [
        f"  {key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    raise UserError(
        f"stage '{stage.name}' in {stage.folder} was run with another configuration or input:\n"
        + "\n".join(changes)
        + f"\nUse another --workdir, or --rerun {stage.name} to do it again (the old one is kept)."
    )


def _without(tree: Any, keys: tuple[str, ...]) -> Any:
    """A tree of dicts without those keys, and without what is not set."""
    if not isinstance(tree, dict):
        return tree
    kept = {k: v for k, v in tree.items() if k not in keys and v is not None}
    return {k: _without(v, keys) for k, v in kept.items()}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v
        for key, sub in tree.items()
        for k, v in _flat(sub, f"{prefix}.{key}".lstrip(".")).items()
    }


def _set_aside(folder: Path, name: str) -> None:
    """Move a stage's folder out of the way; nothing is deleted."""
    if not (folder / name).exists():
        return
    number = 1
    while (folder / f"{name}.old{number}").exists():
        number += 1
    shutil.move(folder / name, folder / f"{name}.old{number}")
    print(f"  set aside: {folder / f'{name}.old{number}'}", flush=True)


def _finish(stage: Stage, result: Result, seconds: float) -> None:
    """Write done.json, last and atomically. `seconds` are of the last start, where the stage does
    not know those of all its starts."""
    done = {
        "fingerprint": stage.fingerprint,
        "inputs": {
            role: {"path": p, "hash": stage.identity["inputs"][role]}
            for role, p in stage.inputs.items()
        },
        "outputs": {
            name: {"path": path, "hash": hash_path(stage.folder / path)}
            for name, path in result.outputs.items()
        },
        "headline": result.headline,
        "cost": {"seconds": round(seconds, 1), **result.cost},
        "provenance": provenance(),
    }
    write_atomic(stage.folder / "done.json", json.dumps(done, indent=2) + "\n")
    numbers = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.headline.items()
    )
    print(f"  done: {numbers}", flush=True)
