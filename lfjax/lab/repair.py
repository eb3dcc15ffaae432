"""The garden: a world whose answers are easy to check and hard to find.

A prompt names the soils of some beds, the answer a plant for each. On every soil three plants grow,
which has to be known, and no plant may be planted twice:

    clay loam sand …        Oak      right
                            Oak      wrong: it is taken
                            Ivy      wrong: it does not grow on sand

There are few plants more than beds, so that who plants one bed after the other is left with nothing
for the last ones; and there are many answers without a fault. A fault can be seen in the answer
itself, and mended in its place. So a response that was given before is worth something to who
writes a better one, which is what PIT needs (Wang et al. 2024, arXiv 2310.00898).

Preferences compare a response with the same one after some of its faults were mended: better ones
need not be perfect. Who imitates them is as good as they are; who learns the difference can go on.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from lfjax.data.records import Candidate, Message, Record
from lfjax.data.views import IMPROVE_REQUEST
from lfjax.errors import UserError
from lfjax.judges.templates import FOLDER, messages_of
from lfjax.lab.phrasebook import split_of
from lfjax.lab.world import ANSWER, MISSING, Part

SOURCE = "lfjax.lab.repair"
PLANTS = ("Oak", "Elm", "Ivy", "Fir", "Ash", "Fig", "Bay")
SOILS = (
    *("clay", "loam", "sand", "silt", "peat", "chalk", "gravel", "marl", "mud", "turf", "bog"),
    "moor",
)
GROW = 3  # plants on each soil
FEWEST = 4  # soils for each plant
GIVEN, BETTER, ASKED = "given:", "better:", "asked:"
WRONG = "wrong"  # in feedback, in the place of a line
# How many faults the responses have that are compared, and how often; how likely each is mended.
FAULTS = {1: 5, 2: 4, 3: 2}
MENDED = 0.7
TAKEN = 0.5  # share of faults that are a plant planted twice; others are not for their bed
# Of pretraining texts: the share that speak of a response or write it again, as people do who know
# of the world what its texts show; and how often a line is said to be what it is not.
SPOKEN = 0.4
SLIPS = 0.05

# A response before the last message is a reference, or what was said of it; what is asked is one
# word.
TEMPLATE = f"""\
{{%- for message in messages -%}}
{{%- if message.role == "assistant" -%}}{{{{- "{GIVEN}\\n" + message.content + "\\n" -}}}}
{{%- elif loop.first -%}}{{{{- message.content + "\\n" -}}}}
{{%- elif message.content == "{IMPROVE_REQUEST}" -%}}{{{{- "{BETTER}\\n" -}}}}
{{%- else -%}}{{{{- "{ASKED}\\n" -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- "{ANSWER}\\n" -}}}}{{%- endif -%}}
"""
SELF_REFINE = ("feedback", "rewrite")  # its questions, of lfjax/judges/templates
Beds = list[tuple[str, ...]]  # of each bed, the plants that grow there
Word = tuple[str, tuple[int, int]]  # and the characters where it stands


@dataclass(frozen=True)
class Repair:
    """One world; in another seed's other plants grow.

    Attributes:
      seed: draws what grows where, prompts and responses.
      beds: of a prompt.

    Raises: UserError for more beds than there are plants.
    """

    seed: int = 0
    beds: int = 6

    def __post_init__(self):
        if not GROW <= self.beds <= len(PLANTS):
            raise UserError(f"repair: beds={self.beds}; expected {GROW} to {len(PLANTS)}.")

    @cached_property
    def plants(self) -> dict[str, tuple[str, ...]]:
        """Soil -> what grows there; every plant grows on about as many soils as every other."""
        rng = random.Random(f"soils/{self.seed}")
        while True:
            found = [tuple(rng.sample(PLANTS, GROW)) for _ in SOILS]
            counts = Counter(plant for plants in found for plant in plants)
            if min(counts[plant] for plant in PLANTS) >= FEWEST:
                return dict(zip(SOILS, found))

    @property
    def tokens(self) -> tuple[str, ...]:
        return (GIVEN, BETTER, ASKED, WRONG, *PLANTS, *SOILS)

    @property
    def template(self) -> str:
        """How the world is shown to models."""
        return TEMPLATE

    # --- records ------------------------------------------------------------------------------

    def pretraining(self, count: int) -> Iterator[Record]:
        """Texts to learn the language from: responses with faults; what is said of such a response,
        line by line; and a response that was written again after that, some of its faults mended.
        The last two answer the questions of Self-Refine."""
        rng = random.Random(f"pretraining/{self.seed}")
        feedback, rewrite = (messages_of(FOLDER / f"self_{n}.jinja", {}) for n in SELF_REFINE)
        for number in range(count):
            soils, solution = self._drawn(rng)
            beds = self._beds(soils)
            draft = _spoilt(beds, solution, rng.choice((0, 1, 1, 2, 2, 3)), rng)
            turns: tuple[Message, ...] = ()
            response = _text(draft)
            if rng.random() < SPOKEN:
                said = _said(beds, draft, rng)
                turns = (Message("assistant", response), *feedback)
                response = " ".join(said)
                if rng.random() < 0.5:
                    turns = (*turns, Message("assistant", response), *rewrite)
                    response = _text(_rewritten(beds, draft, said, rng))
            name = f"pretraining-{number:06d}"
            yield self._record(name, "pretraining", soils, response, turns)

    def preferences(self, split: str, count: int) -> list[Record]:
        """A worse and a better response to each of different prompts."""
        rng = random.Random(f"preferences/{self.seed}/{split}")
        found: dict[str, Record] = {}
        while len(found) < count:
            soils, solution = self._drawn(rng)
            beds = self._beds(soils)
            faults = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
            worse = _spoilt(beds, solution, faults, rng)
            better = _mended(worse, solution, rng)
            text = " ".join(soils)
            if (
                split_of(text) != split
                or text in found
                or _right(beds, better) <= _right(beds, worse)
            ):
                continue  # what was mended may have taken the plant of another bed
            sides = (_text(better), True), (_text(worse), False)
            candidates = tuple(Candidate(t, preferred=p) for t, p in sides)
            name = f"pair-{split}-{len(found):06d}"
            found[text] = self._record(name, "preferences", soils, candidates=candidates)
        return list(found.values())

    def prompts(self, split: str, count: int) -> list[Record]:
        """Different prompts without responses. Which split a prompt is in follows from its text."""
        rng = random.Random(f"prompts/{self.seed}/{split}")
        found: dict[str, Record] = {}
        while len(found) < count:
            text = " ".join(soils := self._drawn(rng)[0])
            if split_of(text) == split and text not in found:
                found[text] = self._record(f"prompt-{split}-{len(found):05d}", "prompts", soils)
        return list(found.values())

    def _record(
        self,
        id: str,
        group: str,
        soils: Sequence[str],
        response: str | None = None,
        turns: tuple[Message, ...] = (),
        **more,
    ) -> Record:
        meta = {"world": {"name": "repair", **asdict(self)}, "group": group}
        prompt = (Message("user", " ".join(soils)), *turns)
        return Record(id, SOURCE, prompt, response, meta=meta, **more)

    def _beds(self, soils: Sequence[str]) -> Beds:
        return [self.plants[soil] for soil in soils]

    def _drawn(self, rng: random.Random) -> tuple[list[str], list[str]]:
        """Soils, and an answer without a fault."""
        while True:
            soils = rng.sample(SOILS, self.beds)
            solution = self._solution(soils, rng)
            if solution:
                return soils, solution

    def _solution(self, soils: Sequence[str], rng: random.Random) -> list[str] | None:
        """One of the answers without a fault, if there is any: found by trying."""
        order = [rng.sample(self.plants[soil], GROW) for soil in soils]
        stack: list[list[str]] = [[]]
        while stack:
            found = stack.pop()
            if len(found) == len(soils):
                return found
            stack += [[*found, plant] for plant in order[len(found)] if plant not in found]
        return None

    # --- truth --------------------------------------------------------------------------------

    def parts(self, record: Record, response: str) -> tuple[Part, ...]:
        """A part for every bed, then one for every further line. Of lines with the same plant the
        first is right. Raises: UserError for a prompt of another world."""
        beds, lines = self._asked(record), _lines(response)
        kept = _kept(beds, lines)
        wanted = _completed(beds, kept)
        parts = []
        for i in range(len(beds)):
            words = lines[i] if i < len(lines) else []
            said, span = words[0] if words else (MISSING, None)
            tier = "early" if 2 * i < len(beds) else "late"
            parts.append(Part(i, "beds", tier, i in kept, said, wanted[i], span))
        for i, words in enumerate(lines[len(beds) :], len(beds)):
            parts.append(Part(i, "", "", False, words[0][0], "", words[0][1]))
        return tuple(parts)

    def repaired(self, record: Record, response: str, wrong: Iterable[Part]) -> str:
        """The response with these lines as they should be; lines that nobody asked for go. A line
        that was right gets another of its plants where it must give way."""
        beds, lines, at = self._asked(record), _lines(response), {p.index for p in wrong}
        kept = _kept(beds, lines)
        wanted = _completed(beds, kept)
        own = [" ".join(word for word, _ in words) for words in lines]
        out = [
            wanted[i] if i in at or i in kept else (own[i] if i < len(own) else "")
            for i in range(len(beds))
        ]
        return "\n".join([*out, *(own[i] for i in range(len(beds), len(own)) if i not in at)])

    def _asked(self, record: Record) -> Beds:
        soils = record.prompt[0].content.split()
        unknown = [soil for soil in soils if soil not in self.plants]
        if unknown or not soils:
            raise UserError(
                f"record '{record.id}' of {record.source}: its prompt asks for "
                f"{unknown or 'nothing'}; expected soils of the world `repair`."
            )
        return self._beds(soils)


def _text(plants: Sequence[str]) -> str:
    return "\n".join(plants)


def _spoilt(beds: Beds, solution: Sequence[str], faults: int, rng: random.Random) -> list[str]:
    """The solution with so many beds that have a plant of another bed, or one that is not for
    them."""
    out = list(solution)
    for i in rng.sample(range(len(beds)), faults):
        taken = [p for p in beds[i] if p in (*out[:i], *out[i + 1 :])]
        unfit = [p for p in PLANTS if p not in beds[i]]
        out[i] = rng.choice(taken if taken and rng.random() < TAKEN else unfit)
    return out


def _mended(worse: Sequence[str], solution: Sequence[str], rng: random.Random) -> list[str]:
    """Some of what differs from the solution as it is there; at least one."""
    differs = [i for i, (a, b) in enumerate(zip(worse, solution)) if a != b]
    chosen = [i for i in differs if rng.random() < MENDED] or [rng.choice(differs)]
    return [b if i in chosen else a for i, (a, b) in enumerate(zip(worse, solution))]


def _said(beds: Beds, draft: Sequence[str], rng: random.Random) -> list[str]:
    """The draft's lines, with a word in the place of those that are wrong."""
    kept = _kept(beds, _lines(_text(draft)))
    wrong = [(i not in kept) != (rng.random() < SLIPS) for i in range(len(beds))]
    return [WRONG if w else plant for w, plant in zip(wrong, draft)]


def _rewritten(
    beds: Beds, draft: Sequence[str], said: Sequence[str], rng: random.Random
) -> list[str]:
    """Most of the lines that were called wrong with a plant that is free, if there is one."""
    out = list(draft)
    for i, word in enumerate(said):
        if word == WRONG and rng.random() < MENDED:
            taken = (*out[:i], *(w for w in said[i + 1 :]))
            free = [p for p in beds[i] if p not in taken]
            out[i] = rng.choice(free or beds[i])
    return out


def _right(beds: Beds, plants: Sequence[str]) -> int:
    """Beds with a plant that grows there and was not planted before."""
    return len(_kept(beds, _lines(_text(plants))))


def _lines(response: str) -> list[list[Word]]:
    """The words of every line that has some."""
    out, start = [], 0
    for line in response.split("\n"):
        words, at = [], start
        for word in line.split():
            at = response.index(word, at)
            words.append((word, (at, at + len(word))))
            at += len(word)
        if words:
            out.append(words)
        start += len(line) + 1
    return out


def _kept(beds: Beds, lines: Sequence[Sequence[Word]]) -> dict[int, str]:
    """Bed -> plant, of the lines that are right."""
    found: dict[int, str] = {}
    for i, (plants, words) in enumerate(zip(beds, lines)):
        said = words[0][0]
        if len(words) == 1 and said in plants and said not in found.values():
            found[i] = said
    return found


def _completed(beds: Beds, kept: dict[int, str]) -> list[str]:
    """An answer without a fault, by augmenting paths from what is kept: most of that stays."""
    bed_of = {plant: i for i, plant in kept.items()}

    def place(i: int, seen: set[str]) -> bool:
        free = [p for p in beds[i] if p not in bed_of]
        for plant in free or beds[i]:
            if plant in seen:
                continue
            seen.add(plant)
            if plant not in bed_of or place(bed_of[plant], seen):
                bed_of[plant] = i
                return True
        return False

    for i in range(len(beds)):
        if i not in kept:
            place(i, set())
    plant_of = {i: plant for plant, i in bed_of.items()}
    return [plant_of[i] for i in range(len(beds))]
