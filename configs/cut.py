"""CUT from judgments (Xu et al. 2024, arXiv 2312.14591): docs/cut.md.

    python -m lfjax.main --config configs/cut.py:tiny --workdir runs/demo
        A small model from scratch on the project's own judgments; a minute on two CPU cores.

    python -m lfjax.main --config configs/cut.py:stories260k --workdir runs/stories \\
        --config.data.path=iter1.json --config.model.path=stories260k
        A pretrained model of 260 K parameters and the authors' data (their
        train-alpaca-sample-iter1.json); exercises the whole path. The model, made for 512
        positions, learns nothing of use from such texts.
"""

from pathlib import Path

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, recipe, train

DEMO = Path(__file__).parent.parent / "lfjax" / "lab" / "demo"


def get_config(arg="tiny"):
    if arg not in VARIANTS:
        raise UserError(f"configs/cut.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def stories260k():
    """The authors' online settings on all parameters instead of LoRA's."""
    c = base(source="cut")
    c.data.downsample = 0.25
    c.data.heldout_examples = 30
    return recipe(
        c,
        cut=train(
            "cut",
            data=c.data,
            init=c.model,
            threshold=1.1,
            alpha=1.0,
            batch_examples=8,
            max_tokens=2048,
            row_tokens=4096,
            learning_rate=4e-4,
            warmup_steps=10,
            eval_steps=20,
            save_steps=10,
        ),
    )


def tiny():
    """First the language and its habits, faults included; then what the judgments say of them."""
    c = base(source="records", path=str(DEMO / "judgments.jsonl"), model_path=str(DEMO))
    c.model.weights = "random"
    c.data.heldout_examples = 40
    rows = dict(max_tokens=128, row_tokens=512, save_epochs=1.0, save_steps=0, eval_epochs=1.0)
    return recipe(
        c,
        base=train("sft", data=c.data, init=c.model, total_epochs=8.0, learning_rate=3e-3, **rows),
        cut=train("cut", data=c.data, init="base", total_epochs=16.0, learning_rate=3e-3, **rows),
    )


VARIANTS = {"tiny": tiny, "stories260k": stories260k}
