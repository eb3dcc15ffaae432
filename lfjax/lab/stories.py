"""Beginnings of stories, for a model that was pretrained on stories and knows no instructions: each
names a thing that the rest of the story should name too (`lfjax.judges.rules:story` is the judge,
`critic` one that also repairs).
"""

import itertools
import random
import re
from pathlib import Path

from lfjax.data.critiques import SCALE
from lfjax.data.records import Feedback, Message, Record, to_jsonl
from lfjax.data.sources.judged import SATISFACTORY_SCORE
from lfjax.data.views import need_response
from lfjax.errors import UserError
from lfjax.judges.parsing import Critique
from lfjax.judges.rules import story
from lfjax.training.logs import write_atomic

SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"”’)]*")
FAULT = re.compile(r"It [^.]*\.")
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


def critic(record: Record, *, banned: tuple[str, ...] = ()) -> Critique:
    """A critique in SRT's form: what the rule `story` finds, and a continuation without it. Repairs
    are mechanical: an unfinished sentence goes, and so does one with a banned word; a last sentence
    names what is not named.

    Raises: RecordError where no word is asked for.
    """
    text = need_response(record).strip()
    faults = story(record, banned=banned)
    found = [] if faults.polarity == "positive" else FAULT.findall(faults.text)
    kept = [s for s in SENTENCE.findall(text) if not _words(s) & {b.casefold() for b in banned}]
    better = " ".join(s.strip() for s in kept)
    missing = [w for w in record.meta.get("words", ()) if w.casefold() not in _words(better)]
    better = " ".join([better, *(f"They all liked the {w}." for w in missing)]).strip()
    advice = [f"Name the {w}." for w in missing] + (["End the last sentence."] if found else [])
    mark = max(1, 10 - 3 * len(found))
    said = (
        f"Weaknesses: {' '.join(found) or 'None.'}\nAdvice: {' '.join(advice) or 'None.'}\n"
        f"Overall Score: [[{mark}]]"
    )
    polarity = "mixed" if mark >= SATISFACTORY_SCORE else "negative"
    return Critique(Feedback(said, polarity, float(mark), SCALE), better or text)


def _words(text: str) -> set[str]:
    return {w.casefold() for w in re.findall(r"[\w'-]+", text)}


def write(folder: Path, *, seed: int, count: int) -> dict[str, str]:
    """Beginnings as a file of a folder, by the name of the output."""
    write_atomic(folder / "prompts.jsonl", to_jsonl(beginnings(count, seed)))
    return {"prompts": "prompts.jsonl"}
