"""TFDS: what is written comes back, in order, without TensorFlow."""

import json
import signal
import subprocess
import sys
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lfjax.data import tfds_adapter
from lfjax.data.records import Record, RecordError
from lfjax.data.sources import load
from lfjax.data.tfds_adapter import FIELD, TfdsRecords, is_tfds, read_tfds, write_tfds
from lfjax.errors import UserError
from lfjax.stages.artifacts import find_input, hash_path
from tests.conftest import shared
from tests.data.test_records import FULL, SMALL


def records(count, start=0):
    full = [{**(FULL if i % 2 else SMALL), "id": f"Grün/{i}"} for i in range(start, start + count)]
    return [Record.from_json(obj) for obj in full]


def test_round_trip_and_order(tmp_path):
    """Without it records come back in the order of a hash, or without their empty fields."""
    train, test = records(1203), records(7, start=2000)
    path = write_tfds({"train": train, "test": test}, str(tmp_path), name="mine")
    found = read_tfds(path)
    assert len(found) == 1203 and list(found) == train
    assert list(read_tfds(path, "test")) == test
    assert found[-1] == train[-1] and found[700:703] == train[700:703]  # by random access
    assert found[1202:2000] == train[1202:]
    for index in (1203, -1204):
        with pytest.raises(IndexError):
            found[index]


def test_a_dataset_is_a_path_of_records(tmp_path):
    """Without it a recipe cannot learn from a TFDS dataset."""
    path = write_tfds({"train": records(20)}, str(tmp_path))
    assert load(path, "records").records == records(20)
    with pytest.raises(UserError, match=r"holds no dataset_info\.json; expected a file of records"):
        load(str(tmp_path), "records")


def test_published_records_come_back(tmp_path):
    """Without it a text that JSON files hold is changed on its way."""
    given = load(str(shared("data/defacto/val.jsonl")), "defacto").records
    assert list(read_tfds(write_tfds({"train": given}, str(tmp_path)))) == given


def test_other_records_are_not_taken_for_these(tmp_path):
    """Without it a run learns from the data of an earlier one that had the same name."""
    path = write_tfds({"train": records(20)}, str(tmp_path))
    assert write_tfds({"train": records(20)}, str(tmp_path)) == path  # a restart
    with pytest.raises(UserError, match="holds other records; choose another name"):
        write_tfds({"train": records(21)}, str(tmp_path))
    assert len(read_tfds(path)) == 20


def test_tensorflow_is_not_imported(tmp_path):
    """Without it every start takes seconds longer and TensorFlow takes the accelerator's memory;
    and lfjax.data pulls TFDS in for those who do not use it."""
    program = f"""
import sys
import lfjax.data.load, lfjax.data.tfds_adapter as adapter
assert "tensorflow_datasets" not in sys.modules
from lfjax.data.records import Record
record = Record.from_json({SMALL!r})
path = adapter.write_tfds({{"train": [record]}}, {str(tmp_path)!r})
assert list(adapter.read_tfds(path)) == [record]
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "splits, name, said",
    [
        ({}, "mine", "expected at least one, none empty"),
        ({"train": []}, "mine", "expected at least one, none empty"),
        ({"train": records(1)}, "My set", "name 'My set', expected small letters"),
    ],
)
def test_what_cannot_be_written(splits, name, said, tmp_path):
    """Without it TFDS fails with a traceback, or writes a dataset of nothing."""
    with pytest.raises(UserError, match=said):
        write_tfds(splits, str(tmp_path), name=name)


def test_what_cannot_be_read(tmp_path):
    """Without it a wrong directory ends in a traceback of a library."""
    with pytest.raises(UserError, match="is no TFDS dataset that can be read"):
        read_tfds(str(tmp_path))
    with pytest.raises(UserError, match="nowhere://x/a: cannot be looked at"):
        load("nowhere://x/a", "records")
    path = write_tfds({"train": records(2)}, str(tmp_path))
    with pytest.raises(UserError, match="has no split 'tests'; it has train"):
        read_tfds(path, "tests")
    broken = TfdsRecords([{FIELD: json.dumps({**SMALL, "id": ""}).encode()}], "somewhere")
    with pytest.raises(RecordError, match=r"somewhere\[0\]: field 'id' is empty"):
        broken[0]


@pytest.fixture
def process_1(monkeypatch):
    """A program that believes to be the second process, and does not wait for long."""
    import jax

    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(tfds_adapter, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(tfds_adapter, "WAIT_SECONDS", 0.2)


def test_processes_wait_for_process_0(tmp_path, process_1, monkeypatch):
    """Without it two processes write one dataset, or one reads what is not there yet."""
    splits = {"train": records(3)}
    with pytest.raises(UserError, match=r"process 0 has not written it in 0 seconds"):
        write_tfds(splits, str(tmp_path))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tfds_adapter, "WAIT_SECONDS", 60.0)
    program = f"""
from lfjax.data.tfds_adapter import write_tfds
from lfjax.data.records import Record
rows = {[r.to_json() for r in splits["train"]]!r}
write_tfds({{"train": [Record.from_json(row) for row in rows]}}, {str(tmp_path)!r})
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process_0:
        path = write_tfds(splits, str(tmp_path))  # does not return before it is there
        assert list(read_tfds(path)) == splits["train"]
    assert process_0.returncode == 0
    with pytest.raises(UserError, match="holds other records"):
        write_tfds({"train": records(4)}, str(tmp_path))


def test_killed_while_writing(tmp_path):
    """Without it a dataset that lacks records is taken for a finished one."""
    program = f"""
import os, signal
from lfjax.data.tfds_adapter import write_tfds
from lfjax.data.records import Record
record = Record.from_json({SMALL!r})
class Killing(list):
    rounds = 0
    def __iter__(self):
        self.rounds += 1
        for i in range(2000):
            if self.rounds == 2 and i == 1500:  # the first round is for the hash
                os.kill(os.getpid(), signal.SIGKILL)
            yield record
write_tfds({{"train": Killing([record])}}, {str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    begun = [p for p in tmp_path.rglob("*") if p.is_dir()]
    assert begun and not any(is_tfds(str(p)) for p in begun)
    assert len(read_tfds(write_tfds({"train": records(5)}, str(tmp_path)))) == 5


# --- a bucket ---------------------------------------------------------------------------------


class Bucket(MemoryFileSystem):
    """`gs://…`, in memory."""

    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol("/" + str(path).removeprefix("gs://").lstrip("/"))


@pytest.fixture
def bucket(monkeypatch):
    from etils.epath import backend

    files, others = Bucket(), backend.fsspec_backend._get_filesystem
    monkeypatch.setattr(
        backend.fsspec_backend,
        "_get_filesystem",
        lambda name: files if name == "gcs" else others(name),
    )
    yield "gs://bucket/tfds"
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]


def test_a_bucket(bucket, monkeypatch):
    """Without it a pod cannot learn from the bucket that its data lies in."""
    from etils.epath import backend

    assert not is_tfds(f"{bucket}/records/1.0.0")
    path = write_tfds({"train": records(20), "test": records(3)}, bucket)
    assert path == f"{bucket}/records/1.0.0" and is_tfds(path)
    assert list(read_tfds(path)) == records(20) and len(read_tfds(path, "test")) == 3
    assert load(path, "records").records == records(20)
    assert find_input("cut", "data", path) == path
    before = hash_path(path)
    assert write_tfds({"train": records(20), "test": records(3)}, bucket) == path
    with pytest.raises(UserError, match="holds other records"):
        write_tfds({"train": records(21)}, bucket)
    assert hash_path(path) == before
    assert hash_path(write_tfds({"train": records(21)}, bucket, name="other")) != before
    with pytest.raises(UserError, match="no such file or directory"):
        find_input("cut", "data", f"{bucket}/nothing")
    monkeypatch.setattr(backend.fsspec_backend, "copy", lambda *args, **how: 1 / 0)
    with pytest.raises(UserError, match=r"cannot be fetched \(division by zero\)"):
        load(path, "records")


def test_interrupted_on_the_way_to_a_bucket(bucket, monkeypatch):
    """Without it hosts that wait for a dataset read one whose files are still on their way."""
    from etils.epath import backend

    sent, copy = [], backend.fsspec_backend.copy

    def cut_off(source, target, overwrite):
        if len(sent) == 2:
            raise OSError("connection lost")
        sent.append(target)
        copy(source, target, overwrite=overwrite)

    splits = {"train": records(20), "test": records(3)}
    monkeypatch.setattr(backend.fsspec_backend, "copy", cut_off)
    with pytest.raises(UserError, match=r"cannot be written \(connection lost\)"):
        write_tfds(splits, bucket)
    assert len(sent) == 2 and not is_tfds(f"{bucket}/records/1.0.0")
    monkeypatch.setattr(backend.fsspec_backend, "copy", copy)
    assert list(read_tfds(write_tfds(splits, bucket))) == splits["train"]
