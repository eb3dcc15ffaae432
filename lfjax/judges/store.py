"""The store of answers: append-only, so that no answer is paid for twice.

A store is a folder of part files `part-<process>-<n>.jsonl`, one JSON object a line, each with its
`key`. A run never writes into a part that another one began. On a disk every line is durable, by
fsync, before `put` returns. A bucket has whole files only: there lines are gathered, and durable
when their part is written.
"""

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfjax.errors import UserError

PART = re.compile(r"part-(\d+)-(\d+)\.jsonl")
# On a bucket a part is written when it holds so many lines, or its first one is so old.
BUCKET_LINES = 64
BUCKET_SECONDS = 10.0

Entry = dict[str, Any]


class Store:
    """Entries by key; of several with the same key the last counts. To be closed, or used as a
    context.

    Attributes:
      folder: a directory or, with `://` in it, the URL of one on a bucket.
      entries: all of them in the order in which they were read and put.
    """

    def __init__(self, folder: str | Path, *, process: int = 0, keep: bool = True):
        """Read all parts. Torn ends, which a killed run may leave, are cut off with a notice.

        Args:
          process: which of several processes this is; each writes parts of its own.
          keep: whether what is put is written; another process may do it.

        Raises: UserError if another run of this process is writing to the store, or nobody can.
        """
        self.folder, self.process, self.keep = str(folder), process, keep
        self.entries: list[Entry] = []
        self._latest: dict[str, Entry] = {}
        files = _Bucket if "://" in self.folder else _Disk
        self._files = files(self.folder, process)
        try:
            for name, content in self._files.read():
                self._take(name, content)
        except BaseException:
            self._files.close()
            raise

    def _take(self, name: str, content: bytes) -> None:
        whole, torn = _whole_lines(content)
        bad = 0
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                self._latest[entry["key"]] = entry
            except (ValueError, TypeError, KeyError):
                bad += 1
            else:
                self.entries.append(entry)
        if torn:
            self._files.cut(name, len(whole))
            _notice(f"{self.folder}/{name}: its last line was not finished and is left out.")
        if bad:
            _notice(f"{self.folder}/{name}: {bad} lines cannot be read and are left out.")

    def get(self, key: str) -> Entry | None:
        return self._latest.get(key)

    def put(self, key: str, entry: Entry) -> None:
        """Add an entry; on a disk it is durable from here on."""
        entry = {"key": key, **entry}
        if self.keep:
            self._files.append(json.dumps(entry) + "\n")
        self.entries.append(entry)
        self._latest[key] = entry

    def close(self) -> None:
        """Make durable what is not yet, and let others write."""
        self._files.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _whole_lines(content: bytes) -> tuple[bytes, bytes]:
    """(the finished lines, what follows them)."""
    whole, end, torn = content.rpartition(b"\n")
    return whole + end, torn


def _notice(message: str) -> None:
    print(f"notice: {message}", file=sys.stderr, flush=True)


def _next_part(names: list[str], process: int) -> int:
    numbers = [int(m[2]) for m in map(PART.fullmatch, names) if m and int(m[1]) == process]
    return max(numbers, default=-1) + 1


class _Disk:
    """Parts in a directory. A lock keeps a second run of the same process out: it would ask, and
    pay for, the same questions."""

    def __init__(self, folder: str, process: int):
        self.folder, self.process = Path(folder), process
        self.stream = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.folder / f".lock-{process}", "w")  # noqa: SIM115 (closed by close)
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.lock.close()
            raise UserError(
                f"{folder}: another run is collecting into this store; wait for it, or end it."
            ) from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be written to ({error.strerror}).") from None

    def _names(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir() if PART.fullmatch(p.name))

    def read(self) -> Iterator[tuple[str, bytes]]:
        for name in self._names():
            yield name, (self.folder / name).read_bytes()

    def cut(self, name: str, size: int) -> None:
        # The end of another process's part may be a line that it is writing just now.
        if int(PART.fullmatch(name)[1]) == self.process:
            os.truncate(self.folder / name, size)

    def append(self, line: str) -> None:
        if self.stream is None:
            number = _next_part(self._names(), self.process)
            self.stream = open(self.folder / f"part-{self.process}-{number}.jsonl", "xb")  # noqa: SIM115
            self._sync_folder()
        self.stream.write(line.encode())
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def _sync_folder(self) -> None:
        """A file survives a loss of power only if its folder's entry does."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.lock.close()


class _Bucket:
    """Parts on a bucket, each written once and whole, under a name that nobody has taken."""

    def __init__(self, folder: str, process: int):
        import fsspec

        self.process, self.lines, self.since = process, [], 0.0
        try:
            self.files, self.folder = fsspec.core.url_to_fs(folder)
        except (ImportError, ValueError) as error:
            raise UserError(f"{folder}: cannot be opened ({error}).") from None

    def _names(self) -> list[str]:
        self.files.invalidate_cache()
        try:
            found = self.files.ls(self.folder, detail=False)
        except FileNotFoundError:
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if PART.fullmatch(name))

    def read(self) -> Iterator[tuple[str, bytes]]:
        for name in self._names():
            yield name, self.files.cat_file(f"{self.folder}/{name}")

    def cut(self, name: str, size: int) -> None:
        """Parts on a bucket are immutable; what is torn is left out when it is read."""

    def append(self, line: str) -> None:
        self.since = self.since if self.lines else time.monotonic()
        self.lines.append(line)
        old = time.monotonic() - self.since > BUCKET_SECONDS
        if old or len(self.lines) >= BUCKET_LINES:
            self._write()

    def _write(self) -> None:
        content = "".join(self.lines).encode()
        number = _next_part(self._names(), self.process)
        while self.lines:
            with contextlib.suppress(FileExistsError):  # another run was faster
                path = f"{self.folder}/part-{self.process}-{number}.jsonl"
                self.files.pipe_file(path, content, mode="create")
                self.lines = []
            number += 1

    def close(self) -> None:
        self._write()
