"""Supervised fine-tuning: docs/baselines.md, and the sizes of docs/pods.md.

    python -m lfjax.main --config configs/sft.py:custom --workdir runs/sft
        --config.data.path=answers.jsonl --config.model.path=DIRECTORY_OR_HUB_ID

A variant is named after the colon:

custom        your prompts and responses on your model, all parameters trained
llama2_7b, llama2_13b, llama2_70b, llama3_8b
              the same on these models, with the batches that docs/pods.md compiles for pods
"""

from functools import partial

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, recipe, train


def get_config(arg="custom"):
    if arg not in VARIANTS:
        raise UserError(f"configs/sft.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def sft(model=None, *, rows, tokens, tensor=1):
    """Full rows of whole records, bfloat16, and nothing kept for the backward pass but each layer's
    input."""
    c = base(source="jsonl", model_path=model)
    c.mesh.tensor = tensor
    how = dict(dtype="bfloat16", remat="full", batch_examples=0, batch_rows=rows)
    how |= dict(row_tokens=tokens, max_tokens=tokens, warmup_fraction=0.03, learning_rate=2e-5)
    return recipe(c, sft=train("sft", data=c.data, init=c.model, **how))


VARIANTS = {
    "custom": partial(sft, rows=16, tokens=2048),
    "llama2_7b": partial(sft, "meta-llama/Llama-2-7b-hf", rows=32, tokens=4096),
    "llama2_13b": partial(sft, "meta-llama/Llama-2-13b-hf", rows=16, tokens=2048),
    "llama2_70b": partial(sft, "meta-llama/Llama-2-70b-hf", rows=32, tokens=2048, tensor=4),
    "llama3_8b": partial(sft, "meta-llama/Meta-Llama-3-8B", rows=16, tokens=8192),
}
