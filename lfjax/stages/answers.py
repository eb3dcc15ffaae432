"""What stages that collect answers have in common: whom they ask, the store, and stopping."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lfjax import processes
from lfjax.data.load import told
from lfjax.errors import UserError
from lfjax.generation.engine import whole_slots
from lfjax.generation.speaker import Speaker, open_speaker
from lfjax.judges.asking import (
    Answer,
    Asker,
    Collected,
    Question,
    answered,
    collect,
    recall,
    share,
)
from lfjax.judges.endpoint import Endpoint
from lfjax.judges.model import model_asker
from lfjax.judges.store import Store
from lfjax.processes import StopSignal
from lfjax.stages.artifacts import Stage, digest

LIMITS = ("budget",)  # of an endpoint's settings, what is not the client's


def asker_inputs(config) -> dict[str, str]:
    """The model directory, or the stage that wrote it, unless an endpoint is asked."""
    if config.endpoint.url:
        return {}
    init = config.init if isinstance(config.init, str) else config.init.path
    if not init:
        raise UserError(
            "nobody to ask: give a model directory or a hub id, --config.model.path=DIR, or the "
            "URL of a served model (endpoint.url)."
        )
    return {"init": init}


def open_asker(stage: Stage, template: str, judgment: str | None = None) -> Asker:
    """The endpoint of a stage's config, or its model, read onto the mesh.

    Args:
      template: as in a data block.
      judgment: shown to a local model before it answers.

    Raises: UserError for settings that make no sense.
    """
    c = stage.config
    if c.endpoint.url:
        if judgment:
            raise UserError("a judgment can be shown to a local model only, not to an endpoint.")
        return _endpoint(c, c.sampling.to_dict(), stage.seed).asker
    return local_asker(stage, open_local(stage, template), judgment=judgment)


def open_local(stage: Stage, template: str) -> Speaker:
    """The model of a stage's config, read onto the mesh.

    Raises: UserError for a directory, template or sizes that make no sense, and where an endpoint
    is named: only a local model goes on with a turn that has begun.
    """
    c = stage.config
    if c.endpoint.url:
        raise UserError(
            f"stage '{stage.name}': self-refinement begins the model's turn for it, which servers "
            "do not do alike; give a model directory, and leave endpoint.url empty."
        )
    sizes = dict(dtype=c.dtype, slots=c.slots, max_tokens=c.max_tokens)
    return open_speaker(stage.inputs["init"], stage.mesh, template=template, **sizes)


def local_asker(stage: Stage, speaker: Speaker, **changed: Any) -> Asker:
    """An asker of a stage's model, by the stage's settings unless they are changed (fields of
    `model_asker`)."""
    c = stage.config
    given = dict(sampling=c.sampling.to_dict(), max_new_tokens=c.max_new_tokens, stop=tuple(c.stop))
    return model_asker(
        speaker,
        name=model_name(stage.inputs["init"], stage.folder.parent),
        weights=stage.identity["inputs"]["init"],
        dtype=c.dtype,
        seed=stage.seed,
        **{**given, **changed},
    )


def _endpoint(c, rules: dict, seed: int) -> Endpoint:
    """The settings of a config as the fields of a request. Rules at their defaults are left to the
    server; those that OpenAI's do not know are sent as vLLM knows them."""
    settings = {k: v for k, v in c.endpoint.to_dict().items() if k not in LIMITS}
    drawn = {"temperature": rules.pop("temperature"), "max_tokens": c.max_new_tokens}
    off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    drawn |= {k: v for k, v in rules.items() if v != off[k]}
    if c.stop:
        drawn["stop"] = list(c.stop)
    if drawn["temperature"]:
        drawn["seed"] = seed
    return Endpoint(**settings, parameters=drawn)


def model_name(path: str, workdir: Path) -> str:
    """What records call a model: a stage by its name, another directory by its own."""
    folder = Path(path)
    if folder.name == "hf" and folder.parent.parent == workdir:
        return folder.parent.name
    return folder.name


def collected(stage: Stage, questions: Sequence[Question], asker: Asker) -> Collected:
    """All answers, through the workdir's store.

    Of several processes, process 0 asks an endpoint; a model over all of them is asked by all
    together, and process 0 writes; where each has one of its own (`per_host`), each asks a share
    of the questions and writes its part. All return the same.

    Raises: UserError where a budget leaves some unasked, or none was answered; SystemExit where the
    run was told to stop. What was answered stays in the store.
    """
    budget, folder = stage.config.endpoint.budget, stage.folder.parent / "store"
    count, me = processes.count(), processes.index()
    local = not stage.config.endpoint.url
    together = count > 1 and local and stage.mesh.is_multi_process
    apart = count > 1 and not together
    with Store(folder, process=me, keep=not together or me == 0) as store, StopSignal() as stop:
        before = answered(store, asker, questions)
        if together:
            processes.check_same(lambda: digest(sorted(before)), f"the answers in {folder}")
        if apart:
            processes.gather(len(before))  # nobody writes before all have read
        own = questions
        if apart:
            parts = count if local else 1  # an endpoint is asked by process 0
            own = share(questions, asker, me, parts) if me < parts else []
        got = collect(
            own,
            asker,
            store,
            budget=None if budget < 0 else budget,
            stopped=lambda: not together and bool(stop.anywhere()),
            leave=_leave(stop, stage, together) if local else lambda answer: False,
            name=stage.name,
        )
    left, number = got.left, stop.obeyed or stop.asked
    if apart:
        said = processes.gather([left, number])
        left, number = sum(n for n, _ in said), max(n for _, n in said)
    if number and left:
        print(f"\nstopped with {left} answers to go; the same command continues.", flush=True)
        raise SystemExit(128 + number)
    if apart:
        with Store(folder, process=me, keep=False) as store:
            got = recall(questions, asker, before, store)
    if got.left:
        raise UserError(
            f"stage '{stage.name}': endpoint.budget={budget:g} is spent ({got.spent:.4g}); "
            f"{got.left} of {len(questions)} questions were not asked. Raise it, and the same "
            "command goes on with what is stored."
        )
    if got.missing:
        print(f"  without an answer: {told(got.missing)}", flush=True)
    if questions and not any(a.text for a in got.answers):
        raise UserError(
            f"stage '{stage.name}': not one of {len(questions)} questions was answered "
            f"({told(got.missing)})."
        )
    return got


def _leave(stop: StopSignal, stage: Stage, together: bool) -> Callable[[Answer], bool]:
    """Whether to give up what a local model is answering."""
    if not together:
        return lambda answer: bool(stop.anywhere())
    slots, drawn = whole_slots(stage.config.slots, stage.mesh), itertools.count(1)

    def leave(answer: Answer) -> bool:
        # Answers that took no device do not count: in them processes may be far apart. In others by
        # what two calls of decode end.
        return bool(answer.tokens and stop.after(next(drawn), ahead=2 * slots + 1))

    return leave


def cost_of(got: Collected) -> dict[str, int | float]:
    """For done.json: what was asked in this run, and what all answers of the workdir cost."""
    counts = got.counts
    return {k: counts[k] for k in ("asked", "attempts", "prompt_tokens", "tokens", "cost", "spent")}


def total_cost(costs: Sequence[dict[str, Any]]) -> dict[str, int | float]:
    """Of several collections of a stage: what was asked adds up, what the store holds is the last
    one's."""
    return {k: costs[-1][k] if k == "spent" else sum(c[k] for c in costs) for k in costs[0]}
