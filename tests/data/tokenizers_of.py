"""Tokenizers of several kinds, the small ones trained here in a moment."""

from functools import cache

from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from lfjax.data.tokenize import Tokenizer, load_tokenizer, wrap
from tests.conftest import shared

KINDS = ("sentencepiece", "gpt2", "llama3", "straddling")

CORPUS = [
    "You are given an instruction.\n\n### Instruction:\nName a colour.\n\n### Response:\nThe sky.",
    "### Response:\nThe answer is blue.\n\n### Response:\n- red\n- green\n\n\n1. one\n2. two",
    "### Response:\n\nThe end.\n\n\n\n### Judgment:\nThe response is wrong. It's not blue :\n\n",
    "23 45 23 45",
] * 20

# As in Llama 3's tokenizer: a mark takes the line breaks after it into its word.
LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """`sentencepiece`: stories260k's, with a prefix space and BOS. The others are byte-level:
    `gpt2` splits as GPT-2 does and has no BOS; `llama3` has one; `straddling` merges across
    everything, and its padding is its EOS."""
    if kind == "sentencepiece":
        return load_tokenizer(str(shared("models/stories260k")))
    return wrap(byte_level(kind), kind)


def byte_level(kind: str, corpus=CORPUS, alphabet: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE. Without `alphabet`, characters that the corpus lacks have no token."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=kind == "gpt2"
    )
    if kind == "llama3":
        words = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, backend.pre_tokenizer])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400 if alphabet else 40,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    names = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    if kind == "llama3":
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
        names["bos_token"] = "<|begin|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def unigram() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer: it finds the names of its special tokens in plain text, too."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
