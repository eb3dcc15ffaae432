"""SRT: learn from critiques and refinements, then from one's own (Hu et al. 2024, arXiv
2406.07168): docs/srt.md.

    python -m lfjax.main --config configs/srt.py:lab --workdir runs/srt

A model answers instructions, a critic says what is weak about each answer and improves it, and the
model learns to do all three. Then it criticises and refines its own answers to new instructions,
and learns by DPO to prefer its refinements. A variant is named after the colon:

lab           the ledger, a small world whose oracle is the critic: some 7 minutes on two CPU cores
lab_no_score, lab_no_suggestions, lab_no_weaknesses
              the same with one part left out of the feedback that stage 1 learns
lab_few, lab_half
              the same with a tenth or half of the first stage's examples
lab_score7, lab_score10
              the same with those refinements alone that the critic scores so
lab_again     the same with three more refinements of refinements by the critic, to see their scores
lab_smoke     the lab with next to no data, for tests
stories260k   a pretrained model of 260 K parameters goes on with stories; a rule is the critic.
              --config.model.path=DIRECTORY. Minutes on two CPU cores.
custom        your instructions and model, and a critic behind an endpoint:
              --config.data.path=prompts.jsonl --config.model.path=DIRECTORY_OR_HUB_ID
              --config.tests.path=tests.jsonl --config.critic.model=NAME
tulu2_7b, tulu2_13b, tulu2_70b
              the paper's: docs/reproduce_srt.md
"""

from functools import partial
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

OPENAI = "https://api.openai.com/v1"
HEADINGS = ("### Feedback", "### Improved Response")  # an answer ends before its feedback


def get_config(arg="lab"):
    if arg not in VARIANTS:
        raise UserError(f"configs/srt.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def program(
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
    leave_out: str = "",
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
      leave_out: of the text that is learned (lfjax.data.self_refine.LEAVE_OUT).
    """

    def of(stage):
        return of_stage(c.data, stage)

    first, second = examples
    own = dict(judge="self", init="stage1", leave_out=leave_out, **refining)
    drawn = dict(temperature=0.7, **answers)
    return {
        "drafts": generate(data=prompts, init=drafter or init, examples=first, **drawn),
        "critiques": judge(data=of("drafts"), **critic),
        # The critic scores the refinement afresh, without what it said before.
        "scored": judge(data=of("critiques"), field="refinement", **critic),
        "kept": filter_("refined", data=of("scored"), **keep[0]),
        "stage1": train("srt", data=of("kept"), init=init, leave_out=leave_out, **stage1),
        "own_drafts": generate(
            data=prompts,
            init="stage1",
            examples=second,
            first_example=first,
            apart_from="kept",
            stop=HEADINGS,
            **drawn,
        ),
        "own_critiques": judge(data=of("own_drafts"), **own),
        "own_scored": judge(data=of("own_critiques"), field="refinement", **own),
        "pairs": filter_("refined", data=of("own_scored"), leave_out=leave_out, **keep[1]),
        "stage2": train("dpo", data=of("pairs"), init="stage1", own_pairs=True, **stage2),
    }


def inference(
    models: tuple[str, ...], tests: ConfigDict, answers: dict[str, Any], **how: Any
) -> dict[str, ConfigDict]:
    """The models' answers to other prompts, refined by their own feedback (section 3.3)."""
    how = dict(asks="self_refine", temperature=0.0, **how, **answers)
    return {f"{m}_answers": generate(data=tests, init=m, **how) for m in models}


def systems(*models: str, **more: Any) -> dict[str, Any]:
    """First and refined answers of models as systems of an evaluation."""
    out = dict(more)
    for m in models:
        out[f"{m}_first"] = dict(path=f"{m}_answers", field="response")
        out[m] = dict(path=f"{m}_answers", field="refinement")
    return out


def reranking(c: ConfigDict, tests: ConfigDict, answers, refining, samples=16):
    """Instead of refining: of so many answers the one that the model itself scores highest."""
    drawn = dict(samples=samples, temperature=0.7, stop=HEADINGS, **answers)
    own = dict(init="stage1", **refining)
    return {
        "samples": generate(data=tests, init="stage1", **drawn),
        "samples_scored": judge("self", data=of_stage(c.data, "samples"), **own),
        "reranked": filter_("ranked", data=of_stage(c.data, "samples_scored")),
    }


def agreement(c: ConfigDict, preferences: ConfigDict, refining):
    """How often the models score the preferred one of two responses higher, before stage 2 and
    after it (table 5)."""
    out = {"sides": filter_("sides", data=preferences)}
    for model in ("stage1", "stage2"):
        rated = judge("self", data=of_stage(c.data, "sides"), init=model, **refining)
        out[f"rated_{model}"] = rated
        out[f"agreement_{model}"] = self_bias(
            data=of_stage(c.data, f"rated_{model}"), among="sides"
        )
    return out


# --- the lab ----------------------------------------------------------------------------------

LEDGER_CRITIC = dict(judge="rule", rule="lfjax.lab.making:critic")
SHORT = dict(max_new_tokens=16, max_tokens=128, slots=128)
LONG = dict(max_new_tokens=64, max_tokens=192, slots=128)
ROWS = dict(row_tokens=320, remat="none", save_steps=0, save_epochs=1.0)
PACKED = dict(ROWS, batch_examples=0, batch_rows=8, max_tokens=160)


def lab(
    *,
    leave_out="",
    pretraining=40000,
    first=2000,
    second=2000,
    evaluated=200,
    samples=16,
    again=0,
    scores=(),
    ties="keep",
    quick=None,
    world=None,
):
    """The two stages in the ledger, what they come to, and the gate: whether a critique is of use
    in this world at all.

    Args:
      pretraining: texts.
      first, second: prompts of the stages.
      evaluated: prompts of the evaluations.
      samples: answers that are re-ranked.
      again: more refinements by the critic of its refinements.
      scores: of the refinements that the first stage keeps; all if empty.
      ties: what becomes, in the second stage, of refinements that score the same.
      quick: settings of the train stages on texts of the ledger, for tests.
      world: settings of the ledger.
    """
    c = base(source="records", path="world/pretraining", model_path="world/model")
    c.model.weights = "random"
    c.data.template = "own"

    def of(stage):
        return of_stage(c.data, stage)

    tests, quick = of("world/test"), quick or {}
    tuned = PACKED | dict(learning_rate=2e-3, total_epochs=5.0, warmup_fraction=0.1) | quick
    first_steps = dict(learning_rate=4e-3, b2=0.99, warmup_steps=50)
    early = PACKED | first_steps | dict(batch_rows=2, learning_rate=3e-3)
    sizes = dict(pretraining=pretraining, prompts=first + second, evaluated=evaluated)
    stages = {
        "world": make("lfjax.lab.making:ledger", **sizes, **(world or {})),
        "digits": train("sft", data=of("world/comparisons"), init=c.model, **early | quick),
        "base": train("sft", data=c.data, init="digits", **PACKED | first_steps | quick),
        **program(
            c,
            prompts=of("world/prompts"),
            init="base",
            critic=LEDGER_CRITIC,
            examples=(first, second),
            answers=SHORT,
            refining=LONG,
            stage1=tuned,
            stage2=ROWS
            | dict(max_tokens=160, batch_examples=32, learning_rate=3e-5, warmup_fraction=0.1)
            | dict(beta=0.1, terminator="feedback_header"),
            # A perfect answer has no better one, and its score has to be learned, too.
            keep=(
                dict(ties="keep", unchanged="keep", scores=scores),
                dict(ties=ties),
            ),
            leave_out=leave_out,
        ),
        "no_feedback": train("srt", data=of("kept"), init="base", leave_out="feedback", **tuned),
        "refinements_only": train("srt", data=of("kept"), init="base", leave_out="draft", **tuned),
    }
    # The gate: refinements with the oracle's critique in context, and without any.
    stages["gate_drafts"] = generate(data=tests, init="base", temperature=0.7, **SHORT)
    stages["gate_critiques"] = judge(data=of("gate_drafts"), **LEDGER_CRITIC)
    shown = dict(data=of("gate_critiques"), asks="refinement", layout="self_refine", **SHORT)
    stages["with_critique"] = generate(init="stage1", temperature=0.0, leave_out=leave_out, **shown)
    without = dict(leave_out="feedback", temperature=0.0)
    stages["without_critique"] = generate(init="no_feedback", **without, **shown)
    scored = dict(data=c.data, on_missing="empty")
    sides = ("with_critique", "without_critique")
    stages["in_context"] = evaluate(
        "truth", systems={s: s for s in sides}, field="refinement", **scored
    )
    exact = [("systems", s, "scores", "all_right", "mean") for s in sides]
    stages["gate"] = gate("in_context", exact[0], less=exact[1], at_least=0.10)
    # What came of it.
    how = dict(refine_tokens=64, **dict(SHORT, max_tokens=192))
    stages |= inference(("stage1", "stage2"), tests, how, leave_out=leave_out)
    stages |= inference(("no_feedback",), tests, how, leave_out="feedback")
    for name in ("base", "refinements_only"):
        stages[f"{name}_answers"] = generate(data=tests, init=name, temperature=0.0, **SHORT)
    more = dict(base="base_answers", refinements_only="refinements_only_answers")
    if not leave_out:
        stages |= reranking(c, tests, SHORT, LONG, samples)
        stages |= agreement(c, of("world/preferences"), LONG)
        stages["self_bias"] = self_bias(data=of("own_scored"), truth="oracle")
        more["reranked"] = "reranked"
    stages["compared"] = evaluate(
        "truth",
        systems=systems("stage1", "stage2", "no_feedback", **more),
        baseline="stage1_first",
        **scored,
    )
    scored_again = "scored"
    for i in range(2, again + 2):
        stages[f"again{i}"] = filter_("again", data=of(scored_again))
        stages[f"critiques{i}"] = judge(data=of(f"again{i}"), **LEDGER_CRITIC)
        scored_again = f"scored{i}"
        stages[scored_again] = judge(data=of(f"critiques{i}"), field="refinement", **LEDGER_CRITIC)
    return recipe(c, **stages)


def smoke():
    """One account, and just enough steps to learn the form of a critique."""
    few = dict(total_epochs=0.0, total_steps=150, batch_rows=4, warmup_fraction=0.0)
    few |= dict(learning_rate=4e-3, warmup_steps=10)
    world = dict(accounts=1, fewest=2)
    sizes = dict(pretraining=300, first=60, second=60, evaluated=6, samples=2)
    return lab(**sizes, quick=few, world=world)


# --- elsewhere --------------------------------------------------------------------------------

HYPER = dict(  # section 4.1; what it leaves open is as in docs/reproduce_srt.md
    decay="cosine",
    warmup_fraction=0.1,
    batch_examples=32,
    dtype="bfloat16",
    remat="full",
    save_steps=200,
)
LENGTHS = dict(max_tokens=8192, dtype="bfloat16")


def stories260k(*, first=600, second=600, evaluated=100):
    """A model that knows no instructions and sees 512 tokens."""
    c = base(source="prompts", path="stories/prompts")
    c.data.template = "bare"
    c.data.heldout_examples = evaluated
    rule = dict(judge="rule", rule="lfjax.lab.stories:critic", rule_options=dict(banned=("sad",)))
    drawn = dict(max_new_tokens=80, max_tokens=256, slots=64)
    rows = dict(batch_examples=8, max_tokens=512, row_tokens=1024, save_steps=0, save_epochs=1.0)
    stages = {
        "stories": make("lfjax.lab.stories:write", count=first + second + evaluated),
        **program(
            c,
            prompts=c.data,
            init=c.model,
            critic=rule,
            examples=(first, second),
            answers=drawn,
            refining=dict(max_new_tokens=256, max_tokens=512, slots=64),
            stage1=dict(learning_rate=1e-3, total_epochs=5.0, **rows),
            stage2=dict(learning_rate=1e-5, terminator="feedback_header", **rows),
            keep=(dict(ties="keep", unchanged="keep"), dict(ties="keep")),
        ),
    }
    how = dict(drawn, max_tokens=512, refine_tokens=256)
    stages |= inference(("stage1", "stage2"), c.data, how, part="heldout")
    stages["base_answers"] = generate(
        data=c.data, init=c.model, part="heldout", temperature=0.0, **drawn
    )
    stages["compared"] = evaluate(
        "rule",
        systems=systems("stage1", "stage2", base="base_answers"),
        baseline="base",
        data=c.data,
        rule="lfjax.judges.rules:story",
        rule_options=dict(banned=("sad",)),
        on_missing="count",
    )
    return recipe(c, **stages)


def asking(c: ConfigDict, stages: dict[str, ConfigDict], names: tuple[str, ...]) -> None:
    """Let these stages ask the critic of `c.critic`."""
    for name in names:
        for key in c.critic:
            stages[name].endpoint[key] = c.critic.get_ref(key)


def with_critic(c: ConfigDict, model: str) -> None:
    """The critic behind an endpoint, set in one place: --config.critic.model=NAME."""
    prices = dict(prompt_price=0.0, price=0.0, budget=-1.0)
    c.critic = dict(url=OPENAI, model=model, key_env="OPENAI_API_KEY", concurrency=16, **prices)


def custom(*, first=500, second=1000):
    """Adapters, an endpoint as the critic and as the judge at the end; some 1,000 calls for the
    first stage and 2 for each test prompt and system."""
    c = base(source="prompts")
    c.data.template = "own"
    c.tests = base(source="prompts").data
    c.tests.template = c.data.get_ref("template")
    with_critic(c, "")
    adapters = dict(rank=16, alpha=16.0, pattern=".", base_dtype="bfloat16")
    tuned = dict(HYPER, batch_examples=8, lora=adapters, max_tokens=4096)
    answers = dict(max_new_tokens=1024, max_tokens=4096, dtype="bfloat16")
    stages = program(
        c,
        prompts=c.data,
        init=c.model,
        critic=dict(judge="critique", max_new_tokens=2048),
        examples=(first, second),
        answers=answers,
        refining=dict(answers, max_new_tokens=2048),
        stage1=dict(tuned, learning_rate=2e-4, total_epochs=3.0, row_tokens=4096),
        stage2=dict(
            tuned,
            learning_rate=5e-6,
            row_tokens=8192,
            beta=0.1,
            terminator="feedback_header",
            overlong="drop",
        ),
        keep=(dict(ties="keep", most_times=0.0), dict(ties="drop", most_times=4.0)),
    )
    how = dict(answers, refine_tokens=2048)
    stages |= inference(("stage1", "stage2"), c.tests, how)
    stages["base_answers"] = generate(data=c.tests, init=c.model, temperature=0.0, **answers)
    stages["self_bias"] = self_bias(data=of_stage(c.data, "own_scored"))
    stages["compared"] = evaluate(
        "judge",
        systems=systems("stage1", "stage2", base="base_answers"),
        baseline="base",
        data=c.data,
        on_missing="count",
        alpaca_eval=True,
    )
    asking(c, stages, ("critiques", "scored", "compared"))
    return recipe(c, **stages)


def tulu2(size: str):
    """The paper's run. All sizes learn from the 7B model's answers to 25,000 instructions, and from
    their own to 75,000 others."""
    c = base(source="messages", model_path=f"allenai/tulu-2-{size}")
    c.data.options.single_turn = True
    c.data.template = "tulu"
    c.drafter = dict(path="allenai/tulu-2-7b", weights="pretrained")
    for name, source in (("tests", "prompts"), ("preferences", "hh")):
        c[name] = base(source=source).data
        c[name].template = "tulu"
    c.tests.options.prompt = "instruction"  # AlpacaEval's file
    with_critic(c, "gpt-4-1106-preview")
    answers = dict(max_new_tokens=2048, **LENGTHS)
    stages = program(
        c,
        prompts=c.data,
        init=c.model,
        drafter=c.drafter,
        critic=dict(judge="critique", max_new_tokens=2048),
        examples=(25_000, 75_000),
        answers=answers,
        refining=answers,
        stage1=dict(HYPER, learning_rate=1e-5, total_epochs=5.0, max_tokens=8192, row_tokens=8192),
        stage2=dict(
            HYPER,
            learning_rate=5e-7,
            total_epochs=1.0,
            max_tokens=8192,
            row_tokens=16384,
            beta=0.01,
            terminator="eos",
            overlong="drop",
        ),
        keep=(dict(ties="keep", unchanged="keep"), dict(ties="keep")),
    )
    how = dict(answers, max_new_tokens=4096, refine_tokens=4096, max_tokens=12288)
    stages |= inference(("stage1", "stage2"), c.tests, how)
    stages |= reranking(c, c.tests, answers, answers)
    stages |= agreement(c, c.preferences, answers)
    stages["self_bias"] = self_bias(data=of_stage(c.data, "own_scored"))
    stages["outputs"] = evaluate(  # for AlpacaEval's own tool; only lengths are counted here
        "rule",
        systems=systems("stage1", "stage2", reranked="reranked"),
        data=c.data,
        rule="lfjax.judges.rules:length",
        rule_options=dict(at_least=1),
        on_missing="count",
        alpaca_eval=True,
    )
    asking(c, stages, ("critiques", "scored"))
    return recipe(c, **stages)


VARIANTS = {
    "lab": lab,
    "lab_no_score": lambda: lab(leave_out="score"),
    "lab_no_suggestions": lambda: lab(leave_out="suggestions"),
    "lab_no_weaknesses": lambda: lab(leave_out="weaknesses"),
    "lab_few": lambda: lab(first=200),
    "lab_half": lambda: lab(first=1000),
    "lab_score7": lambda: lab(scores=(7.0,)),
    "lab_score10": lambda: lab(scores=(10.0,)),
    "lab_again": lambda: lab(again=3),
    "lab_smoke": smoke,
    "stories260k": stories260k,
    "custom": custom,
    **{f"tulu2_{size}": partial(tulu2, size) for size in ("7b", "13b", "70b")},
}
