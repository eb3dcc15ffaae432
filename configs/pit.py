"""PIT: learn from preferences to improve a response (Wang et al. 2024, arXiv 2310.00898):
docs/pit.md.

    python -m lfjax.main --config configs/pit.py:lab --workdir runs/pit

A policy answers; an improver writes a better answer, given the one that there is. Neither is told
what better means but by pairs of responses. A variant is named after the colon:

lab           the garden, a small world whose oracle says how good a response is
gate          the lab up to its gate, before any RL
gap           the lab up to its gap reward, before any RL: notebooks/pit.ipynb
smoke, gap_smoke
              the lab with next to no data, for tests
custom        your pairs and model: --config.data.path=pairs.jsonl (`prompt`, `chosen`, `rejected`)
              --config.model.path=DIRECTORY_OR_HUB_ID, and a judge behind an endpoint:
              --config.judge.url=URL --config.judge.model=NAME
stories260k   the same with a pretrained model of 260 K parameters, all of it trained, and judged by
              a rule: a test of plumbing that teaches nothing
hh_7b, summarize_7b
              the paper's data on a pod, with its values where they are known:
              docs/reproduce_pit.md
custom_monitored, hh_7b_monitored, summarize_7b_monitored
              the same, where the judge also watches the improver's RL, every tenth step
"""

from functools import partial
from typing import Any

from ml_collections import ConfigDict

from lfjax.errors import UserError, nearest
from lfjax.recipe import (
    base,
    evaluate,
    filter_,
    gaps,
    gate,
    generate,
    improve,
    make,
    of_stage,
    recipe,
    rl,
    train,
    with_settings,
)
from lfjax.recipe.improving import BEST_AT, inference, led_astray

WATCHED = ("by_improver", "by_easy", "by_hard_alone", "by_hard_1")
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)


def get_config(arg="lab"):
    if arg not in VARIANTS:
        raise UserError(f"configs/pit.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def program(
    c: ConfigDict,
    *,
    pairs: ConfigDict,
    init: ConfigDict | str,
    heldout: int,
    sft: dict[str, Any],
    scores: dict[str, Any],
    learning: dict[str, Any],
    answers: dict[str, Any],
    monitor: str | dict[str, Any] = "",
    parts: bool = False,
    tests: int = 0,
    drawn: int = 0,
) -> dict[str, ConfigDict]:
    """The paper's training (sections 3.2 to 3.4), in its order.

    Args:
      pairs: preferences; they are split by prompt into three folds.
      init: the first model, of policy and improver alike.
      heldout: pairs of the second fold, on which rewards are calibrated.
      sft, scores, learning: settings of supervised stages, of rewards, and of RL.
      answers: settings of sampling.
      monitor: of the improver's RL, who judges what it is not rewarded for.
      parts: train improvers by each half of the curriculum alone, too (section 4.6).
      tests: prompts that make a fold of their own.
      drawn: responses of the policy for the second half; 0 for one to every prompt of the fold.
    """

    def fold(name, **changed):
        return of_stage(c.data, f"folds/{name}", **changed)

    improves = dict(reward="gap", kl_to="improver", monitor=monitor, **learning)
    given = dict(data=fold("rl"), reference=("rejected", "chosen"))
    own = dict(data=of_stage(c.data, "own"), reference=("response",))
    stages = {
        "folds": filter_("folds", data=pairs, test=tests),
        # y_w given x; y_w given x and y_l
        "policy": train("sft", target="best", data=fold("sft"), init=init, **sft),
        "improver": train("improve", data=fold("sft"), init=init, **sft),
        # r(x, y); r_gap(x, y, y_ref)
        "reward": train(
            "reward", data=fold("rm", heldout_examples=heldout), init="policy", **scores
        ),
        "gap": train("gap", data=fold("rm", heldout_examples=heldout), init="improver", **scores),
        # what would be improved: the policy after RL
        "policy_rl": rl(
            data=fold("rl"), init="policy", reward="reward", kl_to="policy", **learning
        ),
        # the curriculum: references from the data, then the policy's own
        "easy": rl(init="improver", **given, **improves),
        "own": generate(
            data=fold("rl"), init="policy_rl", temperature=1.0, examples=drawn, **answers
        ),
        "hard": rl(init="easy", **own, **improves),
    }
    if parts:
        stages["hard_alone"] = rl(init="improver", **own, **improves)
    return stages


# --- the lab ----------------------------------------------------------------------------------


# The policy keeps what it can say of its answers; the improver has to learn what it does.
LEARNED = {"improver": dict(learning_rate=2e-3, total_epochs=2.0)}


def lab(
    *,
    pretraining=120000,
    preferences=24000,
    evaluated=200,
    rl_steps=40,
    settings=LEARNED,
    few=None,
    until="",
):
    """The garden.

    Args:
      pretraining, preferences: texts, and pairs of all folds.
      evaluated: prompts.
      rl_steps: of each RL stage.
      settings: of training, by the stage's name.
      few: settings of all supervised stages instead, for tests.
      until: `gate` or `gap`: end there, before any RL.
    """
    c = base(source="records", path="world/pretraining", model_path="world/model")
    c.model.weights = "random"
    c.data.template = "own"
    rows = dict(row_tokens=64, max_tokens=48, remat="none", save_steps=0, save_epochs=1.0)
    rows |= dict(batch_examples=0, batch_rows=32, b2=0.99)
    pretrained = rows | dict(learning_rate=4e-3, warmup_steps=50) | (few or {})
    sft = rows | dict(learning_rate=7e-4, warmup_steps=20)
    scores = sft | dict(row_tokens=96, learning_rate=2e-3, total_epochs=1.5, best="heldout/loss")
    scores |= dict(save_epochs=0.25, eval_epochs=0.25)
    answers = dict(max_new_tokens=14, max_tokens=64, slots=128)
    learning = dict(
        prompts=32,
        samples=4,
        max_new_tokens=14,
        max_tokens=48,
        slots=128,
        row_tokens=64,
        remat="none",
        learning_rate=1e-4,
        beta=0.1,
        total_steps=rl_steps,
        total_epochs=0.0,
        save_steps=40,
    )
    sizes = dict(pretraining=pretraining, preferences=preferences, evaluated=evaluated)
    stages = {
        "world": make("lfjax.lab.making:repair", **sizes),
        "base": train("sft", data=c.data, init=c.model, **pretrained),
    }
    trained = program(
        c,
        pairs=of_stage(c.data, "world/preferences"),
        init="base",
        heldout=min(300, preferences // 12),
        sft=sft | (few or {}),
        scores=scores | (few or {}),
        learning=learning,
        answers=answers,
        monitor="lfjax.lab.making:oracle",
        parts=True,
        drawn=min(32 * rl_steps, preferences // 3),
    )
    for name, own in ({} if few else settings).items():
        with_settings(name, trained[name], own)
    tests = of_stage(c.data, "world/test")
    how = dict(improvers=("improver", "easy", "hard_alone", "hard"), temperatures=TEMPERATURES)
    tried, systems = inference(c, tests, answers, **how)
    tried |= led_astray(c, "original", "hard", answers, ("strangers", "hard_astray"))
    systems["hard_astray"] = "hard_astray"
    names = list(trained)
    cut = names.index("reward")
    stages |= {name: trained[name] for name in names[:cut]}
    stages |= gated(c, tests, answers)
    if until == "gap":
        stages["gap"] = trained["gap"]
        shown = dict(improved="improved", astray="astray")
        stages["watched"] = gaps(gap="gap", systems=shown, truth=True)
    if until:
        return recipe(c, **stages)
    stages |= {name: trained[name] for name in names[cut:]} | tried
    how = dict(field="refinement", on_missing="empty", baseline="original")
    stages["compare"] = evaluate("truth", systems=systems, data=c.data, **how)
    watched = {n: path for n, path in systems.items() if n in WATCHED}
    stages["watched"] = gaps(gap="gap", systems=watched, truth=True)
    return recipe(c, **stages)


def gated(c: ConfigDict, tests: ConfigDict, answers: dict[str, Any]) -> dict[str, ConfigDict]:
    """Before any RL: does the improver use what it is to improve? Its improvements of the policy's
    drafts against those that it makes when it is shown the draft of another prompt."""
    how = dict(init="improver", temperature=BEST_AT["pit"], **answers)
    systems = dict(drafts="drafts", improved="improved", astray="astray")
    right = ("scores", "right", "mean")
    return {
        "drafts": generate(data=tests, init="policy", temperature=1.0, **answers),
        "improved": improve(data=of_stage(c.data, "drafts"), **how),
        **led_astray(c, "drafts", "improver", answers, ("others", "astray")),
        "shown": evaluate(
            "truth", systems=systems, data=c.data, field="refinement", on_missing="empty"
        ),
        "gate": gate(
            "shown",
            ("systems", "improved", *right),
            less=("systems", "astray", *right),
            at_least=0.1,
        ),
    }


def smoke(until=""):
    few = dict(total_epochs=0.0, total_steps=4, batch_rows=4, best="", eval_epochs=0.0)
    return lab(pretraining=400, preferences=360, evaluated=8, rl_steps=2, few=few, until=until)


# --- real data --------------------------------------------------------------------------------


def real(c: ConfigDict, *, evaluated: int, judge: dict, mode="judge", monitored=False, **settings):
    """The program on one file of pairs, some of whose prompts are kept to be evaluated on. With
    `monitored` the judge watches the improver's RL, too, at every tenth step: it may cost money."""
    if monitored:
        settings["monitor"] = dict(judge="score", endpoint=judge["endpoint"])
        settings["learning"] = settings["learning"] | dict(monitor_steps=10)
    trained = program(c, pairs=c.data, init=c.model, tests=evaluated, **settings)
    tests = of_stage(c.data, "folds/test")
    answers = settings["answers"]
    tried, systems = inference(c, tests, answers, temperatures=TEMPERATURES)
    tried |= led_astray(c, "original", "hard", answers, ("others", "astray"))
    repeated = {n: path for n, path in systems.items() if "at_" not in n}
    varied = {n: path for n, path in systems.items() if n == "original" or n not in repeated}
    varied |= {n: systems[n] for n in ("by_hard_1", "self_refined_1")} | {"astray": "astray"}
    how = dict(data=c.data, field="refinement") | judge
    return recipe(
        c,
        **trained,
        **tried,
        compare=evaluate(mode, systems=repeated, **how),
        varied=evaluate(mode, systems=varied, **how | dict(baseline="original")),
        watched=gaps(gap="gap", systems={n: systems[n] for n in ("by_hard_1", "by_hard_5")}),
    )


def custom(monitored=False):
    c = base(source="preference")
    c.judge = ConfigDict({"url": "", "model": ""})
    served = dict(url=c.judge.get_ref("url"), model=c.judge.get_ref("model"))
    lora = dict(rank=16, alpha=16.0, pattern="attn/|mlp/", base_dtype="bfloat16")
    how = dict(lora=lora, dtype="bfloat16", remat="full", save_steps=100)
    length = dict(total_epochs=1.0, warmup_fraction=0.03, max_tokens=1280)
    return real(
        c,
        evaluated=100,
        heldout=100,
        monitored=monitored,
        judge=dict(endpoint=served, on_missing="count", baseline="original"),
        sft=how | length | dict(batch_examples=32, row_tokens=2560, learning_rate=1e-4),
        scores=how
        | length
        | dict(batch_examples=32, row_tokens=5120, learning_rate=5e-5)
        | dict(eval_epochs=0.25, best="heldout/loss"),
        learning=how
        | dict(prompts=16, samples=4, max_new_tokens=256, max_tokens=1280, row_tokens=2560)
        | dict(learning_rate=1e-5, beta=0.05, total_steps=100, total_epochs=0.0, save_steps=10)
        | dict(kl_dtype="bfloat16", rollout_dtype="bfloat16"),
        answers=dict(max_new_tokens=256, max_tokens=1280, dtype="bfloat16"),
    )


def stories260k():
    c = base(source="preference")
    how = dict(batch_examples=8, row_tokens=2048, max_tokens=512, total_epochs=0.0, total_steps=8)
    scores = dict(eval_steps=4, best="heldout/loss", learning_rate=1e-4)
    return real(
        c,
        evaluated=4,
        heldout=4,
        mode="rule",
        judge=dict(
            rule="lfjax.judges.rules:length",
            rule_options=dict(at_least=40),
            on_missing="count",
            baseline="original",
        ),
        sft=how | dict(learning_rate=1e-4),
        scores=how | scores,
        learning=dict(prompts=4, samples=2, max_new_tokens=24, max_tokens=512, row_tokens=1024)
        | dict(learning_rate=1e-5, total_steps=2, total_epochs=0.0),
        answers=dict(max_new_tokens=24, max_tokens=512, slots=8),
    )


def pod(source: str, *, max_tokens: int, new_tokens: int, monitored=False):
    """The paper's, on a model of 7 B parameters: one epoch, and its learning rates of supervised
    stages (3e-5) and rewards (3e-4), which are of another model. Batches, lengths, β and everything
    of RL are not known and ours."""
    c = base(source=source)
    c.data.template = "tulu"
    how = dict(dtype="bfloat16", remat="full", save_steps=100)
    length = dict(total_epochs=1.0, max_tokens=max_tokens, warmup_fraction=0.03)
    return real(
        c,
        evaluated=128,  # of all pairs of 11 systems in both orders: 14,080 questions
        heldout=500,
        monitored=monitored,
        judge=dict(
            endpoint=dict(url="https://api.openai.com/v1", model="gpt-4"), on_missing="count"
        ),
        sft=how | length | dict(batch_examples=128, row_tokens=2 * max_tokens, learning_rate=3e-5),
        scores=how
        | length
        | dict(batch_examples=64, row_tokens=4 * max_tokens, learning_rate=3e-4)
        | dict(eval_epochs=0.1, best="heldout/loss"),
        learning=how
        | dict(prompts=128, samples=4, max_new_tokens=new_tokens, max_reference_tokens=new_tokens)
        | dict(max_tokens=max_tokens, row_tokens=2 * max_tokens, mini_batches=1)
        | dict(learning_rate=1e-6, beta=0.05, total_steps=200, total_epochs=0.0, save_steps=20)
        | dict(kl_dtype="bfloat16", rollout_dtype="bfloat16", slots=256),
        answers=dict(max_new_tokens=new_tokens, max_tokens=max_tokens, dtype="bfloat16", slots=256),
    )


JUDGED = {
    "custom": custom,
    "hh_7b": partial(pod, "hh", max_tokens=1536, new_tokens=256),
    "summarize_7b": partial(pod, "summarize_from_feedback", max_tokens=1024, new_tokens=96),
}
VARIANTS = {
    "lab": lab,
    "gate": partial(lab, until="gate"),
    "gap": partial(lab, until="gap"),
    "smoke": smoke,
    "gap_smoke": partial(smoke, until="gap"),
    "stories260k": stories260k,
    **JUDGED,
    **{f"{name}_monitored": partial(made, monitored=True) for name, made in JUDGED.items()},
}
