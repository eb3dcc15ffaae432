"""The lab: a small world with a perfect judge, in which methods can be compared: docs/lab.md.

    python -m lfjax.main --config configs/lab.py --workdir runs/lab

A model of some 119,000 parameters learns a phrasebook with all its bad habits, answers, is judged
by an oracle that names the faults of each answer, and learns from that with CUT, hindsight and DPO;
`placebo` is CUT with judgments that call as many lines wrong, drawn at random. The tables are at
the end of what is printed, and in runs/lab/report/index.html. Minutes on two CPU cores; the
pretrained model is kept for later runs, in other folders too.

cut       the above
limits    where CUT fails: judgments that name one fault, two, three or all, random lines in their
          place, praise, a share of bad judgments, and other thresholds; docs/when_cut_fails.md
smoke     the first with next to no data, for tests
"""

from ml_collections import ConfigDict

from lfjax.errors import UserError, nearest
from lfjax.recipe import (
    base,
    cached,
    detect,
    evaluate,
    filter_,
    gate,
    generate,
    judge,
    make,
    of_stage,
    recipe,
    train,
)

ORACLE = "lfjax.lab.making:oracle"
ROWS = dict(row_tokens=144, max_tokens=64, remat="none", save_steps=0, save_epochs=1.0)
ANSWERS = dict(max_new_tokens=32, max_tokens=128, slots=128)
DECODED = {"greedy": 0.0, "sampled": 1.0}  # temperatures: one hides noise, one rewards sharpening

ALIGNED = ROWS | dict(
    learning_rate=4e-4, warmup_steps=10, batch_examples=0, batch_rows=16, total_epochs=1.0
)
FEEDBACK = {  # what is said of the same answers: options of the oracle
    "judged": {"kind": "all"},
    "misjudged": {"kind": "random"},
}
ARMS = {  # method, what it learns from, settings
    "cut": ("cut", "judged", {}),
    "hindsight": ("hindsight", "judged", {}),
    "dpo": ("dpo", "pairs", dict(learning_rate=6e-4)),
    "placebo": ("cut", "misjudged", {}),
}
BLAMED = dict(row_tokens=144, max_tokens=64, blame_records=200)
PRECISION = ("scores", "precision")


def get_config(arg="cut"):
    if arg not in VARIANTS:
        raise UserError(f"configs/lab.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def first_config():
    """The blocks of model and data that all stages of a lab's recipe start from."""
    c = base(source="records", path="world/pretraining", model_path="world/model")
    c.model.weights = "random"
    c.data.template = "own"
    return c


def beginning(c, *, pretraining, feedback, evaluated, kinds=FEEDBACK, world="world", before=""):
    """The stages up to the feedback: world, model, answers, judgments of every kind and pairs, and
    whether the model reads judgments (the gate).

    Args:
      pretraining: texts of the one epoch.
      feedback: prompts, each answered twice.
      evaluated: prompts of each group of words.
      before: what the other stages' names begin with.
    """
    sizes = dict(pretraining=pretraining, feedback=feedback, evaluated=evaluated)
    model = ConfigDict({**c.model.to_dict(), "path": f"{world}/model"})
    stages = {
        world: make("lfjax.lab.making:phrasebook", **sizes),
        f"{before}base": cached(
            train(
                "sft",
                data=of_stage(c.data, f"{world}/pretraining"),
                init=model,
                batch_examples=0,
                batch_rows=8,
                learning_rate=4e-3,
                b2=0.99,
                warmup_steps=50,
                **ROWS,
            )
        ),
        f"{before}drafts": generate(
            data=of_stage(c.data, f"{world}/feedback"), init=f"{before}base", samples=2, **ANSWERS
        ),
    }
    drafts = of_stage(c.data, f"{before}drafts")
    for name, options in kinds.items():
        stages[before + name] = judge("rule", data=drafts, rule=ORACLE, rule_options=options)
    judged = of_stage(c.data, f"{before}judged")
    stages[f"{before}pairs"] = filter_("compared", data=judged)
    stages[f"{before}blame"] = detect(data=judged, init=f"{before}base", **BLAMED)
    return stages


def aligned(c, arms, before="", settings=None):
    """A train stage for every arm."""
    return {
        before + name: train(
            method,
            data=of_stage(c.data, before + data),
            init=f"{before}base",
            **(ALIGNED | own | (settings or {})),
        )
        for name, (method, data, own) in arms.items()
    }


def answered(c, systems, prompts, temperature, before="", suffix=""):
    """A generate stage for every system: of the base or an arm, `X_praised` with praise shown
    before the answer."""
    return {
        f"{before}{name}{suffix}": generate(
            data=of_stage(c.data, prompts),
            init=before + name.removesuffix("_praised"),
            judgment="flawless" if name.endswith("_praised") else "",
            temperature=temperature,
            **ANSWERS,
        )
        for name in systems
    }


def lab(*, pretraining=32000, feedback=1000, evaluated=60, settings=None):
    """The recipe; `settings` are of all alignment stages."""
    c = first_config()
    sizes = dict(pretraining=pretraining, feedback=feedback, evaluated=evaluated)
    stages = beginning(c, **sizes)
    stages["gate"] = gate("blame", PRECISION, at_least=0.8)
    stages |= aligned(c, ARMS, settings=settings)
    systems = ("base", *ARMS, "hindsight_praised")
    for how, temperature in DECODED.items():
        stages |= answered(c, systems, "world/test", temperature, suffix=f"_{how}")
        sources = {name: f"{name}_{how}" for name in systems}
        stages[how] = evaluate("truth", systems=sources, data=c.data, on_missing="empty")
    return recipe(c, **stages)


def limits():
    """CUT on the same answers, judged in different ways; `random_…` are the placebos."""
    c = first_config()
    kinds = {"judged": {"kind": "all"}, "random_all": {"kind": "random"}}
    for names in (1, 2, 3):
        kinds[f"some{names}"] = {"kind": "some", "names": names}
        kinds[f"random{names}"] = {"kind": "random", "names": names}
    kinds |= {"praise": {"kind": "praise"}, "flawed": {"kind": "flawed"}}
    for worse in ("random", "flawed", "misplaced"):  # noise, vagueness, wrong lines
        for percent in (25, 50):
            kinds[f"{worse}_in_{percent}"] = {"kind": "all", "worse": worse, "rate": percent / 100}
    arms = {f"cut_{kind}": ("cut", kind, {}) for kind in kinds}
    for threshold in (1.01, 1.5, 2.0, 3.0):
        name = f"cut_lambda{threshold:g}".replace(".", "p")
        arms[name] = ("cut", "judged", dict(threshold=threshold))
    arms["cut_praise_lambda3"] = ("cut", "praise", dict(threshold=3.0))
    stages = beginning(c, pretraining=32000, feedback=1000, evaluated=60, kinds=kinds)
    for kind in ("some1", "random_all", "praise"):
        data = of_stage(c.data, kind)
        stages[f"blame_{kind}"] = detect(data=data, init="base", **BLAMED)
    stages |= aligned(c, arms)
    systems = ("base", *arms)
    for how, temperature in DECODED.items():
        stages |= answered(c, systems, "world/test", temperature, suffix=f"_{how}")
        sources = {name: f"{name}_{how}" for name in systems}
        stages[how] = evaluate("truth", systems=sources, data=c.data, on_missing="empty")
    return recipe(c, **stages)


def smoke():
    few = dict(total_epochs=0.0, total_steps=4, batch_rows=2)
    return lab(pretraining=6000, feedback=24, evaluated=4, settings=few)


VARIANTS = {"cut": lab, "limits": limits, "smoke": smoke}
