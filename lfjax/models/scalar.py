"""A scalar head on the decoder: what a reward model is. It reads the final hidden state of a
segment's last token.

The head is one more entry of the parameters, `score/kernel`, float32 whatever the decoder computes
in, and zero at the start. In a model directory it lies beside the decoder's weights, with what its
numbers mean (`score.json`), so that the directory stays one that `transformers` loads.

b rows, t tokens, s segments of a row, d model.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lfjax.errors import UserError
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import Decoder

NAME = "score"
WEIGHTS, MEANING = "score.safetensors", "score.json"


def abstract_head(config: ModelConfig) -> dict[str, Any]:
    """The head as a tree of ShapeDtypeStructs, to be put beside other parameters."""
    return {NAME: {"kernel": jax.ShapeDtypeStruct((config.d_model,), jnp.float32)}}


def apart(tree: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """(the parameters without a head, the head or None)."""
    rest = {name: part for name, part in tree.items() if name != NAME}
    return rest, tree.get(NAME)


def score_fn(model: Decoder) -> Callable[..., Float[Array, "b s"]]:
    """(params, head, rows, lora, key) -> the score of every segment of the rows' tables, float32;
    of entries without a segment it may be anything.

    `lora` and `key` as for `logprob_fn`.
    """

    def scores(params, head, rows, lora=None, key=None):
        variables = {"params": params} | ({} if lora is None else {"lora": lora})
        rngs = None if key is None else {"dropout": key}
        hidden, _ = model.apply(variables, rows.tokens, rows.positions, rows.segment, rngs=rngs)
        last = jnp.take_along_axis(hidden, rows.score_at[..., None], axis=1).astype(jnp.float32)
        # A sum of products: matrix units would round float32 to bfloat16.
        return (last * head["kernel"]).sum(-1)

    return scores


def head_files(head: Any, meaning: dict[str, Any]) -> dict[str, bytes]:
    """Files of a head by name, to be put into a model directory.

    Args:
      meaning: what its numbers mean: `kind`, `offset`, `spread` and whatever else is worth knowing.
    """
    kernel = np.asarray(jax.device_get(head["kernel"]), np.float32)
    return {
        WEIGHTS: save({f"{NAME}.kernel": kernel}),
        MEANING: (json.dumps(meaning, indent=2) + "\n").encode(),
    }


def has_head(path: str | Path) -> bool:
    """Whether a model directory scores."""
    return (Path(path) / WEIGHTS).is_file()


def load_head(path: str | Path, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """(head as a tree of numpy arrays, what its numbers mean) of a model directory.

    Raises: UserError where there is none, or it is not of such a model.
    """
    if not has_head(path):
        raise UserError(
            f"{path}: no {WEIGHTS}; expected a model that was trained by the method reward or gap."
        )
    try:
        kernel = load_file(Path(path) / WEIGHTS)[f"{NAME}.kernel"]
        meaning = json.loads((Path(path) / MEANING).read_text(encoding="utf-8"))
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path}: its scalar head cannot be read ({error}).") from None
    if kernel.shape != (config.d_model,):
        raise UserError(
            f"{path}: its scalar head has {kernel.shape} weights, the model states of "
            f"{config.d_model} numbers. Is it this model's?"
        )
    return {"kernel": kernel}, meaning
