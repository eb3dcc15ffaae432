"""Beginnings of stories, for a model that was pretrained on stories and knows no instructions: each
names a thing that the rest of the story should name too (`lfjax.judges.rules:story` is the judge).
"""

import itertools
import random
from pathlib import Path

from lfjax.data.records import Message, Record, to_jsonl
from lfjax.errors import UserError
from lfjax.training.logs import write_atomic

HEROES = (("Lily", "girl"), ("Tim", "boy"), ("Mia", "girl"), ("Ben", "boy"), ("Anna", "girl"))
PLACES = ("in the park", "at home", "in the garden", "near the river", "in the forest")
ADJECTIVES = ("big", "red", "little", "shiny", "old", "pretty")
THINGS = (
    *("ball", "dog", "cat", "cake", "tree", "bird", "box", "car", "flower", "hat", "frog", "boat"),
    *("doll", "fish", "toy", "rock", "book", "cookie", "duck", "bear"),
)


def beginnings(count: int, seed: int) -> list[Record]:
    """Different beginnings in an order drawn by the seed; `meta.words` holds the thing.

    Raises: UserError for more than there are.
    """
    every = list(itertools.product(HEROES, PLACES, ADJECTIVES, THINGS))
    if count > len(every):
        raise UserError(f"stories: {count} beginnings are asked for; there are {len(every)}.")
    out = []
    for i, ((name, kind), place, adjective, thing) in enumerate(
        random.Random(seed).sample(every, count)
    ):
        text = (
            f"Once upon a time, there was a little {kind} named {name}. One day, {name} saw a "
            f"{adjective} {thing} {place}."
        )
        prompt = (Message("user", text),)
        out.append(Record(f"story-{i:04}", "lfjax.lab.stories", prompt, meta={"words": [thing]}))
    return out


def write(folder: Path, *, seed: int, count: int) -> dict[str, str]:
    """Beginnings as a file of a folder, by the name of the output."""
    write_atomic(folder / "prompts.jsonl", to_jsonl(beginnings(count, seed)))
    return {"prompts": "prompts.jsonl"}
