"""TFDS: what is written comes back, in order, without TensorFlow."""

import json
import subprocess
import sys

import pytest

from lfjax.data.records import Record, RecordError
from lfjax.data.sources import load
from lfjax.data.tfds_adapter import FIELD, TfdsRecords, read_tfds, write_tfds
from lfjax.errors import UserError
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


def test_processes_wait_for_process_0(tmp_path, monkeypatch):
    """Without it two processes write one dataset, or one reads what is not there yet."""
    import jax
    from jax.experimental import multihost_utils

    waited = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", waited.append)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match="process 0 could not write"):
        write_tfds({"train": records(3)}, str(tmp_path))
    assert len(waited) == 1 and not list(tmp_path.rglob("*.json"))
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    path = write_tfds({"train": records(3)}, str(tmp_path))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert write_tfds({"train": records(3)}, str(tmp_path)) == path and len(waited) == 3
