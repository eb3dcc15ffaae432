"""Shapes of models: of a directory with a `config.json`, weights or not, or of a known name."""

import json
import re
from pathlib import Path

from lfjax.errors import UserError
from lfjax.models.config import ModelConfig, read_hf_config

FILES = Path(__file__).parent / "models"
# Last part of a hub id, in small letters -> file of the shape.
NAMES = (
    (r"(?:llama-2|tulu-2(?:-dpo)?)-(7|13|70)b(?:-chat)?(?:-hf)?", r"llama2_\1b"),
    (r"(?:meta-)?llama-3-8b(?:-instruct)?", "llama3_8b"),
)


def shape_of(path: str) -> ModelConfig:
    """The shape of a model that no weights are read of.

    Args:
      path: a directory with a `config.json`, or a hub id of a model that is known here.

    Raises: UserError if it is neither.
    """
    if Path(path).is_dir():
        return ModelConfig.from_hf(read_hf_config(path), path)
    name = path.rsplit("/", 1)[-1].lower()
    for pattern, file in NAMES:
        if match := re.fullmatch(pattern, name):
            found = FILES / f"{match.expand(file)}.json"
            return ModelConfig.from_hf(json.loads(found.read_text()), str(found))
    raise UserError(
        f"{path}: neither a directory nor a model whose shape is known (Llama 2, Tulu 2 and "
        "Llama 3 by their hub ids). Make a directory with the model's config.json alone, and give "
        "it as --config.model.path=DIRECTORY."
    )
