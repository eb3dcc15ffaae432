"""What stages that collect answers have in common: whom they ask, the store, and stopping."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfjax.data.load import told
from lfjax.errors import UserError
from lfjax.generation.speaker import Speaker, open_speaker
from lfjax.judges.asking import Asker, Collected, Question, collect
from lfjax.judges.endpoint import Endpoint
from lfjax.judges.model import model_asker
from lfjax.judges.store import Store
from lfjax.stages.artifacts import Stage
from lfjax.training.logs import StopSignal

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

    Raises: UserError where a budget leaves some unasked, or none was answered; SystemExit where the
    run was told to stop. What was answered stays in the store.
    """
    budget = stage.config.endpoint.budget
    with Store(stage.folder.parent / "answers") as store, StopSignal() as stop:
        got = collect(
            questions,
            asker,
            store,
            budget=None if budget < 0 else budget,
            stopped=lambda: bool(stop.asked),
            name=stage.name,
        )
    if stop.asked and got.left:
        print(f"\nstopped with {got.left} answers to go; the same command continues.", flush=True)
        raise SystemExit(128 + stop.asked)
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


def cost_of(got: Collected) -> dict[str, int | float]:
    """For done.json: what was asked in this run, and what all answers of the workdir cost."""
    counts = got.counts
    return {k: counts[k] for k in ("asked", "attempts", "prompt_tokens", "tokens", "cost", "spent")}


def added(cost: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What two collections of a stage cost together; `spent` is of the whole store."""
    return {k: more[k] if k == "spent" else cost[k] + more[k] for k in cost}
