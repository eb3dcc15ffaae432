"""The claims about SRT, in the ledger: docs/claims/README.md.

    python -m lfjax.main --config configs/claims_srt.py --workdir runs/claims_srt

Repetitions of the lab's recipe with all its arms, each with a ledger, base and models of its own.
What the committed file of claims comes to is written to docs/claims/srt.json and srt.md. Stopped
anywhere, the same command continues with the next cell.

claims    the above
tuning    four settings of each method in a world of its own, scored on its validation prompts;
          the best ones are in TUNED
smoke     two repetitions with next to no data, for tests; it writes to its workdir alone
"""

from collections.abc import Callable
from functools import partial
from itertools import product
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
    train,
)
from lfjax.recipe.self_refining import first_and_refined, refined_answers

CLAIMS = "docs/claims/srt.claims.json"
SEEDS, FIRST, TUNING_SEED = 10, 1, 100  # training of seed 0 was looked at while the world was made
ARMS = tuple(name for name in srt_lab.ARMS if name not in srt_lab.CONTROLS)
SIZES = dict(pretraining=24000, first=600, second=600, evaluated=100)
AGAIN = 3
ORACLE = "lfjax.lab.making:oracle"
# Answers that cost as much as an answer with its feedback and refinement: 9 tokens against 67.
EQUAL = 7
GRID = {  # method -> learning rates, and the values of one option of its own
    "stage1": ((1e-3, 2e-3), "total_epochs", (3.0, 5.0)),
    "no_feedback": ((1e-3, 2e-3), "total_epochs", (3.0, 5.0)),
    "refinements_only": ((1e-3, 2e-3), "total_epochs", (3.0, 5.0)),
    "stage2": ((1e-4, 3e-4), "beta", (0.01, 0.1)),
}
TUNED = {  # the best of the grid by refined accounts that are right
    "stage1": dict(learning_rate=1e-3, total_epochs=5.0),
    "no_feedback": dict(learning_rate=1e-3, total_epochs=5.0),
    "refinements_only": dict(learning_rate=1e-3, total_epochs=5.0),
    "stage2": dict(learning_rate=1e-4, beta=0.01),
}
PLAIN, REFINING = ("base", "refinements_only"), ("stage1", "stage2")
AGAINST_FIRST = ("base", "refinements_only", "stage1", "stage2", "stage2_first")


def get_config(arg="claims"):
    if arg not in VARIANTS:
        raise UserError(f"configs/claims_srt.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def repetition() -> ConfigDict:
    """The lab with all arms."""
    return srt_lab.lab(arms=ARMS, again=AGAIN, settings=TUNED, **SIZES)


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
        compared, own_gate = own.pop("compared"), own.pop("gate")
        stages |= repeated(own, k, FIRST + k)
    systems = compared.systems.to_dict()
    systems |= {name: {"path": name} for name in ("voted", "plain_voted", "best_known")}
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


def tuning() -> ConfigDict:
    """Four settings of each method. Stage 2 starts from a stage 1 with the lab's settings."""
    c = srt_lab.lab(**SIZES)
    tests, stages = of_stage(c.data, "world/validation"), {}
    for name in c.order[: c.order.index("stage2")]:
        stages[name] = c.stages[name]
    systems: dict[str, Any] = {}
    for method, (rates, option, values) in GRID.items():
        for rate, value in product(rates, values):
            run = f"{method}_{rate:g}_{value:g}".replace(".", "p")
            settings = {"learning_rate": rate, option: value}
            if method == "stage2":
                preferred = srt_lab.ROWS | srt_lab.PREFERRED | settings
                data = of_stage(c.data, "pairs")
                stages[run] = train("dpo", data=data, init="stage1", own_pairs=True, **preferred)
                stages |= refined_answers((run,), tests, srt_lab.BOTH)
            else:
                how = srt_lab.ARMS.get(method, {})
                stages |= srt_lab.arm(c, run, tests, SIZES["first"], **how, **settings)
            plain = method == "refinements_only"
            systems |= {run: f"{run}_answers"} if plain else first_and_refined(run)
    stages["greedy"] = evaluate("truth", systems=systems, data=c.data, on_missing="empty")
    c.seed = TUNING_SEED
    return recipe(c, **stages)


def smoke() -> ConfigDict:
    """Stage 1 learns the form of a critique; the other arms next to nothing."""
    few = {name: dict(total_steps=2) for name in srt_lab.ARMS}
    one = partial(srt_lab.smoke, arms=ARMS, again=AGAIN, samples=EQUAL, settings=few)
    return claimed(2, "", one)


VARIANTS = {"claims": claimed, "tuning": tuning, "smoke": smoke}
