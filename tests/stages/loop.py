"""One short iteration of the online loop, for tests."""

import runpy
from pathlib import Path

from lfjax.recipe import base, make

CONFIGS = Path(__file__).parent.parent.parent / "configs"
RULE = dict(judge="rule", rule="lfjax.judges.rules:story", rule_options=dict(banned=("sad",)))


def get_config(arg="cut"):
    c = base(source="prompts", path="stories/prompts")
    c.data.update(template="bare", heldout_examples=8)
    small = dict(max_tokens=128, row_tokens=256, learning_rate=1e-3)
    return runpy.run_path(str(CONFIGS / "cut_online.py"))["online"](
        c,
        iterations=2,
        examples=16,
        answers=dict(max_new_tokens=32, max_tokens=128, temperature=0.8, slots=8, stop=("\n",)),
        judged=RULE,
        settings=small,
        arm=arg,
        before={"stories": make("lfjax.lab.stories:write", count=44)},
    )
