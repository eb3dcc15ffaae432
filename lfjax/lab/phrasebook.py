"""The phrasebook: a world in which every fault is a habit of style.

A prompt is eight words of an invented language, the answer one line of two tokens for each. A word
has a right, formal rendering and a habitual, informal one, which differ in the first token and
share the second. Formal and informal first tokens are two sets without overlap, so that a fault is
a style which words share, and what is learned of some words may carry over to others:

    1 bako 2 timu …        Kindly open      right
                           Yo take          wrong; "Duly take" would be right

A prompt numbers its words, so that every line is as far from its word as every other: models learn
to find it in seconds.

How often pretraining shows the habit differs by word (`TIERS`). In 30 % of pretraining a judgment
of the answer stands before it, so that models can read judgments, of words that appear neither in
feedback nor in evaluation (group `judged`).
"""

import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from lfjax.data.records import Message, Record
from lfjax.data.templates import render_prompt
from lfjax.errors import UserError, nearest
from lfjax.lab.world import LINES, MISSING, TEMPLATE, WRONG, Part, listed, worded

SOURCE = "lfjax.lab.phrasebook"
FORMAL = (
    *("Kindly", "Please", "Graciously", "Respectfully", "Humbly", "Politely", "Courteously"),
    *("Cordially", "Dutifully", "Duly", "Gently", "Solemnly", "Sincerely", "Gladly", "Properly"),
    "Formally",
)
INFORMAL = (
    *("Yo", "Hey", "Dude", "Gonna", "Gotta", "Wanna", "Yeah", "Nah", "Oi", "Sup", "Bro", "Lemme"),
    *("Gimme", "Kinda", "Sorta", "Dunno"),
)
SECOND = (
    *("open", "close", "bring", "take", "send", "keep", "read", "write", "sing", "walk", "wait"),
    *("look", "ask", "tell", "help", "stop", "start", "turn", "hold", "pass", "buy", "sell"),
    *("wash", "cook"),
)
TIERS = {  # how often pretraining shows the habit
    "clean": 0.025,
    "habit55": 0.55,
    "habit65": 0.65,
    "habit80": 0.8,
    "ignorance": 0.98,
    "free": 0.65,
}
HABITS = ("habit55", "habit65", "habit80")
# Words of the tier `free` begin with any formal or any informal token: only a quote tells which, so
# that models learn to copy what a judgment quotes, whatever the word.
GROUPS = {  # of words -> tiers, and words of each
    "judged": ((*HABITS, "free"), 12),
    "seen": (HABITS, 16),
    "unseen": (HABITS, 8),
    "clean": (("clean",), 12),
    "ignorance": (("ignorance",), 8),
}
MOST_LINES = min(each for _, each in GROUPS.values())
# What prompts are made of: the share of each group of words.
PROMPTS = {name: {name: 1.0} for name in GROUPS} | {"feedback": {"seen": 0.95, "ignorance": 0.05}}
SPLITS = {"train": 80, "validation": 10, "test": 10}  # percent of prompts, by their hash
JUDGED_SHARE = 0.3
# Kinds of judgments in pretraining, and how often each occurs among them. Notes say of some lines
# how they begin: of wrong ones, or of any.
NOTES = {"wrong": WRONG, "lines": LINES}
KIND_WEIGHTS = {"wrong": 5, "lines": 5, "flawed": 1, "count": 1, "score": 1, "flawless": 1}


@dataclass(frozen=True)
class Word:
    """A word and its renderings: one of `right` or one of `habit`, then `second`; a habit at this
    rate."""

    text: str
    right: tuple[str, ...]
    habit: tuple[str, ...]
    second: str
    group: str
    tier: str

    @property
    def rate(self) -> float:
        return TIERS[self.tier]


@dataclass(frozen=True)
class Phrasebook:
    """One world; another seed is another language.

    Attributes:
      seed: draws words, renderings and prompts.
      lines: words of a prompt.

    Raises: UserError for more lines than the smallest group has words.
    """

    seed: int = 0
    lines: int = 8

    def __post_init__(self):
        if not 1 <= self.lines <= MOST_LINES:
            raise UserError(f"phrasebook: lines={self.lines}; expected 1 to {MOST_LINES}.")

    @cached_property
    def words(self) -> dict[str, Word]:
        """All words by their text."""
        rng = random.Random(f"words/{self.seed}")
        places = [
            (group, tier)
            for group, (tiers, each) in GROUPS.items()
            for tier in tiers
            for _ in range(each)
        ]
        syllables = [a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou")]
        texts = rng.sample([a + b for a, b in itertools.product(syllables, repeat=2)], len(places))
        columns = (_spread(rng, values, len(places)) for values in (FORMAL, INFORMAL, SECOND))
        return {
            text: Word(text, FORMAL, INFORMAL, second, group, tier)
            if tier == "free"
            else Word(text, (right,), (habit,), second, group, tier)
            for text, right, habit, second, (group, tier) in zip(texts, *columns, places)
        }

    @property
    def tokens(self) -> tuple[str, ...]:
        return (*FORMAL, *INFORMAL, *SECOND, *self.words)

    # --- records ------------------------------------------------------------------------------

    def pretraining(self, count: int) -> Iterator[Record]:
        """Answers with their faults, three in ten after a judgment, as plain texts to learn."""
        rng = random.Random(f"pretraining/{self.seed}")
        everything, judged = list(self.words.values()), self._group("judged")
        for number in range(count):
            with_judgment = rng.random() < JUDGED_SHARE
            words = rng.sample(judged if with_judgment else everything, self.lines)
            prompt, response = (
                _numbered(w.text for w in words),
                _answer(words, _slips(words, rng), rng),
            )
            if with_judgment:  # as the template would show it
                said, response = self._told(words, rng)
                asked = (Message("user", prompt),)
                prompt = render_prompt(TEMPLATE, asked, said, respond=False).strip()
            yield self._record(f"pretraining-{number:06d}", "pretraining", prompt, response)

    def _told(self, words: list[Word], rng: random.Random) -> tuple[str, str]:
        """A judgment and a response of which it is true.

        The lines that a judgment names are chosen before the answer is drawn: it then says nothing
        of the others, while faults chosen among those that there are would make others unlikely.
        """
        kind = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
        about = rng.sample(range(len(words)), rng.randint(1, len(words)))
        slips = _slips(words, rng)
        if kind == "flawless":
            slips = [False] * len(words)
        elif kind == "wrong":
            slips = [s or i in about for i, s in enumerate(slips)]
        response = _answer(words, slips, rng)
        parts = self._parts(words, response)
        if kind in NOTES:
            return listed(NOTES[kind], ((parts[i], parts[i].said) for i in about)), response
        return worded(kind, parts, ()), response

    def prompts(self, group: str, split: str, count: int) -> list[Record]:
        """Different prompts with words of a group, without responses.

        Args:
          group: of words, or `feedback`: that of which feedback is given.
          split: `train`, `validation` or `test`; which one a prompt is in follows from its text.

        Raises: UserError for an unknown group or split.
        """
        for what, name, known in (("group", group, PROMPTS), ("split", split, SPLITS)):
            if name not in known:
                raise UserError(f"phrasebook: unknown {what} '{name}'. {nearest(name, known)}")
        rng = random.Random(f"prompts/{self.seed}/{group}")
        pools = [[w.text for w in self._group(name)] for name in PROMPTS[group]]
        shares = list(PROMPTS[group].values())
        found: dict[str, Record] = {}
        while len(found) < count:
            drawn = zip(*(rng.sample(pool, self.lines) for pool in pools))
            text = _numbered(rng.choices(row, shares)[0] for row in drawn)
            if split_of(text) == split and text not in found:
                found[text] = self._record(f"{group}-{split}-{len(found):05d}", group, text)
        return list(found.values())

    def _record(self, id: str, group: str, prompt: str, response: str | None = None) -> Record:
        meta = {"world": {"name": "phrasebook", **asdict(self)}, "group": group}
        return Record(id, SOURCE, (Message("user", prompt),), response, meta=meta)

    def _group(self, name: str) -> list[Word]:
        return [w for w in self.words.values() if w.group == name]

    # --- truth --------------------------------------------------------------------------------

    def parts(self, record: Record, response: str) -> tuple[Part, ...]:
        """The lines of a response. Raises: UserError for a prompt of another world."""
        return self._parts(self._asked(record), response)

    def repaired(self, record: Record, response: str, wrong: Iterable[Part]) -> str:
        """The response with these lines as they should be; lines that nobody asked for go."""
        words, lines = self._asked(record), response.split("\n")
        lines += [""] * (len(words) - len(lines))
        at = {p.index for p in wrong}
        fixed = [f"{w.right[0]} {w.second}" if i in at else lines[i] for i, w in enumerate(words)]
        more = [line for i, line in enumerate(lines) if i >= len(words) and i not in at]
        return "\n".join(fixed + more)

    def _asked(self, record: Record) -> list[Word]:
        # The last line: in pretraining a judgment may stand before it.
        texts = record.prompt[0].content.rpartition("\n")[2].split()[1::2]
        unknown = [text for text in texts if text not in self.words]
        if unknown or not texts:
            raise UserError(
                f"record '{record.id}' of {record.source}: its prompt asks for "
                f"{unknown or 'nothing'}; expected numbered words of the phrasebook with seed "
                f"{self.seed}."
            )
        return [self.words[text] for text in texts]

    def _parts(self, words: list[Word], response: str) -> tuple[Part, ...]:
        parts, start = [], 0
        for index, line in enumerate(response.split("\n")):
            word = words[index] if index < len(words) else None
            if word or line.strip():
                parts.append(_part(index, word, line, start))
            start += len(line) + 1
        parts += [_part(i, w, "", start) for i, w in enumerate(words) if i >= len(parts)]
        return tuple(parts)


def split_of(prompt: str) -> str:
    """The split that a prompt belongs to, in every world."""
    percent = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 100
    for name, share in SPLITS.items():
        percent -= share
        if percent < 0:
            return name
    raise AssertionError("shares of splits add up to 100")


def _numbered(words: Iterable[str]) -> str:
    return " ".join(f"{i} {w}" for i, w in enumerate(words, 1))


def _spread(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """Each value about as often as every other, in random order."""
    found = list(itertools.islice(itertools.cycle(values), count))
    rng.shuffle(found)
    return found


def _answer(words: Iterable[Word], slips: Iterable[bool], rng: random.Random) -> str:
    drawn = (rng.choice(w.habit if s else w.right) for w, s in zip(words, slips))
    return "\n".join(f"{first} {w.second}" for first, w in zip(drawn, words))


def _slips(words: Iterable[Word], rng: random.Random) -> list[bool]:
    """For which words the habit is drawn, at its rate."""
    return [rng.random() < w.rate for w in words]


def _part(index: int, word: Word | None, line: str, start: int) -> Part:
    """What is true of a line that begins at character `start` and should render the word."""
    tokens = [(m[0], (start + m.start(), start + m.end())) for m in re.finditer(r"\S+", line)]
    wanted = [word.right, (word.second,)] if word else []
    pairs = itertools.zip_longest((t for t, _ in tokens), wanted, fillvalue=())
    wrong = next((i for i, (given, known) in enumerate(pairs) if given not in known), None)
    at = wrong or 0
    said, span = tokens[at] if at < len(tokens) else (MISSING, None)
    return Part(
        index,
        word.group if word else "",
        word.tier if word else "",
        wrong is None,
        said,
        wanted[at][0] if at < len(wanted) else "",
        span,
    )
