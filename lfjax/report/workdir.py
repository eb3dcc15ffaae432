"""What stands in a workdir, read for a report: whatever stages have written so far. A file that
cannot be read is named in `notices` and left out; the rest is shown."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lfjax.data.records import Record
from lfjax.errors import UserError

SET_ASIDE = re.compile(r"\.old\d+$")  # folders of stages that were done again


@dataclass(frozen=True)
class StageFiles:
    """A stage as its folder shows it.

    Attributes:
      state: finished, unfinished (begun), or not begun.
      config: its own configuration, {} where it is not known.
      done: its done.json, {} unless it is finished.
      reads: the stages of this workdir that it reads, by role.
    """

    name: str
    folder: Path
    state: str
    config: dict[str, Any]
    done: dict[str, Any]
    reads: dict[str, str]

    @property
    def kind(self) -> str:
        return str(self.config.get("kind", "unknown"))

    @property
    def what(self) -> str:
        """The kind, and which method, judge or filter."""
        own = next(
            (self.config[k] for k in ("method", "judge", "filter") if self.config.get(k)), ""
        )
        return f"{self.kind}: {own}" if own else self.kind

    def part(self, name: str) -> dict[str, Any]:
        """`headline`, `cost` or `provenance`, {} where there is none."""
        return _dict(self.done.get(name))


@dataclass(frozen=True)
class Workdir:
    """Stages in their order, the resolved configuration, and what could not be read."""

    folder: Path
    config: dict[str, Any]
    stages: tuple[StageFiles, ...]
    notices: list[str] = field(default_factory=list)

    def of_kind(self, *kinds: str) -> list[StageFiles]:
        return [s for s in self.stages if s.kind in kinds]


def read_workdir(folder: str | Path) -> Workdir:
    """Stages and configuration of a workdir.

    Raises: UserError where there is no folder, or nothing of a run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory; expected the --workdir of a run.")
    notices: list[str] = []
    config = read_json(folder / "config.json", notices)
    order = [str(name) for name in config.get("order") or []]
    marks = (*folder.glob("*/stage.json"), *folder.glob("*/done.json"))
    found = {p.parent.name for p in marks if not SET_ASIDE.search(p.parent.name)}
    if not found and not order:
        raise UserError(
            f"{folder}: nothing to report: no config.json with stages, and no folder of a stage. "
            "Give the --workdir of a run of lfjax.main."
        )
    names = [*order, *sorted(found - set(order))]
    known = _dict(config.get("stages"))
    done = {name: read_json(folder / name / "done.json", notices) for name in names}
    stages = tuple(_stage(folder / n, _dict(known.get(n)), done, notices) for n in names)
    return Workdir(folder, config, stages, notices)


def _stage(folder: Path, config: dict[str, Any], done: dict[str, dict], notices) -> StageFiles:
    own = done[folder.name]
    begun = folder.is_dir() and any(folder.iterdir())
    state = "finished" if own else "unfinished" if begun else "not begun"
    config = _dict(read_json(folder / "stage.json", notices).get("config")) or config
    written = [
        (name, _dict(output).get("hash"))
        for name, other in done.items()
        for output in _dict(other.get("outputs")).values()
    ]
    reads = {}
    for role, source in _dict(own.get("inputs")).items():
        source = _dict(source)
        parts = Path(str(source.get("path", ""))).parts
        # By hash: a workdir may have been moved, and a folder elsewhere may be called like a stage.
        found = [name for name, hash in written if hash == source.get("hash") and name in parts]
        if found:
            reads[role] = found[-1]
    return StageFiles(folder.name, folder, state, config, own, reads)


def read_json(path: Path, notices: list[str], *, kind: type = dict) -> Any:
    """A JSON object, or a list where `kind` says so; an empty one where there is none, with a
    notice where it is damaged."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notices.append(f"{path}: cannot be read ({error}).")
        return kind()
    if not isinstance(value, kind):
        notices.append(f"{path}: found {type(value).__name__}, expected {kind.__name__}.")
        return kind()
    return value


def read_jsonl(path: Path, notices: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """(line, object) of a JSON Lines file, [] where there is none.

    Lines that are no objects are left out, with one notice; a torn last line, as a run leaves it
    that is still writing, without.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        notices.append(f"{path}: cannot be read ({error}).")
        return []
    rows, bad = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            rows.append((number, value))
        elif number < len(lines):
            bad.append(number)
    if bad:
        notices.append(f"{path}: {len(bad)} lines are no JSON objects, first line {bad[0]}.")
    return rows


def read_records(path: Path, notices: list[str]) -> list[Record]:
    """Records of a file; malformed ones are left out, with one notice that tells the first."""
    records, bad = [], []
    for number, obj in read_jsonl(path, notices):
        try:
            records.append(Record.from_json(obj, f"{path}:{number}"))
        except UserError as error:
            bad.append(str(error))
    if bad:
        notices.append(f"{bad[0]} {len(bad)} such records are left out.")
    return records


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
