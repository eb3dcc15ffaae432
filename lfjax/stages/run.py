"""Run a recipe: its stages in order, finished ones skipped, changed ones refused until they are
named."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax

from lfjax import cluster, processes
from lfjax.errors import UserError, nearest
from lfjax.sharding import host_mesh, make_mesh
from lfjax.stages import (
    claims,
    detect,
    evaluate,
    gaps,
    gate,
    generate,
    improve,
    judge,
    kept,
    make,
    rank,
    rl,
    self_bias,
    train,
)
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
    "gaps": (gaps.gaps, gaps.inputs),
    "rank": (rank.rank, rank.inputs),
    "gate": (gate.gate, gate.inputs),
    "claims": (claims.claims, claims.inputs),
    "self_bias": (self_bias.self_bias, self_bias.inputs),
    "filter": (filtering.filter_records, filtering.inputs),
    "evaluate": (evaluate.evaluate, evaluate.inputs),
}

# Keys that do not change what a stage computes; they may differ between a start and its resumption.
# Inputs count by their content, not by where they lie.
OPERATIONAL = (
    *("path", "log_every_steps", "keep", "save_steps", "save_epochs", "save_examples"),
    *("attention", "compiler_options", "profile_steps", "profile_first_step"),
    *("blame_steps", "blame_epochs", "blame_examples", "blame_records"),
    *("key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s"),
    *("deadline_s", "prompt_price", "price", "budget", "per_host"),
)


def run_recipe(config, workdir: str, rerun: tuple[str, ...] = ()) -> None:
    """Run the stages of `config.order` in `workdir`.

    Raises: UserError for a stage that changed since it was started, or that is named wrongly.
    """
    folder = Path(workdir)
    for name in rerun:
        if name not in config.order:
            raise UserError(f"--rerun: no stage '{name}'. {nearest(name, config.order)}")
    for name in config.order:  # what the last one lacks is said before the first one runs
        _sources(config, name)
    mesh = make_mesh(dict(config.mesh))
    cluster.connect(mesh)
    for position, name in enumerate(config.order, 1):
        print(f"[{position}/{len(config.order)}] {name}", flush=True)
        stage = _prepare(config, folder, name, mesh)
        if processes.decide(_is_finished, config, stage, name in rerun):
            continue
        if "init" in stage.inputs:  # a model, whose shards lie with all processes
            with jax.set_mesh(stage.mesh):
                begun, result = time.monotonic(), STAGES[stage.config.kind][0](stage)
            processes.decide(_finish, stage, result, begun)
        else:
            processes.decide(_alone, stage)


def _prepare(config, folder: Path, name: str, mesh) -> Stage:
    """The stage with its inputs resolved."""
    own, sources = config.stages[name], _sources(config, name)
    inputs = {
        role: find_input(name, role, source)
        for role, source in sources.items()
        if _stage_of(source) not in config.order
    }
    # Process 0 hashes, and looks at what it wrote: on others a shared folder may show it later.
    found = processes.decide(_hashed, config, folder, name, sources, inputs)
    inputs = {role: inputs.get(role) or found["paths"][role] for role in sources}
    if own.get("per_host"):
        mesh = host_mesh(dict(config.mesh))
    seed = own.get("seed", config.seed)  # a stage of its own seed is one of several repetitions
    settings = _without(own.to_dict(), OPERATIONAL)
    identity = {"config": settings, "seed": seed, "inputs": found["hashes"]}
    identity = json.loads(json.dumps(identity, default=str))  # as it will be read back
    return Stage(name, folder / name, own, inputs, seed, mesh, identity)


def _sources(config, name: str) -> dict[str, str]:
    """What a stage reads, by role. Raises: UserError for settings that make no sense."""
    own = config.stages[name]
    try:
        return STAGES[own.kind][1](own)
    except UserError as error:
        raise UserError(f"stage '{name}': {error}") from None


def _stage_of(source: str) -> str:
    """Of `STAGE/OUTPUT`, or `STAGE`."""
    return source.partition("/")[0]


def _hashed(config, folder: Path, name: str, sources, inputs) -> dict[str, dict[str, str]]:
    """Hashes of all inputs, and paths of those that earlier stages wrote."""
    paths, hashes = {}, {}
    for role, source in sources.items():
        earlier, _, output = source.partition("/")
        if earlier in config.order:
            paths[role], hashes[role] = output_of(folder, name, earlier, output)
        else:
            hashes[role] = hash_path(inputs[role])
    return {"paths": paths, "hashes": hashes}


def _is_finished(config, stage: Stage, again: bool) -> bool:
    """Whether there is nothing to do; if there is, the place for it is made.

    Raises: UserError for a stage that changed since it was started.
    """
    folder = stage.folder.parent
    if again and not _under_way(stage):
        _set_aside(folder, stage.name)
    _check_unchanged(stage)
    if (stage.folder / "done.json").is_file():
        print(f"  finished before: {stage.folder / 'done.json'}", flush=True)
        return True
    text = json.dumps(config.to_dict(), indent=2, default=str)
    write_atomic(folder / "config.json", text + "\n")
    if not again and stage.config.get("cached") and kept.take(stage):
        print(f"  taken from {kept.kept_at(stage)}", flush=True)
        return True
    return False


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


def _alone(stage: Stage) -> None:
    """A stage that needs one process."""
    begun = time.monotonic()
    _finish(stage, STAGES[stage.config.kind][0](stage), begun)


def _finish(stage: Stage, result: Result, begun: float) -> None:
    """Write done.json, last and atomically. Its seconds are of the last start, where the stage does
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
        "cost": {"seconds": round(time.monotonic() - begun, 1), **result.cost},
        "provenance": provenance(),
    }
    write_atomic(stage.folder / "done.json", json.dumps(done, indent=2) + "\n")
    numbers = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.headline.items()
    )
    print(f"  done: {numbers}", flush=True)
    if stage.config.get("cached"):
        kept.keep(stage)
