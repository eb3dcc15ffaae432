"""The ledger: a world in which a critique is scratch work.

A prompt lists accounts, a line each, with their entries; the answer gives the total of each, of
which only the last digit counts. A small model that has to say it at once often cannot; adding
entry by entry, it can. The critic does just that for every account, line by line, marks the totals
that are wrong, advises what to write for one or two of them, and its improved response repairs
exactly those:

    a 3 b 5 c 2      z 0          Weaknesses:              z 0
    d 4 e 4 f 0      y 8          a 3 b 8 c 0 z 0 right    y 8
    g 9 h 2 i 6      x 5          d 4 e 8 f 8 y 8 right    x 7
                                  g 9 h 1 i 7 x 5 wrong
                                  Advice:
                                  x 7
                                  Overall Score: [[7]]

Every entry has a name of its own, so that models find it by its name, wherever it stands.
"""

import itertools
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from lfjax.data.critiques import SCALE
from lfjax.data.records import Candidate, Feedback, Message, Record
from lfjax.data.sources.judged import SATISFACTORY_SCORE
from lfjax.errors import UserError, nearest
from lfjax.judges.parsing import Critique
from lfjax.lab.phrasebook import SPLITS, split_of
from lfjax.lab.world import MISSING, Part, faults, score

SOURCE = "lfjax.lab.ledger"
AUTHOR = "oracle"
CELLS = tuple("abcdefghijklmnopqr")
NAMES = tuple("zyxwvu")
BASE = 10  # totals are last digits
PRETRAINING = {"answer": 0.4, "check": 0.4, "exercise": 0.2}  # shares of texts
COMPARED = 8  # comparisons of a text
EXERCISES = ("totals", "check", "repair", "repair")
TRIES = 200  # draws for each prompt, before there are taken to be no more
WORK = "work"  # asks for running totals
RIGHT, WRONG = "right", "wrong"
HEADS = ("Weaknesses:", "Advice:", "Overall", "Score:", "###", "Feedback", "Improved", "Response")
WORDS = (WORK, RIGHT, WRONG, MISSING, "none", "answer:", "\n", "\n\n")
MARKS = tuple(f"[[{n}]]" for n in range(1, 11))
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == "assistant" -%}{{- "answer:\n" + message.content + eos_token + "\n" -}}
{%- else -%}{{- message.content + "\n" -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "answer:\n" -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Ledger:
    """One world.

    Attributes:
      seed: draws prompts.
      accounts: lines of a prompt.
      entries: of an account; beyond `fewest` they may be zero, and the fewer are not, the easier
        is the total (the account's tier).
      names: accounts at most that the critic has repaired.

    Raises: UserError for numbers that make no world.
    """

    seed: int = 0
    accounts: int = 3
    entries: int = 3
    fewest: int = 1
    names: int = 2

    def __post_init__(self):
        fits = self.accounts * self.entries <= len(CELLS) and self.accounts <= len(NAMES)
        if not (fits and self.accounts >= 1 and 1 <= self.fewest <= self.entries):
            raise UserError(
                f"ledger: accounts={self.accounts}, entries={self.entries}, fewest={self.fewest}; "
                f"expected 1 to {len(NAMES)} accounts with {len(CELLS)} entries at most together, "
                "and 1 <= fewest <= entries."
            )

    @property
    def tokens(self) -> tuple[str, ...]:
        return (*map(str, range(BASE)), *CELLS, *NAMES, *HEADS, *WORDS, *MARKS)

    # --- records ------------------------------------------------------------------------------

    def pretraining(self, count: int) -> Iterator[Record]:
        """Right answers, as often answers that are checked by running totals and then corrected,
        and exercises. How far an answer is from its check varies, so that models learn to find it
        anywhere."""
        rng = random.Random(f"pretraining/{self.seed}")
        for number in range(count):
            lines = self._lines(rng)
            prompt, response = _prompt(lines), _answer(lines)
            kind = rng.choices(list(PRETRAINING), list(PRETRAINING.values()))[0]
            if kind == "exercise":
                prompt, response = self._exercise(rng, rng.choice(EXERCISES))
            elif kind == "check":
                wrong = [i for i in range(self.accounts) if rng.random() < 0.5]
                given = _answer(lines, wrong, rng)
                response = f"{_checked(lines, given)}\n\nanswer:\n{response}"
                prompt = f"{prompt}\nanswer:\n{given}\n\n{_asked(rng)}"
            yield self._record(f"pretraining-{number:06d}", "pretraining", prompt, response)

    def comparisons(self, count: int) -> Iterator[Record]:
        """Totals compared with what is said of them, which is best learned before anything else:
        among other texts so small a model hardly finds that two digits are the same."""
        rng = random.Random(f"comparisons/{self.seed}")
        for n in range(count):
            compared = "\n".join(_compared(rng) for _ in range(COMPARED))
            yield self._record(f"comparison-{n:06d}", "comparison", WORK, compared)

    def totals(self, count: int) -> Iterator[Record]:
        """The running totals of one account, which are best learned next."""
        rng = random.Random(f"totals/{self.seed}")
        for n in range(count):
            yield self._record(f"total-{n:06d}", "total", *self._exercise(rng, "totals"))

    def exercises(self, count: int) -> Iterator[Record]:
        """More of them, as often with a check of the account's answer, and as often as both answers
        repaired as they are advised to be."""
        rng = random.Random(f"exercises/{self.seed}")
        for n in range(count):
            kind = rng.choice(EXERCISES)
            yield self._record(f"exercise-{n:06d}", "exercise", *self._exercise(rng, kind))

    def _exercise(self, rng: random.Random, kind: str) -> tuple[str, str]:
        """(prompt, response) of one of `EXERCISES`."""
        if kind == "repair":
            return self._repair(rng)
        at, (line,) = rng.randrange(self.accounts), self._lines(rng, 1)
        prompt, response = _named(at, line), _named(at, _totals(line))
        if kind == "totals":
            return prompt, response
        total = sum(line) % BASE
        said = total if rng.random() < 0.5 else (total + rng.randrange(1, BASE)) % BASE
        mark = RIGHT if said == total else WRONG
        asked = f"{prompt}\nanswer:\n{NAMES[at]} {said}\n\n{_asked(rng)}"
        return asked, f"{response} {NAMES[at]} {said} {mark}"

    def _repair(self, rng: random.Random) -> tuple[str, str]:
        """An answer and what to write for some of its lines, and the answer with them."""
        said = [str(rng.randrange(BASE)) for _ in range(self.accounts)]
        count = rng.randint(0, min(self.names, self.accounts))
        advised = {
            i: str(rng.randrange(BASE)) for i in sorted(rng.sample(range(self.accounts), count))
        }
        given = "\n".join(f"{name} {t}" for name, t in zip(NAMES, said))
        advice = "\n".join(f"{NAMES[i]} {t}" for i, t in advised.items()) or "none"
        better = "\n".join(f"{NAMES[i]} {advised.get(i, t)}" for i, t in enumerate(said))
        return f"{given}\n\n{_asked(rng)}\n{advice}", better

    def prompts(self, split: str, count: int) -> list[Record]:
        """Different prompts without responses. Raises: UserError for an unknown split, or more
        prompts than can be found."""
        if split not in SPLITS:
            raise UserError(f"ledger: unknown split '{split}'. {nearest(split, SPLITS)}")
        rng = random.Random(f"prompts/{self.seed}")
        found: dict[str, Record] = {}
        for _ in range(TRIES * max(count, 100)):
            if len(found) == count:
                return list(found.values())
            text = _prompt(self._lines(rng))
            if split_of(text) == split and text not in found:
                found[text] = self._record(f"{split}-{len(found):05d}", "ledger", text)
        raise UserError(
            f"ledger: {count} prompts of '{split}' are asked for, {len(found)} were found; more "
            "accounts or entries make more."
        )

    def preferences(self, split: str, count: int) -> list[Record]:
        """Prompts with two answers each, of which one has more right lines and is preferred."""
        rng = random.Random(f"preferences/{self.seed}")
        out = []
        for r in self.prompts(split, count):
            lines = self._asked(r)
            few, many = sorted(rng.sample(range(self.accounts + 1), 2))
            both = [_answer(lines, rng.sample(range(self.accounts), n), rng) for n in (few, many)]
            pair = zip(both, (True, False))
            sides = tuple(Candidate(text, preferred=mark) for text, mark in pair)
            out.append(replace(r, candidates=sides))
        return out

    def _lines(self, rng: random.Random, count: int | None = None) -> list[list[int]]:
        lines = []
        for _ in range(self.accounts if count is None else count):
            full = rng.randint(self.fewest, self.entries)
            lines.append([rng.randint(1, 9) for _ in range(full)] + [0] * (self.entries - full))
        return lines

    def _record(self, id: str, group: str, prompt: str, response: str | None = None) -> Record:
        meta = {"world": {"name": "ledger", **asdict(self)}, "group": group}
        return Record(id, SOURCE, (Message("user", prompt),), response, meta=meta)

    # --- truth --------------------------------------------------------------------------------

    def parts(self, record: Record, response: str) -> tuple[Part, ...]:
        """The lines of a response. Raises: UserError for a prompt of another world."""
        lines, parts, start = self._asked(record), [], 0
        for index, text in enumerate(response.split("\n")):
            if index < len(lines) or text.strip():
                parts.append(_part(index, lines, text, start))
            start += len(text) + 1
        parts += [_part(i, lines, "", start) for i in range(len(parts), len(lines))]
        return tuple(parts)

    def repaired(self, record: Record, response: str, wrong: Iterable[Part]) -> str:
        """The response with these lines as they should be; lines that nobody asked for go."""
        lines, given = self._asked(record), response.split("\n")
        right, at = _answer(lines).split("\n"), {p.index for p in wrong}
        given += [""] * (len(lines) - len(given))
        fixed = [r if i in at else given[i] for i, r in enumerate(right)]
        more = [t for i, t in enumerate(given) if i >= len(lines) and i not in at]
        return "\n".join(fixed + more).rstrip("\n")

    def critique(self, record: Record, response: str) -> Critique:
        """What the critic says of a response, and its improved response, in the form that
        `judges.parsing.critique` reads."""
        lines, parts = self._asked(record), self.parts(record, response)
        wrong = faults(parts)
        chosen = wrong[: self.names]
        right = _answer(lines).split("\n")
        weaknesses = _checked(lines, response)
        advice = "\n".join(right[p.index] for p in chosen if p.index < len(right)) or "none"
        mark = score(parts)
        text = f"Weaknesses:\n{weaknesses}\nAdvice:\n{advice}\nOverall Score: [[{mark}]]"
        polarity = "mixed" if mark >= SATISFACTORY_SCORE else "negative"
        notes = dict(scale=SCALE, weaknesses=weaknesses, suggestions=advice, author=AUTHOR)
        said = Feedback(text, polarity, float(mark), **notes)
        return Critique(said, self.repaired(record, response, chosen))

    def _asked(self, record: Record) -> list[list[int]]:
        text = record.prompt[-1].content.partition("\nanswer:")[0]
        found = [line.split() for line in text.split("\n")]
        digits = [[int(t) for t in line[1::2] if re.fullmatch("[0-9]", t)] for line in found]
        if len(digits) != self.accounts or _prompt(digits) != text:
            raise UserError(
                f"record '{record.id}' of {record.source}: its prompt is {text!r}; expected "
                f"{self.accounts} accounts with {self.entries} named digits each."
            )
        return digits


def _named(line: int, digits: list[int]) -> str:
    """Digits after the names of a line's entries."""
    names = CELLS[line * len(digits) :]
    return " ".join(f"{name} {digit}" for name, digit in zip(names, digits))


def _prompt(lines: list[list[int]]) -> str:
    return "\n".join(_named(i, line) for i, line in enumerate(lines))


def _answer(
    lines: list[list[int]], wrong: Iterable[int] = (), rng: random.Random | None = None
) -> str:
    """The right answer, but for some lines, which get another total."""
    off = {i: rng.randrange(1, BASE) for i in wrong}
    totals = [(sum(line) + off.get(i, 0)) % BASE for i, line in enumerate(lines)]
    return "\n".join(f"{n} {t}" for n, t in zip(NAMES, totals))


def _checked(lines: list[list[int]], response: str) -> str:
    """The running totals of every account, what the response says of it, and whether that is
    right."""
    given = dict(enumerate(response.split("\n")))
    out = []
    for i, (name, line) in enumerate(zip(NAMES, lines)):
        totals = _totals(line)
        said = given.get(i, "").split()
        well = len(said) == 2 and said[0] == name and re.fullmatch("[0-9]", said[1])
        told = said[1] if well else MISSING
        mark = RIGHT if told == str(totals[-1]) else WRONG
        out.append(f"{_named(i, totals)} {name} {told} {mark}")
    return "\n".join(out)


def _compared(rng: random.Random) -> str:
    """The end of a line that checks an account: right as often as wrong."""
    total, same = rng.randrange(BASE), rng.random() < 0.5
    told = total if same else (total + rng.randrange(1, BASE)) % BASE
    return f"{total} {rng.choice(NAMES)} {told} {RIGHT if same else WRONG}"


def _asked(rng: random.Random) -> str:
    """The request for a check, of some length."""
    return " ".join([WORK] * rng.randint(1, 4))


def _totals(line: list[int]) -> list[int]:
    """Running totals' last digits."""
    return [t % BASE for t in itertools.accumulate(line)]


def _part(index: int, lines: list[list[int]], text: str, start: int) -> Part:
    """What is true of a line that begins at character `start` and should give an account."""
    tokens = [(m[0], (start + m.start(), start + m.end())) for m in re.finditer(r"\S+", text)]
    asked = index < len(lines)
    wanted = [NAMES[index], str(sum(lines[index]) % BASE)] if asked else []
    pairs = itertools.zip_longest((t for t, _ in tokens), wanted)
    at = next((i for i, (given, known) in enumerate(pairs) if given != known), None)
    said, span = tokens[at or 0] if (at or 0) < len(tokens) else (MISSING, None)
    return Part(
        index,
        "account" if asked else "",
        f"{sum(map(bool, lines[index]))} entries" if asked else "",
        at is None,
        said,
        wanted[at or 0] if (at or 0) < len(wanted) else "",
        span,
    )
