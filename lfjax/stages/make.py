"""The make stage: a function of the lab writes its world into the stage's folder."""

from lfjax.named import find_function
from lfjax.stages.artifacts import Result, Stage


def inputs(config) -> dict[str, str]:
    """A world is made of nothing but its settings."""
    return {}


def make(stage: Stage) -> Result:
    """Call `package.module:function` of the config as (folder, seed=…, **options) -> outputs.

    Raises: UserError if there is no such function, or its options make no sense.
    """
    c = stage.config
    function = find_function("function", c.function)
    stage.folder.mkdir(parents=True, exist_ok=True)
    outputs = function(stage.folder, seed=stage.seed, **c.options.to_dict())
    stage.begin()
    return Result(outputs, {"outputs": ", ".join(outputs)}, {})
