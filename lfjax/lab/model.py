"""The small model that reads a world: a tokenizer with one token a word, a template that keeps rows
short, and the configuration of a Llama."""

import json
from pathlib import Path

from lfjax.lab.world import LANGUAGE, TEMPLATE, World
from lfjax.training.logs import write_atomic

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def write_model(
    folder: str | Path, world: World, *, template: str = TEMPLATE, lines: bool = False
) -> None:
    """A Hugging Face directory without weights: `model.weights=random` draws them, and
    `data.template=own` is the world's template.

    Args:
      lines: ends of lines are tokens of the world, too.
    """
    folder = Path(folder)
    vocabulary = [*dict.fromkeys((*SPECIAL, *(() if lines else LANGUAGE), *world.tokens))]
    files = {
        "tokenizer.json": make_tokenizer(vocabulary, lines).to_str(pretty=True),
        "tokenizer_config.json": json.dumps(tokenizer_config(), indent=2),
        "config.json": json.dumps(model_config(len(vocabulary)), indent=2),
        "chat_template.jinja": template,
    }
    for name, text in files.items():
        write_atomic(folder / name, text + "\n" * (not text.endswith("\n")))


def make_tokenizer(vocabulary: list[str], lines: bool = False):
    """One token a word, `<unk>` for others, `<s>` before every text. Texts of the world come back
    as they were: decoding begins a line before a capitalized word, or, with `lines`, where there is
    a token for its end."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if lines:
        ends, words = (Regex("\n+"), "isolated"), (" ", "removed")
        splits = [pre_tokenizers.Split(*how) for how in (ends, words)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    begins = [("^(?=[^A-Z])", " "), ("^(?=[A-Z])", "\n")]
    if lines:
        begins = [("^(?=[^\n])", " ")]
    tokenizer.decoder = decoders.Sequence(
        [
            *(decoders.Replace(Regex(pattern), by) for pattern, by in begins),
            decoders.Fuse(),
            *([decoders.Replace(Regex("\n "), "\n")] if lines else []),
            decoders.Strip(" ", 1, 0),
            *([] if lines else [decoders.Strip("\n", 1, 0)]),
        ]
    )
    return tokenizer


def tokenizer_config() -> dict:
    """What transformers reads beside `tokenizer.json`."""
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL))
    return {"tokenizer_class": "PreTrainedTokenizerFast", **names}


def model_config(vocabulary_size: int) -> dict:
    """A Llama of some 119,000 parameters.

    Heads are wide and θ is small: a head that is to look exactly so many tokens back needs many
    frequencies, of periods like the texts' lengths.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary_size,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
