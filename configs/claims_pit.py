"""The claims about PIT, in the garden: docs/claims/README.md.

    python -m lfjax.main --config configs/claims_pit.py --workdir runs/claims_pit

Ten repetitions of the lab's PIT recipe, each with a garden, base, policy, improvers and rewards of
its own. What the committed file of claims comes to is written to docs/claims/pit.json and pit.md.
Some 7 minutes of one core's time each; stopped anywhere, the same command continues with the next
cell. benchmarks/pit_claims.py draws the curves.

claims    the above; with a number in its place, so many repetitions
smoke     one repetition with next to no data, for tests; it writes to its workdir alone
"""

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
    in_all,
    of_stage,
    rank,
    recipe,
    repeated,
)

CLAIMS = "docs/claims/pit.claims.json"
SEEDS, FIRST = 10, 1  # the world of seed 0 was looked at while settings were found
DECODED = {"original_040": 0.4, "original_greedy": 0.0}
AS_LONG = {"easy_as_long": "easy", "hard_as_long": "hard_alone"}
BEST_OF = (2, 6)  # responses: as many as one step of improvement makes, or five, with the original


def get_config(arg="claims"):
    if arg.isdigit() and int(arg):
        return claimed(int(arg))
    if arg not in VARIANTS:
        raise UserError(f"configs/claims_pit.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def claimed(seeds: int = SEEDS, publish: str = "docs/claims/pit", one=pit.lab):
    """All repetitions, the evaluation over them, and what the claims come to."""
    stages: dict[str, ConfigDict] = {}
    for k in range(seeds):
        c = one()
        own = {**with_controls(c), **ordering(c)}
        for name in ("gate", "compare"):
            own.pop(name)
        stages |= repeated(own, k, FIRST + k)
    controls = (*(f"best_of_{n}" for n in BEST_OF), *DECODED, *(f"by_{n}" for n in AS_LONG))
    systems = dict(c.stages.compare.systems) | {name: {} for name in controls}
    paths = {name: own.get("path", name) for name, own in systems.items()}
    stages["compare"] = evaluate(
        "truth",
        systems={name: in_all(p, seeds) for name, p in paths.items()},
        data=c.data,
        field="refinement",
        on_missing="empty",
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
    responses, the best of several of the policy's, by its reward; the policy decoded as improvers
    are; and improvers by each half of the curriculum with as many steps as the whole has."""
    stages = {name: c.stages[name] for name in c.order}
    like = stages["original"]
    how = {k: like[k] for k in ("max_new_tokens", "max_tokens", "slots")}
    for n in BEST_OF:
        stages[f"samples_{n}"] = generate(
            data=like.data, init="policy_rl", samples=n, temperature=1.0, **how
        )
        data = of_stage(c.data, f"samples_{n}")
        stages[f"best_of_{n}"] = rank(data=data, reward="reward")
    for name, temperature in DECODED.items():
        stages[name] = generate(data=like.data, init="policy_rl", temperature=temperature, **how)
    for name, half in AS_LONG.items():
        longer = stages[half].copy_and_resolve_references()
        longer.total_steps *= 2
        stages[name] = longer
        once = stages["by_improver"].copy_and_resolve_references()
        once.init = name
        stages[f"by_{name}"] = once
    return stages


def ordering(c: ConfigDict) -> dict[str, ConfigDict]:
    """The gap reward on pairs that it has not learned from (equations 1 and 2)."""
    pairs = of_stage(c.data, "folds/rl")
    return {
        "pairings": filter_("pairings", data=pairs, at_most=300),
        "ordered": gaps(gap="gap", systems={name: f"pairings/{name}" for name in PAIRINGS}),
    }


def smoke():
    return claimed(1, "", pit.smoke)


VARIANTS = {"claims": claimed, "smoke": smoke}
