"""SRT: learn from critiques and refinements, then from one's own (Hu et al. 2024, arXiv
2406.07168): docs/srt.md.

    python -m lfjax.main --config configs/srt.py:lab --workdir runs/srt

A model answers instructions, a critic says what is weak about each answer and improves it, and the
model learns to do all three. Then it criticises and refines its own answers to new instructions,
and learns by DPO to prefer its refinements. A variant is named after the colon:

lab           the ledger, a small world whose oracle is the critic: minutes on two CPU cores
lab_ablations, lab_controls, lab_scaling, lab_scores, lab_again, lab_smoke
              more of it: configs/srt_lab.py
stories260k   a pretrained model of 260 K parameters goes on with stories; a rule is the critic.
              --config.model.path=DIRECTORY. Minutes on two CPU cores.
custom        your instructions and model, and a critic behind an endpoint:
              --config.data.path=prompts.jsonl --config.model.path=DIRECTORY_OR_HUB_ID
              --config.tests.path=tests.jsonl --config.critic.model=NAME
tulu2_7b, tulu2_13b, tulu2_70b
              the paper's: docs/reproduce_srt.md
tulu2_13b_no_feedback, …_refinements_only, …_no_score, …_no_suggestions, …_no_weaknesses
              its first stage without a part of the text (table 6), and with …_score_only, a
              control, without the feedback's words; so for each size
"""

from functools import partial
from typing import Any

from ml_collections import ConfigDict

from configs import srt_lab
from lfjax.errors import UserError, nearest
from lfjax.recipe import base, evaluate, generate, make, of_stage, recipe, self_bias
from lfjax.recipe.self_refining import (
    agreement,
    first_and_refined,
    refined_answers,
    reranking,
    self_refinement,
)

# Arms that differ by their text alone, which other data can do without, too.
ABLATIONS = {n: arm["leave_out"] for n, arm in srt_lab.ARMS.items() if [*arm] == ["leave_out"]}
SIZES = ("7b", "13b", "70b")
TENSOR = {"70b": 4}  # on 128 chips a step's 32 examples take a row each, split over 4
OPENAI = "https://api.openai.com/v1"


def get_config(arg="lab"):
    if arg not in VARIANTS:
        raise UserError(f"configs/srt.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


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
        **self_refinement(
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
    stages |= refined_answers(("stage1", "stage2"), c.data, how, part="heldout")
    stages["base_answers"] = generate(
        data=c.data, init=c.model, part="heldout", temperature=0.0, **drawn
    )
    stages["compared"] = evaluate(
        "rule",
        systems=first_and_refined("stage1", "stage2", base="base_answers"),
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
    stages = self_refinement(
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
        keep=(
            dict(ties="keep", cut="drop", most_times=0.0),
            dict(ties="drop", cut="drop", most_times=4.0),
        ),
    )
    how = dict(answers, refine_tokens=2048)
    stages |= refined_answers(("stage1", "stage2"), c.tests, how)
    stages |= reranking(c, c.tests, answers, dict(answers, max_new_tokens=2048))
    stages["base_answers"] = generate(data=c.tests, init=c.model, temperature=0.0, **answers)
    stages["self_bias"] = self_bias(data=of_stage(c.data, "own_scored"))
    systems = dict(base="base_answers", reranked="reranked")
    stages["compared"] = evaluate(
        "judge",
        systems=first_and_refined("stage1", "stage2", **systems),
        baseline="base",
        data=c.data,
        on_missing="count",
        alpaca_eval=True,
    )
    asking(c, stages, ("critiques", "scored", "compared"))
    return recipe(c, **stages)


def tulu2(size: str, arm: str = ""):
    """The paper's run. All sizes learn from the 7B model's answers to 25,000 instructions, and from
    their own to 75,000 others.

    Args:
      arm: of `ABLATIONS`: the first stage alone, without that part of the text.
    """
    c = base(source="messages", model_path=f"allenai/tulu-2-{size}")
    c.mesh.tensor = TENSOR.get(size, 1)
    c.data.options.single_turn = True
    c.data.template = "tulu"
    c.drafter = dict(path="allenai/tulu-2-7b", weights="pretrained")
    for name, source in (("tests", "prompts"), ("preferences", "hh")):
        c[name] = base(source=source).data
        c[name].template = "tulu"
    c.tests.options.prompt = "instruction"  # AlpacaEval's file
    with_critic(c, "gpt-4-1106-preview")
    answers = dict(max_new_tokens=2048, **LENGTHS)
    stages = self_refinement(
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
        keep=(dict(ties="keep", unchanged="keep", scores=()), dict(ties="keep")),
    )
    asking(c, stages, ("critiques", "scored"))
    tested = dict(answers, max_new_tokens=4096)
    how = dict(tested, refine_tokens=4096, max_tokens=12288)
    if arm:
        return ablated(c, stages, arm, answers, how)
    stages |= refined_answers(("stage1", "stage2"), c.tests, how)
    stages |= reranking(c, c.tests, answers, answers)
    stages |= agreement(c, c.preferences, answers)
    stages["self_bias"] = self_bias(data=of_stage(c.data, "own_scored"))
    stages["base_answers"] = generate(data=c.tests, init=c.model, temperature=0.0, **tested)
    systems = dict(base="base_answers", reranked="reranked")
    stages["outputs"] = outputs(c, first_and_refined("stage1", "stage2", **systems))
    return recipe(c, **stages)


def outputs(c: ConfigDict, systems: dict[str, Any]) -> ConfigDict:
    """Files for AlpacaEval's own tool; only lengths are counted here."""
    return evaluate(
        "rule",
        systems=systems,
        data=c.data,
        rule="lfjax.judges.rules:length",
        rule_options=dict(at_least=1),
        on_missing="count",
        alpaca_eval=True,
    )


def ablated(
    c: ConfigDict,
    stages: dict[str, ConfigDict],
    arm: str,
    answers: dict[str, Any],
    refining: dict[str, Any],
) -> ConfigDict:
    """The first stage without a part of its text, and its answers."""
    leave_out = ABLATIONS[arm]
    stages = {name: stages[name] for name in ("drafts", "critiques", "scored", "kept", "stage1")}
    stages["stage1"].options.leave_out = leave_out
    if leave_out == "draft":  # there is nothing to refine
        stages["stage1_answers"] = generate(data=c.tests, init="stage1", temperature=0.0, **answers)
        systems = {"stage1": "stage1_answers"}
    else:
        stages |= refined_answers(("stage1",), c.tests, refining, leave_out=leave_out)
        systems = first_and_refined("stage1")
    return recipe(c, **stages, outputs=outputs(c, systems))


VARIANTS = {
    **srt_lab.VARIANTS,
    "stories260k": stories260k,
    "custom": custom,
    **{f"tulu2_{size}": partial(tulu2, size) for size in SIZES},
    **{f"tulu2_{size}_{arm}": partial(tulu2, size, arm) for size in SIZES for arm in ABLATIONS},
}
