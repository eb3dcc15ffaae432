"""The claims about PIT, in the garden: docs/claims/README.md.

    python -m lfjax.main --config configs/claims_pit.py --workdir runs/claims_pit

Ten repetitions of the lab's PIT recipe with the settings that trials found, and three times as many
steps of RL, each with a garden, base, policy, improvers and rewards of its own. What the committed
file of claims comes to is written to docs/claims/pit.json and pit.md. Some 8 minutes of one core's
time each; stopped anywhere, the same command continues with the next cell. benchmarks/pit_claims.py
draws the curves.

claims    the above; with a number in its place, so many repetitions
tuning    nine settings of each method in two worlds of their own, scored on their validation
          prompts; the best ones are in TUNED
smoke     one repetition with next to no data, for tests; it writes to its workdir alone
"""

from typing import Any

from ml_collections import ConfigDict

from configs import pit
from lfjax.data.folds import PAIRINGS
from lfjax.errors import UserError, nearest
from lfjax.recipe import (
    claims,
    evaluate,
    filter_,
    gaps,
    gate,
    generate,
    improve,
    in_all,
    of_stage,
    rank,
    recipe,
    repeated,
    trials,
    with_settings,
)

CLAIMS = "docs/claims/pit.claims.json"
SEEDS, FIRST = 10, 1  # the world of seed 0 was looked at while the world was made
TUNING_SEEDS, TUNING_FIRST = 2, 100
RL_STEPS = 120  # of each RL stage
RATES, SCORING = (1e-4, 3e-4, 1e-3), (1e-3, 2e-3, 4e-3)
GRID = {  # method -> two of its options, and the values of each
    "policy_rl": ("learning_rate", RATES, "beta", (0.03, 0.1, 0.3)),
    "pit": ("learning_rate", RATES, "beta", (0.03, 0.1, 0.3)),
    "improver": ("learning_rate", (1e-3, 2e-3, 4e-3), "total_epochs", (1.0, 2.0, 4.0)),
    "self_refine": ("temperature", (0.2, 0.4, 0.8), "steps", (1, 3, 5)),
    "best_of": ("learning_rate", SCORING, "temperature", (0.4, 0.7, 1.0)),
}
TUNED = {  # the best of the grid by beds that are right
    "policy_rl": dict(learning_rate=1e-3, beta=0.1),
    "pit": dict(learning_rate=3e-4, beta=0.3),
    "improver": dict(learning_rate=4e-3, total_epochs=4.0),
    "self_refine": dict(temperature=0.2, steps=1),
    "best_of": dict(learning_rate=4e-3, temperature=0.4),
}
DECODED = {"original_040": 0.4, "original_greedy": 0.0}
SELF_REFINED = {"self_refine_tuned": "policy_rl", "self_refine_before_rl": "policy"}
AS_LONG = {"easy_as_long": "easy", "hard_as_long": "hard_alone"}
BEST_OF = (2, 6)  # responses: as many as one step of improvement makes, or five, with the original


def get_config(arg="claims"):
    if arg.isdigit() and int(arg):
        return claimed(int(arg))
    if arg not in VARIANTS:
        raise UserError(f"configs/claims_pit.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def repetition() -> ConfigDict:
    """The lab with the settings that trials found."""
    of_pit = {name: TUNED["pit"] for name in ("easy", "hard", "hard_alone")}
    own = {name: TUNED[name] for name in ("policy_rl", "improver")} | of_pit
    return pit.lab(rl_steps=RL_STEPS, settings=own)


def claimed(seeds: int = SEEDS, publish: str = "docs/claims/pit", one=repetition):
    """All repetitions, the evaluation over them, and what the claims come to."""
    stages: dict[str, ConfigDict] = {}
    for k in range(seeds):
        c = one()
        own = {**with_controls(c), **ordering(c)}
        for name in ("gate", "compare"):
            own.pop(name)
        stages |= repeated(own, k, FIRST + k)
    controls = (*SELF_REFINED, *(f"best_of_{n}" for n in BEST_OF), *DECODED)
    controls += tuple(f"by_{n}" for n in AS_LONG)
    systems = dict(c.stages.compare.systems) | {name: {} for name in controls}
    paths = {name: own.get("path", name) for name, own in systems.items()}
    stages["compare"] = evaluate(
        "truth",
        systems={name: in_all(p, seeds) for name, p in paths.items()},
        data=c.data,
        field="refinement",
        on_missing="empty",
        baseline="original",
    )
    gapped = {name: in_all(f"ordered/{name}", seeds) for name in PAIRINGS}
    stages["ordering"] = evaluate("feedback", systems=gapped, data=c.data, on_missing="count")
    own = c.stages.gate
    shown = in_all(own.evaluation, seeds)
    stages["gate"] = gate(shown, own.value, less=own.less, at_least=own.at_least)
    stages["claims"] = claims(
        CLAIMS, evaluations=("compare", "ordering"), gate="gate", publish=publish
    )
    return recipe(c, **stages)


def with_controls(c: ConfigDict) -> dict[str, ConfigDict]:
    """The stages of a repetition, and what improvement is compared with: at equal numbers of
    responses, the best of several of the policy's, by a reward; the policy decoded as improvers
    are; Self-Refine as its trials found it best for the policy, and so by the policy before RL; and
    improvers by each half of the curriculum with as many steps as the whole has."""
    stages = {name: c.stages[name] for name in c.order}
    like = stages["original"]
    how = {k: like[k] for k in ("max_new_tokens", "max_tokens", "slots")}
    best = TUNED["best_of"]
    stages["ranking"] = changed(c, "reward", learning_rate=best["learning_rate"])
    for n in BEST_OF:
        stages[f"samples_{n}"] = generate(
            data=like.data, init="policy_rl", samples=n, temperature=best["temperature"], **how
        )
        data = of_stage(c.data, f"samples_{n}")
        stages[f"best_of_{n}"] = rank(data=data, reward="ranking")
    refining = dict(by="self_refine", **TUNED["self_refine"], **how)
    for name, model in SELF_REFINED.items():
        stages[name] = improve(data=of_stage(c.data, "original"), init=model, **refining)
    for name, temperature in DECODED.items():
        stages[name] = generate(data=like.data, init="policy_rl", temperature=temperature, **how)
    for name, half in AS_LONG.items():
        stages[name] = changed(c, half, total_steps=2 * c.stages[half].total_steps)
        stages[f"by_{name}"] = changed(c, "by_improver", init=name)
    return stages


def changed(c: ConfigDict, name: str, **settings: Any) -> ConfigDict:
    """A stage with other settings."""
    return with_settings(name, c.stages[name].copy_and_resolve_references(), settings)


def ordering(c: ConfigDict) -> dict[str, ConfigDict]:
    """The gap reward on pairs that it has not learned from (equations 1 and 2)."""
    pairs = of_stage(c.data, "folds/rl")
    return {
        "pairings": filter_("pairings", data=pairs, at_most=300),
        "ordered": gaps(gap="gap", systems={name: f"pairings/{name}" for name in PAIRINGS}),
    }


def tuning(seeds: int = TUNING_SEEDS):
    """Nine settings of each method. What is improved comes from the best policy."""
    stages: dict[str, ConfigDict] = {}
    for k in range(seeds):
        c = repetition()
        own, systems = tried(c)
        stages |= repeated(own, k, TUNING_FIRST + k)
    of_all = {name: in_all(path, seeds) for name, path in systems.items()}
    how = dict(field="refinement", on_missing="empty")
    stages["trials"] = evaluate("truth", systems=of_all, data=c.data, **how)
    return recipe(c, **stages)


def tried(c: ConfigDict) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """(stages, systems by their stage) of one world's trials."""
    stages: dict[str, ConfigDict] = {}
    systems: dict[str, str] = {}
    tests = of_stage(c.data, "world/validation")
    how = {k: c.stages.original[k] for k in ("max_new_tokens", "max_tokens", "slots")}

    def with_stages(*names: str) -> None:
        stages.update({name: c.stages[name] for name in names})

    def improved(run: str, init: str) -> None:
        data = of_stage(c.data, "original")
        stages[f"by_{run}"] = improve(data=data, init=init, temperature=0.4, **how)
        systems[run] = f"by_{run}"

    with_stages("world", "base", "folds", "policy", "improver", "reward", "gap")
    for run, settings in trials(GRID, "policy_rl"):
        stages[run] = changed(c, "policy_rl", **settings)
        stages[f"{run}_answers"] = generate(data=tests, init=run, temperature=1.0, **how)
        systems[run] = f"{run}_answers"
    with_stages("policy_rl", "own", "original")
    stages["original"].data = tests
    for run, settings in trials(GRID, "improver"):
        stages[run] = changed(c, "improver", **settings)
        improved(run, run)
    for run, settings in trials(GRID, "pit"):
        stages[f"{run}_easy"] = changed(c, "easy", **settings)
        stages[run] = changed(c, "hard", init=f"{run}_easy", **settings)
        improved(run, run)
    for run, settings in trials(GRID, "self_refine"):
        data = of_stage(c.data, "original")
        refining = dict(by="self_refine", init="policy_rl", **settings)
        stages[run] = improve(data=data, **refining, **how)
        systems[run] = f"{run}/records"
    for run, settings in trials(GRID, "best_of"):
        rate = settings["learning_rate"]
        reward = f"reward_{rate:g}".replace(".", "p")
        stages[reward] = changed(c, "reward", learning_rate=rate)
        drawn = dict(samples=max(BEST_OF), temperature=settings["temperature"])
        stages[f"{run}_samples"] = generate(data=tests, init="policy_rl", **drawn, **how)
        data = of_stage(c.data, f"{run}_samples")
        stages[run] = rank(data=data, reward=reward)
        systems[run] = run
    return stages, systems


def smoke():
    return claimed(1, "", pit.smoke)


VARIANTS = {"claims": claimed, "tuning": tuning, "smoke": smoke}
