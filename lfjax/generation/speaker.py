"""A model directory ready to answer: engine, weights, tokenizer and template in one hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from lfjax.data.records import Message
from lfjax.data.templates import render_prompt, speaking, template_text
from lfjax.data.tokenize import Tokenizer, encode_pieces, load_tokenizer
from lfjax.errors import UserError
from lfjax.generation.engine import Engine, make_engine
from lfjax.generation.rules import Sampling
from lfjax.generation.scheduler import Request
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.hf import load_frozen


@dataclass(frozen=True)
class Speaker:
    """What `generate` needs, and how messages become a request.

    Attributes:
      tokenizer: its `eos` is what the template ends an answer with.
      template: the Jinja text.
    """

    engine: Engine
    params: Any
    tokenizer: Tokenizer
    template: str

    def request(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        judgment: str | None = None,
        begin: Sequence[str] = (),
        seed: int | tuple[int, ...] = 0,
        stop: tuple[str, ...] = (),
    ) -> Request:
        """Ask for the assistant's next turn, which may have begun already: with the pieces of
        `begin`, over whose borders no token reaches.

        The template shows it as in training, under a judgment where one is given. It ends with the
        token that the template ends an answer with, or before one of the texts in `stop`.
        """
        text = render_prompt(self.template, messages, judgment, tokenizer=self.tokenizer)
        ids, _ = encode_pieces(self.tokenizer, text, begin)
        how = dict(sampling=sampling, seed=seed, stop=stop, stop_ids=(self.tokenizer.eos,))
        return Request(ids, max_new_tokens, **how)


def open_speaker(
    path: str,
    mesh: Mesh,
    *,
    template: str = "own",
    dtype: str = "float32",
    slots: int = 32,
    max_tokens: int = 2048,
) -> Speaker:
    """Read a model directory onto the mesh's shards.

    Args:
      template: `alpaca`, `tulu`, `own` (the model's chat template) or a .jinja file.
      dtype, slots, max_tokens: as for `make_engine`.

    Raises: UserError for a directory, template or sizes that make no sense.
    """
    text = template_text(template, path)
    tokenizer = speaking(load_tokenizer(path), text)
    config = ModelConfig.from_hf(read_hf_config(path), path)
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tokenizer.size} tokens, the model's vocabulary "
            f"{config.vocab_size}. Is it this model's tokenizer?"
        )
    engine = make_engine(config, mesh, slots=slots, max_tokens=max_tokens, dtype=dtype)
    params = load_frozen(path, config, mesh, dtype)
    return Speaker(engine, engine.place(params), tokenizer, text)
