"""The demonstration set that the project ships: judged answers about animals, a tokenizer, and a
small configuration.

    python -m lfjax.lab.demo [FOLDER]

writes `judgments.jsonl`, `config.json` and the tokenizer's files, the same ones every time. Every
answer states three facts. A flawed one has one or two of them wrong, and its judgment says which
and what would be right.
"""

import json
import random
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "demo"
COUNT = 320
SEED = 7
VOCABULARY = 512

COLOURS = ("brown", "grey", "black", "white", "red", "yellow", "green", "blue")
FOODS = ("grass", "seeds", "fish", "berries", "insects", "leaves", "roots", "nuts")
PLACES = (
    "a den",
    "a nest",
    "a burrow",
    "a cave",
    "the reeds",
    "a hollow tree",
    "the sand",
    "a barn",
)
ANIMALS = (
    *(
        "fox",
        "hare",
        "owl",
        "otter",
        "badger",
        "heron",
        "toad",
        "bat",
        "crow",
        "deer",
        "finch",
        "goat",
    ),
    *(
        "mole",
        "mouse",
        "newt",
        "seal",
        "snail",
        "stork",
        "swan",
        "wolf",
        "wren",
        "lynx",
        "bear",
        "crab",
    ),
)
FACTS = {  # kind of fact -> (values, how an answer states it, how a judgment corrects it)
    "colour": (COLOURS, "is {}", "the {animal} is not {wrong}, it is {right}"),
    "food": (FOODS, "eats {}", "the {animal} does not eat {wrong}, it eats {right}"),
    "place": (
        PLACES,
        "sleeps in {}",
        "the {animal} does not sleep in {wrong}, it sleeps in {right}",
    ),
}
PROMPTS = (
    "Tell me about the {animal}.",
    "What do you know about the {animal}?",
    "Describe the {animal} in one sentence.",
    "Write a sentence on how the {animal} looks and lives.",
)


def truth(rng: random.Random) -> dict[str, dict[str, str]]:
    """animal -> kind of fact -> the value that is right."""
    return {a: {kind: rng.choice(values) for kind, (values, *_) in FACTS.items()} for a in ANIMALS}


def answer(animal: str, stated: dict[str, str]) -> str:
    """One sentence that states a value for every kind of fact."""
    colour, food, place = (FACTS[kind][1].format(value) for kind, value in stated.items())
    return f"The {animal} {colour}, {food} and {place}."


def judgment(animal: str, stated: dict[str, str], right: dict[str, str]) -> str:
    """Which stated facts are wrong, with the right ones; empty if none is."""
    faults = [
        FACTS[kind][2].format(animal=animal, wrong=value, right=right[kind])
        for kind, value in stated.items()
        if value != right[kind]
    ]
    text = "; ".join(faults)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def make_records(count: int = COUNT, seed: int = SEED) -> list[dict]:
    """Judged answers as JSON objects of the Record format, two in five of them satisfactory."""
    rng = random.Random(seed)
    facts = truth(rng)
    records = []
    for number in range(count):
        animal = ANIMALS[number % len(ANIMALS)]
        right = facts[animal]
        stated = dict(right)
        for kind in rng.sample(list(FACTS), rng.choice((0, 0, 1, 1, 2))):
            stated[kind] = rng.choice([v for v in FACTS[kind][0] if v != right[kind]])
        said = judgment(animal, stated, right)
        feedback = {"text": said, "polarity": "negative" if said else "positive", "author": "rule"}
        records.append(
            {
                "id": f"demo-{number:03d}",
                "source": "lfjax.lab.demo",
                "prompt": [{"role": "user", "content": rng.choice(PROMPTS).format(animal=animal)}],
                "response": answer(animal, stated),
                "feedback": [feedback],
            }
        )
    return records


def make_tokenizer(texts: list[str]):
    """A byte-level BPE tokenizer trained on the texts, with `<s>`, `</s>` and `<pad>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def model_config() -> dict:
    """A Llama of some 100,000 parameters."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def write(folder: str | Path = FOLDER) -> None:
    """Write the set; files of the same names are replaced."""
    from lfjax.data.records import Message
    from lfjax.data.templates import render_prompt, template_text

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = make_records()
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    (folder / "judgments.jsonl").write_text(lines, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(model_config(), indent=2) + "\n")
    template = template_text("alpaca")
    texts = []
    for r in records:
        prompt = tuple(Message(**m) for m in r["prompt"])
        texts.append(
            render_prompt(template, prompt, r["feedback"][0]["text"] or None) + r["response"]
        )
    make_tokenizer(texts).save_pretrained(folder)


if __name__ == "__main__":
    write(*sys.argv[1:2])
