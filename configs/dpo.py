"""DPO from preference pairs (Rafailov et al. 2023, arXiv 2305.18290): docs/dpo.md.

    python -m lfjax.main --config configs/dpo.py:custom --workdir runs/dpo \
        --config.data.path=pairs.jsonl --config.model.path=DIRECTORY_OR_HUB_ID

A variant is named after the colon:

custom        your pairs (`prompt`, `chosen`, `rejected`) on your model, adapters everywhere.
stories260k   the pretrained model of 260 K parameters on any file of pairs, all parameters
              trained; it exercises the path and teaches nothing. A minute on two CPU cores.

Other sources hold pairs too (docs/data.md): --config.data.source=hh, ultrafeedback, ….
The loss is chosen by --config.stages.dpo.options.kind=sigmoid, robust, ipo or hinge.
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, recipe, train

SETTINGS = dict(
    beta=0.1,
    batch_examples=32,
    total_epochs=1.0,
    decay="linear",
    warmup_fraction=0.1,
    max_tokens=2048,
    row_tokens=4096,
)


def get_config(arg="custom"):
    if arg not in VARIANTS:
        raise UserError(f"configs/dpo.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def custom():
    c = base(source="preference")
    lora = dict(rank=16, alpha=16.0, pattern="attn/|mlp/", base_dtype="bfloat16")
    how = dict(lora=lora, dtype="bfloat16", remat="full", learning_rate=5e-6)
    return recipe(c, dpo=train("dpo", data=c.data, init=c.model, **SETTINGS, **how))


def stories260k():
    c = base(source="preference")
    c.data.heldout_examples = 30
    how = dict(learning_rate=1e-4, eval_epochs=1.0, save_steps=10)
    return recipe(c, dpo=train("dpo", data=c.data, init=c.model, **SETTINGS, **how))


VARIANTS = {"custom": custom, "stories260k": stories260k}
