"""Building blocks of the files in configs/: a recipe is a config that lists stages in order.

    def get_config(arg=""):
        c = base(source="cut")
        return recipe(c, cut=train("cut", data=c.data, init=c.model))

`--config.stages.cut.options.alpha=0.5` on the command line overrides any value.
"""

from lfjax.recipe.blocks import base, cached, of_stage, recipe, seeded, source_options
from lfjax.recipe.collecting import filter_, generate, improve, judge, make
from lfjax.recipe.comparing import claims, detect, evaluate, gaps, gate, rank, self_bias
from lfjax.recipe.learning import rl, train
from lfjax.recipe.renaming import in_all, renamed, repeated
from lfjax.recipe.settings import with_settings
from lfjax.recipe.trials import trials

__all__ = [
    "base",
    "cached",
    "claims",
    "detect",
    "evaluate",
    "filter_",
    "gaps",
    "gate",
    "generate",
    "improve",
    "in_all",
    "judge",
    "make",
    "of_stage",
    "rank",
    "recipe",
    "renamed",
    "repeated",
    "rl",
    "seeded",
    "self_bias",
    "source_options",
    "train",
    "trials",
    "with_settings",
]
