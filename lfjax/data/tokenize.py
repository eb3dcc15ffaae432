"""Text to token ids: rendered once, tokenised once, and cut exactly where the supervised span
begins.

SentencePiece-style tokenizers put a space in front of whatever they encode, so that encoding prompt
and response apart and joining them gives ids that the text does not have. Here the whole text is
encoded; only where a token would straddle the border of the supervised span is the text split
there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lfjax.errors import UserError

# Text to put before a continuation, so that it is encoded as the inside of a text; the first that
# stays a token of its own is used.
ANCHORS = ("\n", ":", ".", "a", "0")


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer with what this program needs of it.

    Attributes:
      hf: the `PreTrainedTokenizerFast`.
      bos: id put once before every text, or None where the tokenizer itself adds none.
      eos: id that ends every supervised response.
      size: number of ids.
    """

    hf: object
    bos: int | None
    eos: int
    size: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text without BOS and EOS. Names of special tokens inside of the text are plain
        text."""
        return self.hf.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def continuation(self, text: str) -> list[int]:
        """Ids of a text that follows another one: no token for a start of text, no prefix space."""
        for anchor in ANCHORS:
            head = self.encode(anchor)
            whole = self.encode(anchor + text)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return self.encode(text)

    def decode(self, ids) -> str:
        return self.hf.decode(list(map(int, ids)), skip_special_tokens=True)


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a model directory, read from its `tokenizer.json` (no code of the model is
    run).

    Raises: UserError if there is none, or it has no end-of-sequence token.
    """
    # Not AutoTokenizer: that imports torch where it is installed.
    from transformers import PreTrainedTokenizerFast

    if not (Path(path) / "tokenizer.json").is_file():
        raise UserError(
            f"{path}: no tokenizer.json; expected a Hugging Face directory with a fast tokenizer."
        )
    try:
        hf = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the Rust loader raises bare Exceptions
        raise UserError(f"{path}: its tokenizer cannot be read ({error}).") from None
    return wrap(hf, path)


def tokenizer_files(path: str) -> dict[str, str]:
    """The texts of a directory's tokenizer files by name, to be kept with a checkpoint."""
    found = (Path(path) / name for name in ("tokenizer.json", "tokenizer_config.json"))
    return {file.name: file.read_text(encoding="utf-8") for file in found if file.is_file()}


def wrap(hf, name: str) -> Tokenizer:
    """A Tokenizer around a `PreTrainedTokenizerFast`; BOS is put where its own post-processor would
    put it."""
    if hf.eos_token_id is None:
        raise UserError(
            f"{name}: the tokenizer has no eos_token; a response could not be ended. Add it to "
            "its config."
        )
    # A tokenizer.json may carry the limits of whoever saved it; lengths are this program's matter.
    hf.backend_tokenizer.no_truncation()
    hf.backend_tokenizer.no_padding()
    added = hf.backend_tokenizer.encode("").ids
    bos = hf.bos_token_id if hf.bos_token_id in added[:1] else None
    hf.backend_tokenizer.encode_special_tokens = True
    return Tokenizer(hf, bos, hf.eos_token_id, len(hf))


def encode_supervised(
    tokenizer: Tokenizer, prompt: str, response: str, *, split: bool = False
) -> tuple[Int[np.ndarray, "n"], int]:
    """Ids of BOS + prompt + response + EOS, and the index of the first supervised token.

    The prompt's ids are those that the prompt has alone, as at inference. `split` cuts the text at
    the border even where no token straddles it.
    """
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    head = tokenizer.encode(prompt)
    whole = [] if split else tokenizer.encode(prompt + response)
    if split or whole[: len(head)] != head:
        whole = head + tokenizer.continuation(response)
    return np.asarray([*start, *whole, tokenizer.eos], np.int32), len(start) + len(head)
