"""The claims about CUT, in the phrasebook world: docs/claims/README.md.

    python -m lfjax.main --config configs/claims_cut.py --workdir runs/claims_cut

Ten worlds, each with its own base model and feedback; in each the arms below learn from the same
2,000 answers, and some from 400 and 100 of them. What the committed file of claims comes to is
written to docs/claims/cut.json and cut.md. About half an hour on two CPU cores; stopped anywhere,
the same command continues with the next cell.

claims    the above
tuning    nine settings of each method in a world of its own, scored on its validation prompts;
          the best ones are in TUNED
smoke     two worlds with next to no data, for tests; it writes to its workdir alone
"""

from configs.lab import (
    ANSWERS,
    DECODED,
    ORACLE,
    PRECISION,
    aligned,
    answered,
    beginning,
    first_config,
)
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
    seeded,
    trials,
)

CLAIMS = "docs/claims/cut.claims.json"
SEEDS, TUNING_SEED = 10, 100
SIZES = dict(pretraining=32000, feedback=1000, evaluated=60)
STEPS = dict(total_epochs=0.0, total_steps=63)  # one epoch of 2,000 answers, of fewer more
FEEDBACK = {  # what is said of the same answers: options of the oracle
    "judged": {"kind": "all"},
    "misjudged": {"kind": "random"},
    "flawed": {"kind": "flawed"},
    "scored": {"kind": "score"},
}
ARMS = {  # method, what it learns from, whose settings
    "cut": ("cut", "judged", "cut"),
    "cut_paper": ("cut", "judged", "paper"),
    "placebo": ("cut", "misjudged", "cut"),
    "shuffled": ("cut", "exchanged", "cut"),
    "flawed_only": ("cut", "flawed", "cut"),
    "score_as_text": ("cut", "scored", "cut"),
    "unlikelihood": ("unlikelihood", "judged", "unlikelihood"),
    "hindsight": ("hindsight", "judged", "hindsight"),
    "forward": ("forward_prediction", "judged", "forward"),
    "ilf": ("ilf_mle", "improved", "ilf"),
    "best_of_n": ("best_of_n", "pairs", "best_of_n"),
    "dpo": ("dpo", "pairs", "dpo"),
}
BUDGETED = ("cut", "hindsight", "dpo")  # also with fewer answers
BUDGETS = (400, 100)
GRID = {  # method -> two of its options, and the values of each
    "cut": ("learning_rate", (2e-4, 4e-4, 8e-4), "threshold", (1.1, 1.5, 2.0)),
    "unlikelihood": ("learning_rate", (1e-5, 1e-4, 4e-4), "alpha", (0.1, 0.3, 1.0)),
    "hindsight": ("learning_rate", (2e-4, 4e-4, 8e-4), "total_steps", (32, 63, 126)),
    "forward": ("learning_rate", (2e-4, 4e-4, 8e-4), "total_steps", (32, 63, 126)),
    "ilf": ("learning_rate", (2e-4, 4e-4, 8e-4), "total_steps", (32, 63, 126)),
    "best_of_n": ("learning_rate", (2e-4, 4e-4, 8e-4), "total_steps", (32, 63, 126)),
    "dpo": ("learning_rate", (3e-4, 6e-4, 1.2e-3), "beta", (0.1, 0.3, 1.0)),
}
TUNED = {  # the best of the grid by what is right, sampled: mean of seen, unseen and clean words
    "cut": dict(learning_rate=8e-4, threshold=1.5),
    "paper": dict(learning_rate=4e-4, threshold=1.1, alpha=1.0),  # the authors', online
    "unlikelihood": dict(learning_rate=1e-4, alpha=0.1),
    "hindsight": dict(learning_rate=8e-4, total_steps=63),
    "forward": dict(learning_rate=2e-4, total_steps=32),
    "ilf": dict(learning_rate=8e-4, total_steps=126),
    "best_of_n": dict(learning_rate=2e-4, total_steps=32),
    "dpo": dict(learning_rate=6e-4, beta=1.0),
}


def get_config(arg="claims"):
    if arg not in VARIANTS:
        raise UserError(f"configs/claims_cut.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def feedback_stages(c, before, world, sizes, budgets=()):
    """Answers and what was said of them, for all arms; the same for the first prompts of fewer."""
    stages = beginning(c, **sizes, kinds=FEEDBACK, world=world, before=before)
    judged = of_stage(c.data, f"{before}judged")
    stages[f"{before}exchanged"] = filter_("shuffled", data=judged)
    stages[f"{before}improved"] = filter_("improved", data=judged, kind="all")
    for size in budgets:
        own = f"{before}{size}_"
        stages[f"{own}drafts"] = generate(
            data=of_stage(c.data, f"{world}/feedback"),
            init=f"{before}base",
            examples=size // 2,
            samples=2,
            **ANSWERS,
        )
        drafts, how = of_stage(c.data, f"{own}drafts"), dict(rule_options=FEEDBACK["judged"])
        stages[f"{own}judged"] = judge("rule", data=drafts, rule=ORACLE, **how)
        stages[f"{own}pairs"] = filter_("compared", data=of_stage(c.data, f"{own}judged"))
    return stages


def arms_with(budgets):
    """Arms with their settings, those that have fewer answers as NAME_SIZE."""
    arms = {name: (method, data, TUNED[own]) for name, (method, data, own) in ARMS.items()}
    for size in budgets:
        for name in BUDGETED:
            method, data, settings = arms[name]
            arms[f"{name}_{size}"] = (method, f"{size}_{data}", settings)
    own = STEPS | dict(blame_records=0)
    return {name: (m, data, own | settings) for name, (m, data, settings) in arms.items()}


def claimed(seeds=SEEDS, budgets=BUDGETS, sizes=SIZES, few=None, publish="docs/claims/cut"):
    """All repetitions, the evaluations over them, and what the claims come to.

    Args:
      few: settings of all train stages, for tests.
    """
    c, stages = first_config(), {}
    arms = arms_with(budgets)
    systems = ("base", *arms, "hindsight_praised")
    for k in range(seeds):
        before, world = f"s{k}_", f"s{k}_world"
        own = feedback_stages(c, before, world, sizes, budgets)
        own |= aligned(c, arms, before, few)
        for how, temperature in DECODED.items():
            own |= answered(c, systems, f"{world}/test", temperature, before, f"_{how}")
        stages |= {name: seeded(stage, k) for name, stage in own.items()}
    for how in DECODED:
        sources = {name: in_all(f"{name}_{how}", seeds) for name in systems}
        stages[how] = evaluate("truth", systems=sources, data=c.data, on_missing="empty")
    blames = in_all("blame", seeds)
    stages["gate"] = gate(blames, PRECISION, at_least=0.8)
    stages["claims"] = claims(CLAIMS, evaluations=tuple(DECODED), gate="gate", publish=publish)
    return recipe(c, **stages)


def tuning():
    """Nine settings of each method."""
    c = first_config()
    c.seed = TUNING_SEED
    stages = feedback_stages(c, "", "world", SIZES)
    runs = {}
    for name in GRID:
        method, data, _ = ARMS[name]
        for run, settings in trials(GRID, name):
            runs[run] = (method, data, STEPS | dict(blame_records=0) | settings)
    stages |= aligned(c, runs)
    stages |= answered(c, runs, "world/validation", 1.0, suffix="_sampled")
    systems = {name: f"{name}_sampled" for name in runs}
    stages["sampled"] = evaluate("truth", systems=systems, data=c.data, on_missing="empty")
    return recipe(c, **stages)


def smoke():
    sizes = dict(pretraining=6000, feedback=24, evaluated=4)
    few = dict(total_epochs=0.0, total_steps=2, batch_rows=2)
    return claimed(2, (), sizes, few, publish="")


VARIANTS = {"claims": claimed, "tuning": tuning, "smoke": smoke}
