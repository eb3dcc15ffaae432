"""A model that judges, and CUT from its judgments (Xu et al. 2024, section 4.4): docs/judges.md.

    python -m lfjax.main --config configs/judgment_model.py --workdir runs/judge \
        --config.data.path=judgments.jsonl --config.prompts.path=prompts.jsonl \
        --config.model.path=DIRECTORY_OR_HUB_ID

The first stages train a judge on judged responses; the others let the model answer new prompts,
have the judge judge, and train the model with CUT. The paper takes 3,000 or 5,000 of its own
judgments (`data.source=cut`) and 1,000 prompts.
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, filter_, generate, judge, of_stage, recipe, train

LARGE = dict(dtype="bfloat16", max_tokens=3072)
SETTINGS = dict(
    batch_examples=8,
    total_epochs=1.0,
    learning_rate=4e-4,
    warmup_steps=100,
    lora=dict(rank=16, alpha=16.0, dropout=0.05, pattern="mlp/", base_dtype="bfloat16"),
    dtype="bfloat16",
    remat="full",
)


def get_config(arg="custom"):
    if arg not in VARIANTS:
        raise UserError(
            f"configs/judgment_model.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}"
        )
    return VARIANTS[arg]()


def custom():
    c = base(source="cut")
    c.prompts = base(source="prompts").data
    answers = dict(temperature=0.7, max_new_tokens=1024, **LARGE)
    judging = dict(max_new_tokens=512, **LARGE)
    return recipe(
        c,
        lessons=filter_("lessons", data=c.data),
        judge=train("sft", data=of_stage(c.data, "lessons"), init=c.model, **SETTINGS),
        answers=generate(data=c.prompts, init=c.model, **answers),
        judged=judge("judgment", data=of_stage(c.data, "answers"), init="judge", **judging),
        cut=train(
            "cut", data=of_stage(c.data, "judged", downsample=0.25), init=c.model, **SETTINGS
        ),
    )


VARIANTS = {"custom": custom}
