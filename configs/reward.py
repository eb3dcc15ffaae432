"""A model that scores, from preference pairs: docs/pit.md.

    python -m lfjax.main --config configs/reward.py:reward --workdir runs/reward \
        --config.data.path=pairs.jsonl --config.model.path=DIRECTORY_OR_HUB_ID

reward    how good a response is (Bradley-Terry).
gap       how much better one response is than another, both read together (PIT, Wang et al. 2024,
          arXiv 2310.00898); --config.stages.gap.options.of=rewards is its ablation.

The checkpoint that orders most held-out pairs rightly is exported, with its scalar head and what
its numbers mean beside the weights.
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, recipe, train

SETTINGS = dict(
    batch_examples=64,
    total_epochs=1.0,
    eval_epochs=0.2,
    save_epochs=0.2,
    save_steps=0,
    best="heldout/error",
    learning_rate=1e-5,
    warmup_fraction=0.03,
    max_tokens=2048,
)
ADAPTERS = dict(
    lora=dict(rank=16, alpha=16.0, pattern="attn/|mlp/", base_dtype="bfloat16"),
    dtype="bfloat16",
    remat="full",
)


def get_config(arg="reward"):
    if arg not in VARIANTS:
        raise UserError(f"configs/reward.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def scorer(method, row_tokens):
    c = base(source="preference")
    c.data.heldout_examples = 200
    how = SETTINGS | ADAPTERS | dict(row_tokens=row_tokens)
    return recipe(c, **{method: train(method, data=c.data, init=c.model, **how)})


VARIANTS = {
    "reward": lambda: scorer("reward", 4096),
    "gap": lambda: scorer("gap", 8192),  # a row holds four texts, not two
}
