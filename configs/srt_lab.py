"""SRT in the ledger, a small world whose oracle is the critic: docs/lab.md, docs/srt.md.

    python -m lfjax.main --config configs/srt_lab.py --workdir runs/srt

Both stages, what they come to, and the gate. Minutes on two CPU cores.

lab             the above
lab_ablations   and models that learn without one part of the feedback each (table 6)
lab_controls    and models whose feedback is a score alone, or another answer's; plain SFT on
                refinements of the model's own, and on the best of four answers; and a second stage
                of which only pairs of different scores are shown
lab_scaling     and models of both stages that learn from a tenth and from half of the examples
                (figure 5)
lab_scores      and models that learn from refinements of one score each (figure 6)
lab_again       and refinements of refinements, by the critic and by the model (table 2)
lab_smoke       the first with next to no data, for tests
"""

from typing import Any

from ml_collections import ConfigDict

from lfjax.errors import UserError, nearest
from lfjax.recipe import (
    base,
    evaluate,
    filter_,
    gate,
    generate,
    judge,
    make,
    of_stage,
    recipe,
    self_bias,
    train,
)
from lfjax.recipe.self_refining import (
    agreement,
    first_and_refined,
    refined_answers,
    reranking,
    self_refinement,
)

CRITIC = dict(judge="rule", rule="lfjax.lab.making:critic")
SHORT = dict(max_new_tokens=16, max_tokens=128, slots=128)
LONG = dict(max_new_tokens=64, max_tokens=192, slots=128)
BOTH = dict(SHORT, max_tokens=192, refine_tokens=64)  # an answer, feedback and refinement
ROWS = dict(row_tokens=320, remat="none", save_steps=0, save_epochs=1.0)
PACKED = dict(ROWS, batch_examples=0, batch_rows=2, max_tokens=160)
LESSONS = ("comparisons", "totals", "exercises")  # before the pretraining proper
EPOCHS = 5.0
LEARNED = dict(learning_rate=2e-3, total_epochs=EPOCHS, warmup_fraction=0.1)
PREFERRED = dict(learning_rate=3e-5, beta=0.1, warmup_fraction=0.1, batch_examples=32)
PREFERRED |= dict(max_tokens=160, terminator="feedback_header")
# A perfect answer has no better one, and its score has to be learned, too.
KEPT = dict(ties="keep", unchanged="keep")
BUCKET = 0.03  # of the first stage's prompts, in each arm of refinements of one score: few are 7

# Other models of the first stage: what is left out of their text (LEAVE_OUT), or of their data,
# which they go over so much more often, to learn for as many steps; whether critiques are shuffled
# among the answers; whether they learn from what stage 1 has refined itself (as many epochs of it),
# or instead from the best of several answers, by the critic's score.
ARMS: dict[str, dict[str, Any]] = {
    "no_feedback": dict(leave_out="feedback"),
    "refinements_only": dict(leave_out="draft"),  # plain SFT
    "no_score": dict(leave_out="score"),
    "no_suggestions": dict(leave_out="suggestions"),
    "no_weaknesses": dict(leave_out="weaknesses"),
    "score_only": dict(leave_out="words"),
    "shuffled": dict(shuffled=True),
    "own_refinements": dict(leave_out="draft", data="pairs"),
    "best_drafts": dict(best_of=4),
    "few": dict(share=0.1),
    "half": dict(share=0.5),
    "score7": dict(share=BUCKET, scores=(7.0,)),
    "score10": dict(share=BUCKET, scores=(10.0,)),
}
ALWAYS_ARMS = ("no_feedback", "refinements_only")
# The sides of a pair may score the same (the paper's rule 2): a model that has not learned to score
# makes hardly any other pairs, two of 600 in one world.
PAIRED = dict(ties="keep")
# Other models of the second stage: options of their pairs' filter.
SECOND_ARMS: dict[str, dict[str, Any]] = {
    "stage2_strict": dict(ties="drop"),
    "stage2_few": dict(share=0.1),
    "stage2_half": dict(share=0.5),
}


def get_config(arg="lab"):
    if arg not in VARIANTS:
        raise UserError(f"configs/srt_lab.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def first_config() -> ConfigDict:
    """The blocks of model and data that all stages start from."""
    c = base(source="records", path="world/pretraining", model_path="world/model")
    c.model.weights = "random"
    c.data.template = "own"
    return c


def pretrained(c: ConfigDict, quick: dict[str, Any], **sizes: Any) -> dict[str, ConfigDict]:
    """The world and its base model, after its lessons."""
    how = PACKED | dict(learning_rate=3e-3, b2=0.99, warmup_steps=50) | quick
    stages, init = {"world": make("lfjax.lab.making:ledger", **sizes)}, c.model
    for name in LESSONS:
        data = of_stage(c.data, f"world/{name}")
        stages[name] = train("sft", data=data, init=init, **how)
        init = name
    return stages | {"base": train("sft", data=c.data, init=init, **how)}


def arm(
    c: ConfigDict,
    name: str,
    tests: ConfigDict,
    first: int,
    *,
    data: str = "kept",
    leave_out: str = "",
    share: float = 1.0,
    scores: tuple[float, ...] = (),
    shuffled: bool = False,
    best_of: int = 0,
    **settings: Any,
) -> dict[str, ConfigDict]:
    """Another model of the first stage, and its answers to the tests.

    Args:
      first: prompts of the first stage.
      data, leave_out, share, scores, shuffled, best_of: as in `ARMS`.
      settings: of the train stage.
    """
    stages = {}
    if best_of:
        data = f"{name}_kept"
        stages |= best_drafts(c, name, best_of, first)
    elif shuffled:
        data = f"{name}_kept"
        stages[data] = filter_("shuffled", data=of_stage(c.data, "kept"))
    elif share < 1:
        data = f"{name}_kept"
        few = dict(KEPT, scores=scores, at_most=int(share * first))
        stages[data] = filter_("refined", data=of_stage(c.data, "scored"), **few)
    settings = PACKED | LEARNED | settings
    for length in ("total_epochs", "save_epochs"):
        settings[length] = settings[length] / share
    learned = dict(settings, data=of_stage(c.data, data), init="base")
    stages[name] = (
        train("sft", **learned) if best_of else train("srt", leave_out=leave_out, **learned)
    )
    if best_of or leave_out == "draft":
        plain = generate(data=tests, init=name, temperature=0.0, **SHORT)
        return {**stages, f"{name}_answers": plain}
    return stages | refined_answers((name,), tests, BOTH, leave_out=leave_out)


def best_drafts(c: ConfigDict, name: str, samples: int, first: int) -> dict[str, ConfigDict]:
    """To each prompt of the first stage the one of several answers that the critic scores highest;
    the last stage is `NAME_kept`."""
    drawn = dict(examples=first, samples=samples, temperature=0.7, **SHORT)
    return {
        f"{name}_samples": generate(data=of_stage(c.data, "world/prompts"), init="base", **drawn),
        f"{name}_scored": judge(data=of_stage(c.data, f"{name}_samples"), **CRITIC),
        f"{name}_kept": filter_("ranked", data=of_stage(c.data, f"{name}_scored")),
    }


def second_arm(
    c: ConfigDict, name: str, tests: ConfigDict, pairs: dict[str, Any], **settings: Any
) -> dict[str, ConfigDict]:
    """Another model of the second stage, and its answers to the tests.

    Args:
      pairs: as in `SECOND_ARMS`; none for those of stage 2.
      settings: of the train stage.
    """
    data, stages = "pairs", {}
    if pairs:
        data = f"{name}_kept"
        stages[data] = filter_("refined", data=of_stage(c.data, "own_scored"), **PAIRED | pairs)
    settings = ROWS | PREFERRED | dict(total_epochs=1.0) | settings
    for length in ("total_epochs", "save_epochs"):
        settings[length] = settings[length] / pairs.get("share", 1.0)
    learned = dict(settings, data=of_stage(c.data, data), init="stage1", own_pairs=True)
    stages[name] = train("dpo", **learned)
    return stages | refined_answers((name,), tests, BOTH)


def arm_systems(*names: str) -> dict[str, Any]:
    """First and refined answers of arms, and the answers of those that do not refine."""
    own = {n: ARMS.get(n, {}) for n in names}
    plain = [n for n, a in own.items() if a.get("leave_out") == "draft" or "best_of" in a]
    return first_and_refined(
        *(n for n in names if n not in plain), **{n: f"{n}_answers" for n in plain}
    )


def in_context(c: ConfigDict, tests: ConfigDict) -> dict[str, ConfigDict]:
    """The gate: refinements with the oracle's critique in context, and without any."""
    stages = {
        "gate_drafts": generate(data=tests, init="base", temperature=0.7, **SHORT),
        "gate_critiques": judge(data=of_stage(c.data, "gate_drafts"), **CRITIC),
    }
    shown = dict(data=of_stage(c.data, "gate_critiques"), asks="refinement", layout="self_refine")
    shown |= dict(temperature=0.0, **SHORT)
    stages["with_critique"] = generate(init="stage1", **shown)
    stages["without_critique"] = generate(init="no_feedback", leave_out="feedback", **shown)
    sides = ("with_critique", "without_critique")
    scored = dict(data=c.data, on_missing="empty", field="refinement")
    stages["in_context"] = evaluate("truth", systems={s: s for s in sides}, **scored)
    exact = [("systems", s, "scores", "all_right", "mean") for s in sides]
    stages["gate"] = gate("in_context", exact[0], less=exact[1], at_least=0.10)
    return stages


def refined_again(c: ConfigDict, times: int) -> dict[str, ConfigDict]:
    """Refinements of refinements, by the critic (`by_critic2`, …) and by the first stage's model of
    its own (`again2`, …)."""
    stages = {}
    for name, start, by in (
        ("by_critic", "gate_critiques", CRITIC),
        ("again", "stage1_answers", dict(judge="self", init="stage1", **LONG)),
    ):
        before = start
        for k in range(2, times + 2):
            stages[f"{name}{k}_drafts"] = filter_("again", data=of_stage(c.data, before))
            before = f"{name}{k}"
            stages[before] = judge(data=of_stage(c.data, f"{before}_drafts"), **by)
    return stages


def again_systems(times: int) -> dict[str, Any]:
    """The systems of `refined_again`, after the answers and refinements that they start from."""
    found = dict(critic_first=dict(path="gate_critiques", field="response"))
    found |= dict(by_critic1=dict(path="gate_critiques", field="refinement"))
    names = [f"{n}{k}" for n in ("by_critic", "again") for k in range(2, times + 2)]
    return found | {n: dict(path=n, field="refinement") for n in names}


def lab(
    *,
    arms: tuple[str, ...] = (),
    pretraining: int = 24000,
    first: int = 2000,
    second: int = 2000,
    evaluated: int = 200,
    samples: int = 16,
    again: int = 0,
    settings: dict[str, dict[str, Any]] | None = None,
    quick: dict[str, Any] | None = None,
    world: dict[str, Any] | None = None,
) -> ConfigDict:
    """The two stages in the ledger, what they come to, and the gate: whether a critique is of use
    in this world at all.

    Args:
      arms: more models than those of `ALWAYS_ARMS`, of `ARMS` and `SECOND_ARMS`.
      pretraining: texts.
      first, second: prompts of the stages.
      evaluated: prompts of the evaluations.
      samples: answers that are re-ranked.
      again: more refinements of refinements.
      settings: of training and of `ARMS`, by the model's name; an arm without its own has those of
        stage 1.
      quick: settings of the train stages on texts of the ledger, for tests.
      world: settings of the ledger.
    """
    c, quick, settings = first_config(), quick or {}, settings or {}
    tests = of_stage(c.data, "world/test")
    sizes = dict(pretraining=pretraining, prompts=first + second, evaluated=evaluated)
    learned = LEARNED | settings.get("stage1", {}) | quick
    preferred = PREFERRED | settings.get("stage2", {})
    arms = (*ALWAYS_ARMS, *arms)
    stages = {
        **pretrained(c, quick, **sizes, **(world or {})),
        **self_refinement(
            c,
            prompts=of_stage(c.data, "world/prompts"),
            init="base",
            critic=CRITIC,
            examples=(first, second),
            answers=SHORT,
            refining=LONG,
            stage1=PACKED | learned,
            stage2=ROWS | preferred,
            keep=(KEPT, PAIRED),
        ),
    }
    for name in arms:
        own = settings.get(name, {})
        if name in SECOND_ARMS:
            stages |= second_arm(c, name, tests, SECOND_ARMS[name], **preferred | own)
        else:
            stages |= arm(c, name, tests, first, **ARMS[name] | learned | own)
    stages |= in_context(c, tests)
    # What came of it.
    stages |= refined_answers(("stage1", "stage2"), tests, BOTH)
    stages["base_answers"] = generate(data=tests, init="base", temperature=0.0, **SHORT)
    stages |= reranking(c, tests, SHORT, LONG, samples)
    stages |= agreement(c, of_stage(c.data, "world/preferences"), LONG)
    stages["self_bias"] = self_bias(data=of_stage(c.data, "own_scored"), truth="oracle")
    systems = dict(base="base_answers", reranked="reranked", **arm_systems(*arms))
    if again:
        stages |= refined_again(c, again)
        systems |= again_systems(again)
    stages["compared"] = evaluate(
        "truth",
        systems=first_and_refined("stage1", "stage2", **systems),
        baseline="stage1_first",
        data=c.data,
        on_missing="empty",
    )
    return recipe(c, **stages)


def smoke(samples: int = 2, **more: Any) -> ConfigDict:
    """One account, and just enough steps to learn the form of a critique."""
    few = dict(total_epochs=0.0, total_steps=150, batch_rows=4, warmup_fraction=0.0)
    few |= dict(learning_rate=4e-3, warmup_steps=10)
    world = dict(accounts=1, fewest=2)
    sizes = dict(pretraining=300, first=60, second=60, evaluated=6, samples=samples)
    return lab(**sizes, quick=few, world=world, **more)


VARIANTS = {
    "lab": lab,
    "lab_ablations": lambda: lab(arms=("no_score", "no_suggestions", "no_weaknesses")),
    "lab_controls": lambda: lab(
        arms=("score_only", "shuffled", "own_refinements", "best_drafts", "stage2_strict")
    ),
    "lab_scaling": lambda: lab(arms=("few", "half", "stage2_few", "stage2_half")),
    "lab_scores": lambda: lab(arms=("score7", "score10")),
    "lab_again": lambda: lab(again=3),
    "lab_smoke": smoke,
}
