"""Text to token ids: rendered once, tokenised once, and cut exactly where the supervised span
begins.

SentencePiece-style tokenizers put a space in front of whatever they encode, so that encoding prompt
and response apart and joining them gives ids that the text does not have. Here the whole text is
encoded; only where a token would straddle the border of the supervised span is the text split
there.

A template may write the names of special tokens (`<|im_end|>`), and a message may quote them. Only
the template's become special ids: what is quoted is marked before it is put into a template
(`Tokenizer.plain`), and read as plain text (`Tokenizer.encode_rendered`).
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lfjax.errors import UserError

# Text to put before a continuation, so that it is encoded as the inside of a text; the first that
# stays a token of its own is used.
ANCHORS = ("\n", ":", ".", "a", "0")

# Stands between the characters of a special token's quoted name. Unicode promises never to make a
# character of it.
MARK = "\ufdd0"


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

    def plain(self, text: str) -> str:
        """The text with names of special tokens marked, to be put into a template."""
        names = _names(self.hf)
        return names.sub(lambda m: MARK.join(m[0]), text) if names else text

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a rendered template without BOS and EOS: names of special tokens are their ids,
        marked ones are plain text.

        Where nothing is marked these are the ids that transformers gives to the rendered text.
        """
        names, marked = _names(self.hf), _marked(self.hf)
        if names is None or not names.search(text):
            return self.encode(_unmarked(text, marked))
        if not marked.search(text):
            return _parser(self.hf).encode(text, add_special_tokens=False).ids
        first, *rest = re.split(f"({names.pattern})", text)
        ids = self.encode(_unmarked(first, marked)) if first else []
        for name, after in zip(rest[::2], rest[1::2]):
            ids += self._after(name, after, marked)
        return ids

    def _after(self, name: str, text: str, marked) -> list[int]:
        """Ids of a special token and of the text, perhaps with marks, that follows it."""
        parse = _parser(self.hf)
        if not marked.search(text):
            return parse.encode(name + text, add_special_tokens=False).ids
        # Some tokenizers put a space before a text that follows a special token, some do not.
        token, *probe = parse.encode(f"{name}a", add_special_tokens=False).ids
        text = _unmarked(text, marked)
        return [token, *(self.encode if probe == self.encode("a") else self.continuation)(text)]

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


@lru_cache(maxsize=8)
def _parser(hf):
    """A copy of the backend that reads names of special tokens as these tokens. The backend itself
    is not switched to and fro: another thread may be encoding a user's text with it."""
    backend = copy.deepcopy(hf.backend_tokenizer)
    backend.encode_special_tokens = False
    return backend


@lru_cache(maxsize=8)
def _names(hf) -> re.Pattern | None:
    """Any special token's name, the longest first; None where there are none."""
    added = hf.backend_tokenizer.get_added_tokens_decoder().values()
    names = sorted((t.content for t in added if t.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


@lru_cache(maxsize=8)
def _marked(hf) -> re.Pattern | None:
    """Any special token's name, marked."""
    added = hf.backend_tokenizer.get_added_tokens_decoder().values()
    names = sorted((MARK.join(t.content) for t in added if t.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def _unmarked(text: str, marked: re.Pattern | None) -> str:
    return marked.sub(lambda m: m[0].replace(MARK, ""), text) if marked else text


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


def encode_pieces(
    tokenizer: Tokenizer, prompt: str, pieces: Sequence[str], *, split: bool = False
) -> tuple[list[int], list[int]]:
    """Ids of BOS + prompt + pieces, and the length of these ids before each piece and at the end.

    The prompt is a rendered template, the pieces plain text. What stands before a border has the
    ids that it has without what follows: only where a token would straddle the border is the text
    cut there, or, with `split`, at every border.
    """
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    ids, fixed, pending = tokenizer.encode_rendered(prompt), None, prompt
    borders = [len(start) + len(ids)]
    for piece in pieces:
        if split:
            whole = []
        elif fixed is None:
            whole = tokenizer.encode_rendered(pending + tokenizer.plain(piece))
        else:
            whole = fixed + tokenizer.continuation(pending + piece)
        if split or whole[: len(ids)] != ids:
            fixed, pending, whole = ids, piece, ids + tokenizer.continuation(piece)
        else:
            pending += piece if fixed is not None else tokenizer.plain(piece)
        ids = whole
        borders.append(len(start) + len(ids))
    return start + ids, borders


def encode_supervised(
    tokenizer: Tokenizer, prompt: str, response: str, *, split: bool = False
) -> tuple[Int[np.ndarray, "n"], int]:
    """Ids of BOS + prompt + response + EOS, and the index of the first supervised token.

    The prompt is a rendered template (`render_prompt`), the response plain text. The prompt's ids
    are those that it has alone, as at inference. `split` cuts the text at the border even where no
    token straddles it.
    """
    ids, (first, _) = encode_pieces(tokenizer, prompt, [response], split=split)
    return np.asarray([*ids, tokenizer.eos], np.int32), first
