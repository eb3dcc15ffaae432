"""The frame of a recipe: what its stages share, and how they stand in it."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lfjax.data.mixture import MIXTURE, check_block
from lfjax.data.sources import SOURCES
from lfjax.errors import UserError, nearest


def base(
    *,
    source: str = MIXTURE,
    path: str | None = None,
    mixture: dict[str, dict[str, Any]] | None = None,
    model_path: str | None = None,
) -> ConfigDict:
    """What the stages of a recipe share: seed, mesh, a model and a data source.

    Args:
      mixture: blocks of data by name, each a `source` and a `weight`, perhaps a `path`, `options`
        and `downsample`, instead of one source and its path.

    A path that is None has to be given on the command line (`--config.data.path=…`).
    """
    if mixture and source != MIXTURE:
        raise UserError(f"base: a mixture is given, and source='{source}' as well; give one.")
    _known_source("data", source, (*SOURCES, MIXTURE))
    return ConfigDict(
        {
            "seed": 42,
            "mesh": {"data": 1, "fsdp": -1, "seq": 1, "tensor": 1},
            "model": {
                "path": placeholder(str) if model_path is None else model_path,
                "weights": "pretrained",  # or random: the directory's configuration, fresh weights
            },
            "data": {
                "path": placeholder(str) if path is None else path,
                "source": source,  # or mixture: of the blocks below, or of a file of blocks at path
                "mixture": {name: _block(name, block) for name, block in (mixture or {}).items()},
                "options": source_options(),
                "template": "alpaca",  # or tulu, bare, own (the model's), or a .jinja file
                "downsample": -1.0,  # satisfactory records kept per flawed one; negative keeps all
                "heldout_examples": 0,  # records kept out of training and evaluated on
                "on_error": "stop",  # or skip: count a malformed record and go on
            },
        }
    )


def source_options() -> dict[str, Any]:
    """The options of all sources, unset: each source has its defaults (docs/data.md), and another
    source can be chosen on the command line."""
    return {
        name: placeholder(type(value))
        for _, defaults in SOURCES.values()
        for name, value in defaults.items()
    }


def _block(name: str, block: dict[str, Any]) -> ConfigDict:
    """A block of a mixture with all that can be set of it."""
    where = f"base: mixture block '{name}'"
    check_block(where, block, needed=("source", "weight"))
    _known_source(where, block["source"], SOURCES)
    c = ConfigDict(
        {
            "path": placeholder(str),
            "source": block["source"],
            "weight": 1.0,
            "options": source_options(),
            "downsample": placeholder(float),  # unset: that of the whole data block
        }
    )
    c.update({field: value for field, value in block.items() if value is not None})
    return c


def _known_source(where: str, source: str, known) -> None:
    if source not in known:
        raise UserError(f"{where}.source: unknown '{source}'. {nearest(source, known)}")


def of_stage(data: ConfigDict, stage: str, **changed: Any) -> ConfigDict:
    """A data block for what an earlier stage wrote. Template and error handling stay those of the
    recipe's block, also when they are set on the command line."""
    c = ConfigDict(data.to_dict())
    c.update(path=stage, source="records", mixture={}, downsample=-1.0, heldout_examples=0)
    for name in ("template", "on_error"):
        c[name] = data.get_ref(name)
    c.update(changed)
    return c


def cached(stage: ConfigDict) -> ConfigDict:
    """The stage, to be kept for other workdirs when it is finished, and taken from there."""
    stage.cached = True
    return stage


def seeded(stage: ConfigDict, seed: int) -> ConfigDict:
    """The stage with a seed of its own, as one of several repetitions."""
    stage.seed = seed
    return stage


def recipe(c: ConfigDict, **stages: ConfigDict) -> ConfigDict:
    """Put stages into a config in the order given, which a ConfigDict alone would sort away."""
    c.stages = ConfigDict(stages)
    c.order = tuple(stages)
    return c
