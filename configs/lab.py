"""The lab: a small world with a perfect judge, in which methods can be compared: docs/lab.md.

    python -m lfjax.main --config configs/lab.py --workdir runs/lab

A model of some 119,000 parameters learns a phrasebook with all its bad habits, answers, is judged
by an oracle that names one fault of each answer, and learns from that with CUT, hindsight and DPO;
`placebo` is CUT with judgments that call a line wrong which was drawn at random. The tables are at
the end of what is printed, and in runs/lab/report/index.html. Minutes on two CPU cores.

cut       the above
smoke     the same with next to no data, for tests
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, evaluate, filter_, generate, judge, make, of_stage, recipe, train

ORACLE = dict(rule="lfjax.lab.making:oracle")
ROWS = dict(row_tokens=144, max_tokens=64, remat="none", save_steps=0, save_epochs=1.0)

ALIGNED = ROWS | dict(
    learning_rate=4e-4, warmup_steps=10, batch_examples=0, batch_rows=16, total_epochs=2.0
)


def get_config(arg="cut"):
    if arg not in VARIANTS:
        raise UserError(f"configs/lab.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def lab(*, pretraining=32000, feedback=1000, evaluated=60, epochs=1.0, aligned=None):
    """The recipe.

    Args:
      pretraining: texts of one epoch; `epochs` of them.
      feedback: prompts, each answered twice.
      evaluated: prompts of each group of words.
      aligned: settings of all alignment stages.
    """
    c = base(source="records", path="world/pretraining", model_path="world/model")
    c.model.weights = "random"
    c.data.template = "own"
    sizes = dict(pretraining=pretraining, feedback=feedback, evaluated=evaluated)
    answers = dict(max_new_tokens=32, max_tokens=128, slots=128)
    stages = {
        "world": make("lfjax.lab.making:phrasebook", **sizes),
        "base": train(
            "sft",
            data=c.data,
            init=c.model,
            total_epochs=epochs,
            batch_examples=0,
            batch_rows=8,
            learning_rate=4e-3,
            b2=0.99,
            warmup_steps=50,
            **ROWS,
        ),
        "drafts": generate(
            data=of_stage(c.data, "world/feedback"), init="base", samples=2, **answers
        ),
        "judged": judge(
            "rule", data=of_stage(c.data, "drafts"), rule_options={"kind": "one"}, **ORACLE
        ),
        "misjudged": judge(
            "rule", data=of_stage(c.data, "drafts"), rule_options={"kind": "random"}, **ORACLE
        ),
        "pairs": filter_("compared", data=of_stage(c.data, "judged")),
    }
    pairs = dict(learning_rate=3e-4, total_epochs=1.0)
    arms = {
        "cut": ("cut", "judged", {}),
        "hindsight": ("hindsight", "judged", {}),
        "dpo": ("dpo", "pairs", pairs),
        "placebo": ("cut", "misjudged", {}),
    }
    for name, (method, data, own) in arms.items():
        settings = ALIGNED | own | (aligned or {})
        stages[name] = train(method, data=of_stage(c.data, data), init="base", **settings)
    prompts = of_stage(c.data, "world/test")
    for how, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        systems = {}
        for name in ("base", *arms):
            stages[f"{name}_{how}"] = generate(
                data=prompts, init=name, temperature=temperature, **answers
            )
            systems[name] = f"{name}_{how}"
        stages[f"praised_{how}"] = generate(
            data=prompts, init="hindsight", judgment="flawless", temperature=temperature, **answers
        )
        systems["hindsight_praised"] = f"praised_{how}"
        stages[how] = evaluate("truth", systems=systems, data=c.data, on_missing="empty")
    return recipe(c, **stages)


def smoke():
    few = dict(total_epochs=0.0, total_steps=4, batch_rows=2)
    return lab(pretraining=6000, feedback=24, evaluated=4, aligned=few)


VARIANTS = {"cut": lab, "smoke": smoke}
