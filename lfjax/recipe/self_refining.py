"""SRT's stages as blocks (Hu et al. 2024, arXiv 2406.07168; docs/srt.md), each a dict of stages by
their names."""

from typing import Any

from ml_collections import ConfigDict

from lfjax.data.self_refine import stop_of
from lfjax.recipe.blocks import of_stage
from lfjax.recipe.collecting import filter_, generate, judge
from lfjax.recipe.comparing import self_bias
from lfjax.recipe.learning import train

HEADINGS = (stop_of(), stop_of("feedback"))  # an answer ends before its feedback


def self_refinement(
    c: ConfigDict,
    *,
    prompts: ConfigDict,
    init: ConfigDict | str,
    drafter: ConfigDict | str | None = None,
    critic: dict[str, Any],
    examples: tuple[int, int],
    answers: dict[str, Any],
    refining: dict[str, Any],
    stage1: dict[str, Any],
    stage2: dict[str, Any],
    keep: tuple[dict[str, Any], dict[str, Any]],
) -> dict[str, ConfigDict]:
    """The paper's two stages (sections 3.1 and 3.2).

    Args:
      prompts: instructions, from which each stage draws its own.
      init: the first model.
      drafter: who answers in the first stage; the first model if it is None.
      critic: settings of its judge stages.
      examples: instructions of the first and the second stage.
      answers, refining: settings of stages in which the model answers, and judges itself.
      stage1, stage2: of the train stages.
      keep: of the filters' options, for each stage.
    """

    def of(stage):
        return of_stage(c.data, stage)

    first, second = examples
    own = dict(init="stage1", **refining)
    drawn = dict(temperature=0.7, **answers)
    return {
        "drafts": generate(data=prompts, init=drafter or init, examples=first, **drawn),
        "critiques": judge(data=of("drafts"), **critic),
        # The critic scores the refinement afresh, without what it said before.
        "scored": judge(data=of("critiques"), field="refinement", **critic),
        "kept": filter_("refined", data=of("scored"), **keep[0]),
        "stage1": train("srt", data=of("kept"), init=init, **stage1),
        "own_drafts": generate(
            data=prompts,
            init="stage1",
            examples=second,
            first_example=first,
            apart_from="kept",
            stop=HEADINGS,
            **drawn,
        ),
        "own_critiques": judge("self", data=of("own_drafts"), **own),
        "own_scored": judge("self_score", data=of("own_critiques"), field="refinement", **own),
        "pairs": filter_("refined", data=of("own_scored"), **keep[1]),
        "stage2": train("dpo", data=of("pairs"), init="stage1", own_pairs=True, **stage2),
    }


def refined_answers(
    models: tuple[str, ...], tests: ConfigDict, answers: dict[str, Any], **how: Any
) -> dict[str, ConfigDict]:
    """The models' answers to other prompts, refined by their own feedback (section 3.3)."""
    how = dict(asks="self_refine", temperature=0.0, **how, **answers)
    return {f"{m}_answers": generate(data=tests, init=m, **how) for m in models}


def first_and_refined(*models: str, of: str = "answers", **more: Any) -> dict[str, Any]:
    """First and refined answers of models (their stages `MODEL_of`) as systems of an evaluation,
    after some others."""
    out = dict(more)
    for m in models:
        out[f"{m}_first"] = dict(path=f"{m}_{of}", field="response")
        out[m] = dict(path=f"{m}_{of}", field="refinement")
    return out


def reranking(
    c: ConfigDict,
    tests: ConfigDict,
    answers: dict[str, Any],
    refining: dict[str, Any],
    samples: int = 16,
) -> dict[str, ConfigDict]:
    """Instead of refining: of so many answers the one that the model itself scores highest (figure
    4)."""
    drawn = dict(samples=samples, temperature=0.7, stop=HEADINGS, **answers)
    own = dict(init="stage1", **refining)
    return {
        "samples": generate(data=tests, init="stage1", **drawn),
        "samples_scored": judge("self_score", data=of_stage(c.data, "samples"), **own),
        "reranked": filter_("ranked", data=of_stage(c.data, "samples_scored")),
    }


def agreement(
    c: ConfigDict, preferences: ConfigDict, refining: dict[str, Any]
) -> dict[str, ConfigDict]:
    """How often the models score the preferred one of two responses higher, before stage 2 and
    after it (table 5)."""
    out = {"sides": filter_("sides", data=preferences)}
    for model in ("stage1", "stage2"):
        rated = judge("self_score", data=of_stage(c.data, "sides"), init=model, **refining)
        out[f"rated_{model}"] = rated
        out[f"agreement_{model}"] = self_bias(
            data=of_stage(c.data, f"rated_{model}"), among="sides"
        )
    return out
