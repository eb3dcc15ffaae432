"""CUT online (Xu et al. 2024, arXiv 2312.14591 v4, section 4.3 and Table 6): docs/cut_online.md.

    python -m lfjax.main --config configs/cut_online.py:tiny --workdir runs/online

Every iteration draws prompts that no other one has, samples responses from the current model, has
them judged, and trains the next model with CUT; adapters are merged between iterations. Stopped
anywhere, the same command continues. A variant is named after the colon:

tiny            three iterations of a small model in the phrasebook world (docs/lab.md), judged by
                its oracle, which names one fault of each answer; at the end exact truth of every
                iteration, also on words without feedback. Minutes on two CPU cores.
stories260k     three iterations of a pretrained model of 260 K parameters that goes on with
                stories; the rule wants the thing named, no sad word, and a finished last sentence.
                --config.model.path=DIRECTORY. Minutes on two CPU cores.
stories260k_shuffled, stories260k_positives
                the same loop with judgments exchanged among the flawed responses, and with
                satisfactory responses alone: what is left of the effect without the judgments.
llama2_13b_chat the paper's: five iterations of 1,000 instructions, judged by an endpoint
                --config.data.path=alpaca_instructions.jsonl (`prompt` texts; at least 5,000)
                and OPENAI_API_KEY; docs/reproduce_cut.md has the costs.
custom          the same on your prompts and model: --config.data.path=prompts.jsonl
                --config.model.path=DIRECTORY_OR_HUB_ID
"""

from configs import lab
from lfjax.errors import UserError, nearest
from lfjax.recipe import (
    base,
    evaluate,
    filter_,
    generate,
    judge,
    make,
    of_stage,
    recipe,
    train,
)

# The authors' settings of an iteration (their Table 6 and released scripts).
AUTHORS = dict(
    threshold=1.1,
    alpha=1.0,
    lora=dict(rank=16, alpha=16.0, dropout=0.05, pattern="mlp/", base_dtype="bfloat16"),
    dtype="bfloat16",
    remat="full",
    batch_examples=8,
    total_epochs=1.0,
    learning_rate=4e-4,
    decay="cosine",
    warmup_steps=100,
    max_tokens=2048,
    row_tokens=4096,
)
OPENAI = "https://api.openai.com/v1"
ARMS = ("cut", "shuffled", "positives")


def get_config(arg="tiny"):
    if arg not in VARIANTS:
        raise UserError(f"configs/cut_online.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def online(c, *, iterations, examples, answers, judged, settings, init=None, arm="cut", before=()):
    """The loop, as stages.

    Args:
      examples: prompts of an iteration.
      answers, judged: settings of the generate stages and the judge stages.
      settings: of the train stages.
      init: name of the stage with the first model; None for the recipe's model.
      arm: `cut`, `shuffled` (judgments of other responses) or `positives` (satisfactory ones).
      before: stages that come before the loop.
    """
    stages, model = dict(before), init or c.model
    checked = c.data.heldout_examples > 0

    def check(i, model):
        """Held-out prompts, answered and judged."""
        stages[f"check{i}"] = generate(data=c.data, init=model, part="heldout", **answers)
        stages[f"rate{i}"] = judge(data=of_stage(c.data, f"check{i}"), **judged)

    if checked:
        check(0, model)
    for i in range(1, iterations + 1):
        first = dict(examples=examples, first_example=(i - 1) * examples)
        stages[f"answers{i}"] = generate(data=c.data, init=model, **first, **answers)
        stages[f"judged{i}"] = judge(data=of_stage(c.data, f"answers{i}"), **judged)
        learned, keep = f"judged{i}", {"downsample": c.data.downsample}
        if arm != "cut":
            name = "shuffled" if arm == "shuffled" else "satisfactory"
            stages[f"{arm}{i}"] = filter_(name, data=of_stage(c.data, learned))
            learned, keep = f"{arm}{i}", keep if arm == "shuffled" else {}
        data = of_stage(c.data, learned, **keep)
        stages[f"cut{i}"] = train("cut", data=data, init=model, **settings)
        model = f"cut{i}"
        if checked:
            check(i, model)
    return recipe(c, **stages)


def tiny():
    """With one fault named, a single iteration does not turn a habit: the next has to go on."""
    c = lab.first_config()
    world = lab.beginning(c, pretraining=32000, feedback=1300, evaluated=60)
    c.data.update(path="world/feedback", heldout_examples=100)
    settings = lab.ALIGNED | dict(batch_rows=4)
    c = online(
        c,
        iterations=3,
        examples=400,
        answers=lab.ANSWERS,
        judged=dict(judge="rule", rule=lab.ORACLE, rule_options={"kind": "one"}),
        settings=settings,
        init="base",
        before={name: world[name] for name in ("world", "base")},
    )
    models = ("base", "cut1", "cut2", "cut3")
    stages = {name: c.stages[name] for name in c.order}
    stages |= lab.answered(c, models, "world/test", 0.0, suffix="_greedy")
    systems = {name: f"{name}_greedy" for name in models}
    stages["truth"] = evaluate("truth", systems=systems, data=c.data, on_missing="empty")
    return recipe(c, **stages)


def stories260k(arm="cut"):
    """The model knows no end of an answer: first it learns one, from its own first paragraphs."""
    c = base(source="prompts", path="stories/prompts")
    c.data.update(template="bare", heldout_examples=200, downsample=0.25)
    rule = dict(judge="rule", rule="lfjax.judges.rules:story")
    answers = dict(max_new_tokens=96, max_tokens=256, temperature=0.8, slots=64)
    rows = dict(batch_examples=8, max_tokens=256, row_tokens=1024, save_steps=0, save_epochs=1.0)
    first = dict(examples=600, first_example=900, stop=("\n",))
    before = {
        "stories": make("lfjax.lab.stories:write", count=1800),
        "paragraphs": generate(data=c.data, init=c.model, **first, **answers),
        "ends": train(
            "sft",
            data=of_stage(c.data, "paragraphs"),
            init=c.model,
            total_epochs=2.0,
            learning_rate=1e-3,
            **rows,
        ),
    }
    return online(
        c,
        iterations=3,
        examples=300,
        answers=answers,
        judged=dict(rule, rule_options=dict(banned=("sad", "scared", "cry", "cried", "hurt"))),
        settings=dict(threshold=1.1, alpha=1.0, learning_rate=3e-4, **rows),
        init="ends",
        arm=arm,
        before=before,
    )


def llama2_13b_chat():
    """Sampling settings of the responses are not in the paper; its scripts answer greedily."""
    c = base(source="prompts", model_path="meta-llama/Llama-2-13b-chat-hf")
    c.data.downsample = 0.25
    return online(
        c,
        iterations=5,
        examples=1000,
        answers=dict(max_new_tokens=1024, temperature=0.0, dtype="bfloat16"),
        judged=dict(judge="cut", endpoint=dict(url=OPENAI, model="gpt-4")),
        settings=AUTHORS,
    )


def custom():
    c = base(source="prompts")
    c.data.update(template="own", downsample=0.25)
    return online(
        c,
        iterations=3,
        examples=500,
        answers=dict(max_new_tokens=512, temperature=0.7, dtype="bfloat16"),
        judged=dict(judge="cut", endpoint=dict(url=OPENAI)),
        settings=AUTHORS,
    )


VARIANTS = {
    "tiny": tiny,
    "stories260k": stories260k,
    "stories260k_shuffled": lambda: stories260k("shuffled"),
    "stories260k_positives": lambda: stories260k("positives"),
    "llama2_13b_chat": llama2_13b_chat,
    "custom": custom,
}
