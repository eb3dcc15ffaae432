"""The garden: a world whose answers are easy to check and hard to find.

A prompt lists, in three rounds, plants that would grow in each of its beds; the answer plants one
of the three in each bed, and no plant twice:

    first: Oak Elm Fir second: Elm Fir Oak third: Ivy Oak Elm        Oak    right
                                                                     Oak    wrong: it is taken
                                                                     Ivy    wrong: not for this bed

There are about as many plants as beds, so that who plants one bed after the other is left with
nothing for the last; and there are many answers without a fault. A fault can be seen in the answer
itself, and mended in its place. So a response that was given before is worth something to who
writes a better one, which is what PIT needs (Wang et al. 2024, arXiv 2310.00898).

Preferences compare a response with the same one after some of its faults were mended: better ones
need not be perfect. Who imitates them is as good as they are; who learns the difference can go on.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from lfjax.data.records import Candidate, Message, Record
from lfjax.data.views import IMPROVE_REQUEST
from lfjax.errors import UserError
from lfjax.lab.phrasebook import split_of
from lfjax.lab.world import ANSWER, MISSING, Part

SOURCE = "lfjax.lab.repair"
PLANTS = (
    *("Oak", "Elm", "Ivy", "Fir", "Ash", "Fig", "Bay", "Yew", "Box", "Rye", "Oat", "Pea", "Nut"),
    *("Hop", "Sage", "Mint"),
)
ROUNDS = ("first:", "second:", "third:")
GIVEN, BETTER, ASKED = "given:", "better:", "asked:"
# How many faults the responses have that are compared, and how often; how likely each is mended.
FAULTS = {1: 5, 2: 4, 3: 2}
MENDED = 0.5
TAKEN = 0.7  # share of faults that are a plant planted twice; others are not for their bed

# A response before the last message is a reference; what is asked about it is one word.
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
Beds = list[tuple[str, ...]]  # of each bed, the plants that grow there
Word = tuple[str, tuple[int, int]]  # and the characters where it stands


@dataclass(frozen=True)
class Repair:
    """One world; another seed asks for other prompts.

    Attributes:
      seed: draws prompts and responses.
      beds: of a prompt.
      spare: plants of a prompt beyond one for each bed.

    Raises: UserError for more beds and plants than there are.
    """

    seed: int = 0
    beds: int = 6
    spare: int = 0

    def __post_init__(self):
        if not (self.beds >= len(ROUNDS) and 0 <= self.spare <= len(PLANTS) - self.beds):
            raise UserError(
                f"repair: beds={self.beds}, spare={self.spare}; expected at least {len(ROUNDS)} "
                f"beds, and together at most {len(PLANTS)}."
            )

    @property
    def tokens(self) -> tuple[str, ...]:
        return (*ROUNDS, GIVEN, BETTER, ASKED, *PLANTS)

    @property
    def template(self) -> str:
        """How the world is shown to models."""
        return TEMPLATE

    # --- records ------------------------------------------------------------------------------

    def pretraining(self, count: int) -> Iterator[Record]:
        """Prompts with responses that have faults, to learn the language from."""
        rng = random.Random(f"pretraining/{self.seed}")
        for number in range(count):
            beds, solution = self._drawn(rng)
            response = _text(_spoilt(beds, solution, rng.choice((0, 1, 1, 2, 2, 3)), rng))
            yield self._record(f"pretraining-{number:06d}", "pretraining", beds, response)

    def preferences(self, split: str, count: int) -> list[Record]:
        """A worse and a better response to each of different prompts."""
        rng = random.Random(f"preferences/{self.seed}/{split}")
        found: dict[str, Record] = {}
        while len(found) < count:
            beds, solution = self._drawn(rng)
            faults = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
            worse = _spoilt(beds, solution, faults, rng)
            better = _mended(worse, solution, rng)
            text = _asked(beds)
            if (
                split_of(text) != split
                or text in found
                or _right(beds, better) <= _right(beds, worse)
            ):
                continue  # what was mended may have taken the plant of another bed
            sides = (_text(better), True), (_text(worse), False)
            candidates = tuple(Candidate(t, preferred=p) for t, p in sides)
            name = f"pair-{split}-{len(found):06d}"
            found[text] = self._record(name, "preferences", beds, candidates=candidates)
        return list(found.values())

    def prompts(self, split: str, count: int) -> list[Record]:
        """Different prompts without responses. Which split a prompt is in follows from its text."""
        rng = random.Random(f"prompts/{self.seed}/{split}")
        found: dict[str, Record] = {}
        while len(found) < count:
            beds, _ = self._drawn(rng)
            text = _asked(beds)
            if split_of(text) == split and text not in found:
                found[text] = self._record(f"prompt-{split}-{len(found):05d}", "prompts", beds)
        return list(found.values())

    def _record(self, id: str, group: str, beds: Beds, response: str | None = None, **more):
        meta = {"world": {"name": "repair", **asdict(self)}, "group": group}
        return Record(id, SOURCE, (Message("user", _asked(beds)),), response, meta=meta, **more)

    def _drawn(self, rng: random.Random) -> tuple[Beds, list[str]]:
        """What grows where, and an answer without a fault, which makes sure that there is one."""
        plants = rng.sample(PLANTS, self.beds + self.spare)
        solution = rng.sample(plants, self.beds)
        beds = []
        for plant in solution:
            others = rng.sample([p for p in plants if p != plant], len(ROUNDS) - 1)
            beds.append(tuple(rng.sample([plant, *others], len(ROUNDS))))
        return beds, solution

    # --- truth --------------------------------------------------------------------------------

    def parts(self, record: Record, response: str) -> tuple[Part, ...]:
        """A part for every bed, then one for every further line. Of lines with the same plant the
        first is right. Raises: UserError for a prompt of another world."""
        beds, lines = beds_of(record), _lines(response)
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
        beds, lines, at = beds_of(record), _lines(response), {p.index for p in wrong}
        kept = _kept(beds, lines)
        wanted = _completed(beds, kept)
        own = [" ".join(word for word, _ in words) for words in lines]
        out = [
            wanted[i] if i in at or i in kept else (own[i] if i < len(own) else "")
            for i in range(len(beds))
        ]
        return "\n".join([*out, *(own[i] for i in range(len(beds), len(own)) if i not in at)])


def beds_of(record: Record) -> Beds:
    """The plants that grow in each bed. Raises: UserError for a prompt of another world."""
    rounds: list[list[str]] = []
    for word in record.prompt[0].content.split():
        if len(rounds) < len(ROUNDS) and word == ROUNDS[len(rounds)]:
            rounds.append([])
        elif rounds and word in PLANTS:
            rounds[-1].append(word)
        else:
            rounds = []
            break
    if len(rounds) < len(ROUNDS) or len({len(words) for words in rounds}) > 1:
        raise UserError(
            f"record '{record.id}' of {record.source}: its prompt is not of the world `repair`; "
            f"expected {len(ROUNDS)} rounds of equally many plants ({' … '.join(ROUNDS)} …)."
        )
    return list(zip(*rounds))


def _asked(beds: Beds) -> str:
    return " ".join(f"{name} {' '.join(plants)}" for name, plants in zip(ROUNDS, zip(*beds)))


def _text(plants: Sequence[str]) -> str:
    return "\n".join(plants)


def _spoilt(beds: Beds, solution: Sequence[str], faults: int, rng: random.Random) -> list[str]:
    """The solution with so many beds that have a plant of another bed, or one that is not for
    them."""
    out = list(solution)
    everything = sorted({plant for plants in beds for plant in plants})
    for i in rng.sample(range(len(beds)), faults):
        taken = [p for p in beds[i] if p in (*out[:i], *out[i + 1 :])]
        unfit = [p for p in everything if p not in beds[i]]
        among = taken if taken and rng.random() < TAKEN else unfit
        out[i] = rng.choice(among or taken)
    return out


def _mended(worse: Sequence[str], solution: Sequence[str], rng: random.Random) -> list[str]:
    """Some of what differs from the solution as it is there; at least one."""
    differs = [i for i, (a, b) in enumerate(zip(worse, solution)) if a != b]
    chosen = [i for i in differs if rng.random() < MENDED] or [rng.choice(differs)]
    return [b if i in chosen else a for i, (a, b) in enumerate(zip(worse, solution))]


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
