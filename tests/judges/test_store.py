"""The store: durable line by line, torn ends repaired, no part written by two."""

import json
import os
import uuid

import pytest

from lfjax.errors import UserError
from lfjax.judges import store as store_module
from lfjax.judges.store import Store


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """Where a store lies: a directory, or an in-memory bucket."""
    return str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4()}/store"


def lines(folder):
    return [p.read_text().splitlines() for p in sorted(folder.glob("part-*"))]


def test_what_is_put_is_found_by_the_next_run(folder):
    with Store(folder) as store:
        assert store.get("a") is None
        store.put("a", {"text": "eins\n\u2028☺ \ud83d"})
        store.put("b", {"text": None})
        store.put("b", {"text": "zwei"})
    with Store(folder) as store:
        assert store.get("a") == {"key": "a", "text": "eins\n\u2028☺ \ud83d"}
        assert store.get("b")["text"] == "zwei"
        assert [e["key"] for e in store.entries] == ["a", "b", "b"]
        store.put("c", {"text": "drei"})
    with Store(folder) as store:
        assert [e["text"] for e in store.entries][-2:] == ["zwei", "drei"]


def test_a_line_is_on_the_disk_before_put_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        store_module.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size)
    )
    with Store(tmp_path) as store:
        for n in range(3):
            store.put(str(n), {"text": "x"})
            assert synced[-1] == sum(p.stat().st_size for p in tmp_path.glob("part-*")) > 0
            assert len(lines(tmp_path)[0]) == n + 1


def test_every_run_and_process_has_parts_of_its_own(tmp_path):
    for _ in range(2):
        with Store(tmp_path, process=0) as one, Store(tmp_path, process=1) as other:
            one.put("a", {"text": "x"})
            other.put("b", {"text": "y"})
    with Store(tmp_path):
        pass  # puts nothing: makes no part
    names = sorted(p.name for p in tmp_path.glob("part-*"))
    assert names == ["part-0-0.jsonl", "part-0-1.jsonl", "part-1-0.jsonl", "part-1-1.jsonl"]


def test_a_second_run_is_kept_out(tmp_path):
    with Store(tmp_path), pytest.raises(UserError, match="another run is collecting"):
        Store(tmp_path)
    Store(tmp_path).close()


def test_a_torn_end_is_cut_with_a_notice(tmp_path, capsys):
    with Store(tmp_path) as store:
        store.put("a", {"text": "x"})
        store.put("b", {"text": "y"})
    part = tmp_path / "part-0-0.jsonl"
    whole = part.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first + 1, len(whole)):
        part.write_bytes(whole[:size])
        with Store(tmp_path) as store:
            assert store.get("a") and not store.get("b")
        assert "last line was not finished" in capsys.readouterr().err
        assert part.read_bytes() == whole[:first]
    with Store(tmp_path):
        assert not capsys.readouterr().err


def test_the_end_of_another_process_part_is_left_alone(tmp_path):
    part = tmp_path / "part-1-0.jsonl"
    part.write_text('{"key": "a", "text": "x"}\n{"key": "b", "te')
    before = part.read_bytes()
    with Store(tmp_path, process=0) as store:
        assert store.get("a") and not store.get("b")
    assert part.read_bytes() == before


def test_spoiled_lines_are_left_out_with_a_notice(tmp_path, capsys):
    good = json.dumps({"key": "a", "text": "x"})
    (tmp_path / "part-0-0.jsonl").write_bytes(f'{good}\n[1]\n"a"\n{{}}\n'.encode() + b"\xff\xfe\n")
    with Store(tmp_path) as store:
        assert len(store.entries) == 1
    assert "4 lines cannot be read" in capsys.readouterr().err


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written to"):
        Store(tmp_path / "file")


def test_parts_on_a_bucket_are_whole_and_of_some_size(monkeypatch):
    import fsspec

    url = f"memory://{uuid.uuid4()}/store"
    files, path = fsspec.core.url_to_fs(url)
    monkeypatch.setattr(store_module, "BUCKET_LINES", 4)
    with Store(url) as store:
        for n in range(10):
            store.put(str(n), {"text": "x"})
        assert [files.cat(p).count(b"\n") for p in sorted(files.ls(path, detail=False))] == [4, 4]
    assert [files.cat(p).count(b"\n") for p in sorted(files.ls(path, detail=False))] == [4, 4, 2]


def test_two_runs_on_a_bucket_write_different_parts():
    """Nobody can lock a bucket: a name that another run has taken meanwhile is not taken again."""
    url = f"memory://{uuid.uuid4()}/store"
    one, other = Store(url), Store(url)
    one._files._names = other._files._names = lambda: []  # both listed before the other wrote
    one.put("a", {"text": "x"})
    other.put("b", {"text": "y"})
    one.close()
    other.close()
    with Store(url) as store:
        assert sorted(e["key"] for e in store.entries) == ["a", "b"]


def test_a_bucket_of_an_unknown_kind():
    with pytest.raises(UserError, match="nosuch://bucket/store: cannot be opened"):
        Store("nosuch://bucket/store")
