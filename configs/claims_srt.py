"""The claims about SRT, in the ledger: docs/claims/README.md.

    python -m lfjax.main --config configs/claims_srt.py --workdir runs/claims_srt

Repetitions of the lab's recipe with all its arms, each with a ledger, base and models of its own.
What the committed file of claims comes to is written to docs/claims/srt.json and srt.md. Stopped
anywhere, the same command continues with the next cell.

claims    the above
tuning    nine settings of each method in two worlds of their own, scored on their validation
          prompts; the best ones are in TUNED
smoke     one repetition with next to no data, for tests; it writes to its workdir alone
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from configs import srt_lab
from lfjax.errors import UserError, nearest
from lfjax.recipe import (
    claims,
    evaluate,
    filter_,
    gate,
    generate,
    in_all,
    judge,
    of_stage,
    recipe,
    repeated,
    trials,
)
from lfjax.recipe.self_refining import first_and_refined

CLAIMS = "docs/claims/srt.claims.json"
SEEDS, FIRST = 10, 1  # training of seed 0 was looked at while the world was made
TUNING_SEEDS, TUNING_FIRST = 2, 100
ARMS = tuple(name for name in srt_lab.ARMS if name not in srt_lab.ALWAYS_ARMS)
ARMS += tuple(srt_lab.SECOND_ARMS)
SIZES = dict(pretraining=24000, first=600, second=600, evaluated=100)
AGAIN = 3
ORACLE = "lfjax.lab.making:oracle"
# Answers that cost as much as an answer with its feedback and refinement: 9 tokens against 67.
EQUAL = 7
RATES, EPOCHS = (5e-4, 1e-3, 2e-3), (5.0, 10.0, 20.0)
GRID = {  # method -> two of its options, and the values of each
    "stage1": ("learning_rate", RATES, "total_epochs", EPOCHS),
    "no_feedback": ("learning_rate", RATES, "total_epochs", EPOCHS),
    "refinements_only": ("learning_rate", RATES, "total_epochs", EPOCHS),
    "stage2": ("learning_rate", (3e-5, 1e-4, 3e-4), "beta", (0.01, 0.03, 0.1)),
}
TUNED = {  # the best of the grid by refined accounts that are right
    "stage1": dict(learning_rate=1e-3, total_epochs=20.0),
    "no_feedback": dict(learning_rate=2e-3, total_epochs=20.0),
    "refinements_only": dict(learning_rate=2e-3, total_epochs=20.0),
    "stage2": dict(learning_rate=3e-5, beta=0.01),
}
PAPER = {  # those of section 4.1, for models of 7 B parameters and more
    "stage1": dict(learning_rate=1e-5, total_epochs=5.0, batch_examples=32, batch_rows=0),
    "stage2": dict(learning_rate=5e-7, beta=0.01, terminator="eos"),
}
PLAIN, REFINING = ("base", "refinements_only"), ("stage1", "stage2")
AGAINST_FIRST = ("base", "refinements_only", "stage1", "stage2", "stage2_first")


def get_config(arg="claims"):
    if arg not in VARIANTS:
        raise UserError(f"configs/claims_srt.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def repetition() -> ConfigDict:
    """The lab with all arms."""
    plain = TUNED["refinements_only"]
    settings = TUNED | dict(own_refinements=plain, best_drafts=plain)
    return srt_lab.lab(arms=ARMS, again=AGAIN, settings=settings, **SIZES)


def claimed(
    seeds: int = SEEDS,
    publish: str = "docs/claims/srt",
    one: Callable[[], ConfigDict] = repetition,
) -> ConfigDict:
    """All repetitions, the evaluations over them, and what the claims come to."""
    stages: dict[str, ConfigDict] = {}
    for k in range(seeds):
        c = one()
        own = {name: c.stages[name] for name in c.order} | best_of_n(c) | sampled(c)
        own |= as_in_paper(c)
        compared, own_gate = own.pop("compared"), own.pop("gate")
        stages |= repeated(own, k, FIRST + k)
    systems = compared.systems.to_dict()
    systems |= {name: {"path": name} for name in ("voted", "plain_voted", "best_known")}
    systems |= first_and_refined("stage1_paper", "stage2_paper")
    of_all = in_all_of(systems, seeds)
    truth = dict(data=c.data, on_missing="empty")
    stages["compared"] = evaluate("truth", systems=of_all, **truth)
    some = {name: of_all[name] for name in (*AGAINST_FIRST, "stage1_first")}
    stages["against_first"] = evaluate("truth", systems=some, baseline="stage1_first", **truth)
    stages["scored"] = evaluate(
        "score", systems=of_all, data=c.data, on_missing="count", rule=ORACLE
    )
    systems = first_and_refined(*REFINING, of="sampled", **{m: f"{m}_sampled" for m in PLAIN})
    stages["sampled"] = evaluate("truth", systems=in_all_of(systems, seeds), **truth)
    rated = {model: in_all(f"agreement_{model}/records", seeds) for model in REFINING}
    stages["agreement"] = evaluate("feedback", systems=rated, data=c.data, on_missing="count")
    shown = in_all(own_gate.evaluation, seeds)
    stages["gate"] = gate(shown, own_gate.value, less=own_gate.less, at_least=own_gate.at_least)
    evaluations = ("compared", "sampled", "scored", "agreement")
    stages["claims"] = claims(CLAIMS, evaluations=evaluations, gate="gate", publish=publish)
    return recipe(c, **stages)


def in_all_of(systems: dict[str, Any], seeds: int) -> dict[str, dict[str, Any]]:
    """The systems of one repetition in each of them."""
    settings = {n: s if isinstance(s, dict) else dict(path=s) for n, s in systems.items()}
    return {name: {**s, "path": in_all(s["path"], seeds)} for name, s in settings.items()}


def sampled(c: ConfigDict) -> dict[str, ConfigDict]:
    """Answers, feedback and refinements drawn at temperature 1: greedy answers hide noise."""
    tests = of_stage(c.data, "world/test")
    drawn = dict(data=tests, temperature=1.0)
    stages = {f"{m}_sampled": generate(init=m, **drawn, **srt_lab.SHORT) for m in PLAIN}
    own = dict(asks="self_refine", **drawn, **srt_lab.BOTH)
    return stages | {f"{m}_sampled": generate(init=m, **own) for m in REFINING}


def best_of_n(c: ConfigDict) -> dict[str, ConfigDict]:
    """At equal numbers of generated tokens: the answer that the first stage's model, or plain SFT
    on refinements, gives most often; and the best one, if somebody knew which."""

    def of(stage):
        return of_stage(c.data, stage)

    plain = dict(data=of("world/test"), temperature=0.7, samples=EQUAL, **srt_lab.SHORT)
    return {
        "voted": filter_("commonest", data=of("samples"), samples=EQUAL),
        "plain_samples": generate(init="refinements_only", **plain),
        "plain_voted": filter_("commonest", data=of("plain_samples"), samples=EQUAL),
        "samples_judged": judge("rule", data=of("samples"), rule=ORACLE),
        "best_known": filter_("ranked", data=of("samples_judged"), samples=EQUAL),
    }


def as_in_paper(c: ConfigDict) -> dict[str, ConfigDict]:
    """Both stages with the paper's settings, the second one from the stage 1 that was tuned."""
    tests = of_stage(c.data, "world/test")
    first = srt_lab.arm(c, "stage1_paper", tests, SIZES["first"], **PAPER["stage1"])
    return first | srt_lab.second_arm(c, "stage2_paper", tests, {}, **PAPER["stage2"])


def tuning(seeds: int = TUNING_SEEDS) -> ConfigDict:
    """Nine settings of each method. Stage 2's start from the best stage 1."""
    stages: dict[str, ConfigDict] = {}
    for k in range(seeds):
        c = srt_lab.lab(settings=TUNED, **SIZES)
        own, systems = tried(c, of_stage(c.data, "world/validation"))
        stages |= repeated(own, k, TUNING_FIRST + k)
    of_all = in_all_of(systems, seeds)
    stages["greedy"] = evaluate("truth", systems=of_all, data=c.data, on_missing="empty")
    return recipe(c, **stages)


def tried(c: ConfigDict, tests: ConfigDict) -> tuple[dict[str, ConfigDict], dict[str, Any]]:
    """(stages, systems) of one world's trials."""
    stages = {name: c.stages[name] for name in c.order[: c.order.index("stage2")]}
    systems: dict[str, Any] = {}
    for method in GRID:
        for run, settings in trials(GRID, method):
            if method == "stage2":
                stages |= srt_lab.second_arm(c, run, tests, {}, **settings)
            else:
                how = srt_lab.ARMS.get(method, {})
                stages |= srt_lab.arm(c, run, tests, SIZES["first"], **how, **settings)
            plain = method == "refinements_only"
            systems |= {run: f"{run}_answers"} if plain else first_and_refined(run)
    return stages, systems


def smoke() -> ConfigDict:
    """Stage 1 learns the form of a critique; the other arms next to nothing."""
    few: dict[str, dict[str, Any]] = {name: dict(total_steps=2) for name in srt_lab.ARMS}
    few["score7"]["scores"] = (10.0,)  # what any refinement of a single account has
    one = partial(srt_lab.smoke, arms=ARMS, again=AGAIN, samples=EQUAL, settings=few)
    c = claimed(1, "", one)
    # What has learned next to nothing may give all refinements the scores of their answers.
    c.stages.s0_stage2_strict_kept.options.ties = "keep"
    return c


VARIANTS = {"claims": claimed, "tuning": tuning, "smoke": smoke}
