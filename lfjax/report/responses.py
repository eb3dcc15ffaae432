"""Side by side: what systems answered to the same prompts, and what was said of it.

Evaluate stages say which systems belong together; without one, stages whose prompts are the same
do.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lfjax.data.records import Feedback, Message, Record
from lfjax.errors import UserError
from lfjax.report.tables import Table
from lfjax.report.workdir import StageFiles, Workdir, read_jsonl, read_records

CHARACTERS = 4000  # of a text at most are shown
NOTES = 3  # judgments of a response at most
SCALE = {"satisfactory": ("satisfactory", "flawed"), "all_right": ("all right", "some wrong")}
TONES = {
    **dict.fromkeys(("satisfactory", "all right", "preferred", "win"), "good"),
    **dict.fromkeys(("flawed", "some wrong", "not preferred", "loss"), "bad"),
}


@dataclass(frozen=True)
class Entry:
    """A response of a system: its text, verdicts in a word or two, scores as (name, value), and
    what judges wrote."""

    system: str
    text: str
    verdicts: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    cut: bool | None = None  # ended by the limit of tokens; None where that is not known


def tone(verdict: str) -> str:
    """good, bad, or nothing of both: for its colour."""
    return TONES.get(verdict.partition(" against ")[0], "")


@dataclass(frozen=True)
class Prompt:
    """A prompt and the responses to it."""

    id: str
    text: str
    entries: tuple[Entry, ...]

    @property
    def differ(self) -> bool:
        return len({e.verdicts for e in self.entries if e.verdicts}) > 1


@dataclass(frozen=True)
class Board:
    """Systems that answered the same prompts."""

    name: str
    prompts: list[Prompt] = field(default_factory=list)

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(e.system for p in self.prompts for e in p.entries))

    @property
    def verdicts(self) -> dict[str, int]:
        """How many responses have each verdict, the most frequent first."""
        return dict(
            Counter(v for p in self.prompts for e in p.entries for v in e.verdicts).most_common()
        )

    def shown(self, count: int) -> list[Prompt]:
        """At most so many prompts, evenly spread, those that all systems answered before others."""
        most = max(len(p.entries) for p in self.prompts)
        full = [p for p in self.prompts if len(p.entries) == most]
        pool = full if len(full) >= count else self.prompts
        count = min(count, len(pool))
        return [pool[i * len(pool) // count] for i in range(count)]


def boards(workdir: Workdir) -> list[Board]:
    """Those of evaluate stages, then those of the other stages that have responses."""
    evaluated = [evaluation_board(workdir, s) for s in workdir.of_kind("evaluate")]
    return [b for b in (*evaluated, *stage_boards(workdir)) if b.prompts]


def evaluation_board(workdir: Workdir, stage: StageFiles) -> Board:
    """The rows of `per_prompt.jsonl`, with what is known of each response from the records that
    were read."""
    path = stage.folder / "per_prompt.jsonl"
    known = {
        role: {r.id: r for r in read_records(_records(workdir, source), workdir.notices)}
        for role, source in stage.reads.items()
    }
    board, bad = Board(stage.name), []
    for number, row in read_jsonl(path, workdir.notices):
        try:
            board.prompts.append(_evaluated(row, known))
        except (KeyError, TypeError, AttributeError, UserError):
            bad.append(number)
    if bad:
        workdir.notices.append(f"{path}: {len(bad)} rows cannot be read, first line {bad[0]}.")
    return board


def _records(workdir: Workdir, stage: str) -> Path:
    return workdir.folder / stage / "records.jsonl"


def _evaluated(row: dict, known: dict[str, dict[str, Record]]) -> Prompt:
    """A row of `per_prompt.jsonl`. Raises: KeyError, TypeError, AttributeError or UserError if it
    is none."""
    asked = Record.from_json({"id": row["id"], "source": "report", "prompt": row["prompt"]})
    entries = []
    for system, answer in row["answers"].items():
        scores = {k: v for k, v in answer.items() if k != "response"}
        said = [v for v in row.get("verdicts", ()) if v["system"] == system and v["verdict"]]
        verdicts = [f"{v['verdict']} against {v['against']}" for v in said]
        verdicts += [SCALE[k][0 if scores.pop(k) == 1 else 1] for k in SCALE if k in scores]
        own = known.get(f"systems/{system}") or known.get(f"systems/{system}/{row['seed']}") or {}
        record = own.get(asked.id)
        if record is None or record.response != answer["response"]:  # a refinement, say
            record = Record(asked.id, asked.source, asked.prompt, "" + answer["response"])
        entries.append(
            Entry(
                system,
                record.response,
                tuple(verdicts),
                tuple(scores.items()),
                tuple(map(note, record.feedback)),
                cut_off(record),
            )
        )
    name = f"{asked.id}, seed {row['seed']}" if row["seed"] else asked.id
    return Prompt(name, prompt_text(asked.prompt), tuple(entries))


def cut_off(record: Record) -> bool | None:
    """Whether the response was ended by the limit of tokens; None where that is not known."""
    return record.meta["finish"] == "length" if "finish" in record.meta else None


def stage_boards(workdir: Workdir) -> list[Board]:
    """Boards of what generate and judge stages wrote and no evaluate stage shows: stages that share
    half of their prompts stand side by side."""
    found: list[dict[tuple[Message, ...], tuple[str, list[Entry]]]] = []
    for stage in _last_of_chains(workdir):
        records = read_records(_records(workdir, stage.name), workdir.notices)
        own = {r.prompt for r in records}
        if not own:
            continue
        board = next((b for b in found if 2 * len(own & b.keys()) >= min(len(own), len(b))), None)
        if board is None:
            found.append(board := {})
        name, seen = _origin(workdir, stage), set()
        for record in records:
            if record.prompt not in seen:  # of several samples the first
                seen.add(record.prompt)
                entries = board.setdefault(record.prompt, (record.id, []))[1]
                entries += entries_of(record, name, stage.name)
    out = []
    for board in found:
        prompts = [Prompt(i, prompt_text(p), tuple(e)) for p, (i, e) in board.items() if e]
        made = Board("", prompts)
        if prompts:
            out.append(Board(", ".join(made.systems), prompts))
    return sorted(out, key=lambda b: -len(b.systems))


def _last_of_chains(workdir: Workdir) -> list[StageFiles]:
    """Stages that made responses or judged them, without those whose records a later stage wrote
    again with more in them, or evaluated."""
    stages = [s for s in workdir.of_kind("generate", "judge") if s.state == "finished"]
    again = {s.reads.get("data") for s in stages if _adds(s)}
    for stage in workdir.of_kind("evaluate"):
        again |= {name for role, name in stage.reads.items() if role.startswith("systems/")}
    return [s for s in stages if s.name not in again]


def _adds(stage: StageFiles) -> bool:
    """Whether a stage writes the records that it reads, with feedback or a refinement added."""
    return stage.kind == "judge" or stage.config.get("asks") == "refinement"


def _origin(workdir: Workdir, stage: StageFiles) -> str:
    """The stage that made the responses that this one added to; itself where they came from
    elsewhere, or where another stage added to the same ones."""
    by_name = {s.name: s for s in workdir.stages}
    readers = Counter(s.reads.get("data") for s in workdir.stages if _adds(s))
    while _adds(stage) and "data" in stage.reads and readers[stage.reads["data"]] == 1:
        stage = by_name[stage.reads["data"]]
    return stage.name


def entries_of(record: Record, name: str, stage: str) -> list[Entry]:
    """The response of a record, its refinement and its candidates."""
    out = []
    if record.response is not None:
        flawed = "flawed" if record.feedback else "not judged"
        out.append(
            Entry(
                f"{name} ({record.model})" if record.model not in (None, name) else name,
                record.response,
                ("satisfactory" if record.satisfactory else flawed,),
                tuple(
                    (f.author or "score", f.score) for f in record.feedback if f.score is not None
                ),
                tuple(note(f) for f in record.feedback),
                cut_off(record),
            )
        )
    if record.refinement is not None:
        out.append(Entry(f"{stage}: refinement", record.refinement))
    for i, c in enumerate(record.candidates, 1):
        marked = {None: (), True: ("preferred",), False: ("not preferred",)}[c.preferred]
        scores = () if c.score is None else (("score", c.score),)
        out.append(Entry(c.model or f"{name}: candidate {i}", c.text, marked, scores))
    return out


def note(feedback: Feedback) -> str:
    """What a judge wrote, and who it is."""
    return f"{feedback.text} — {feedback.author}" if feedback.author else feedback.text


def prompt_text(prompt: Sequence[Message]) -> str:
    """A prompt as one text, with its speakers where there are several messages."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{m.role}: {m.content}" for m in prompt)


def lengths(board: Board) -> dict[str, list[int]]:
    """Words of all responses by system."""
    return {
        system: [
            len(e.text.split()) for p in board.prompts for e in p.entries if e.system == system
        ]
        for system in board.systems
    }


def length_table(name: str, board: Board) -> Table:
    """Their distribution, in words and characters: what is longer often wins for that alone."""
    rows = []
    for system, words in lengths(board).items():
        entries = [e for p in board.prompts for e in p.entries if e.system == system]
        tenth, *_, last = (
            statistics.quantiles(words, n=10, method="inclusive") if words[1:] else (words * 2)
        )
        characters = statistics.fmean(len(e.text) for e in entries)
        middle = (statistics.fmean(words), tenth, statistics.median(words), last)
        ended = [e.cut for e in entries if e.cut is not None]
        share = statistics.fmean(ended) if ended else None
        rows.append((system, len(words), *middle, characters, share))
    columns = ("system", "responses", "mean words", "10 %", "median", "90 %", "mean characters")
    return Table(name, board.name, (*columns, "share cut at the limit"), tuple(rows))
