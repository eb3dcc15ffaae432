"""AlpacaEval's files."""

import json

import numpy as np
import pytest

from lfjax.data.records import Message, Record, RecordError
from lfjax.errors import UserError
from lfjax.evaluation.alpaca_eval import (
    check_same_instructions,
    has_place,
    outputs,
    read_annotations,
    win_rate,
)

ROW = {
    "instruction": "Name a colour.",
    "output_1": "Blue",
    "generator_1": "old",
    "output_2": "Green!",
    "generator_2": "new",
    "dataset": "koala",
    "annotator": "judge",
    "preference": 2.0,
    "price_per_example": 0.1,
}


def written(tmp_path, *changes):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([{**ROW, **c} for c in changes]))
    return str(path)


def test_outputs_are_what_the_format_asks_for():
    ask = (Message("user", "Name a colour."),)
    records = [
        Record("1", "records", ask, "Blue", meta={"dataset": "koala"}),
        Record("2", "prompts", ask, "Red"),
    ]
    one, other = outputs(records, "mine")
    assert one == {
        "instruction": "Name a colour.",
        "output": "Blue",
        "generator": "mine",
        "dataset": "koala",
    }
    assert other == {**one, "output": "Red", "dataset": "prompts"}
    assert outputs([Record("3", "s", ask, "")], "mine")[0]["output"] == ""
    with pytest.raises(RecordError, match=r"'3'.*no response"):
        outputs([Record("3", "s", ask)], "mine")
    briefly = Record("4", "s", (Message("system", "Be brief."), *ask), "Red")
    assert has_place(records[0]) and not has_place(briefly)
    with pytest.raises(RecordError, match="2 messages"):
        outputs([briefly], "mine")


def test_annotations(tmp_path):
    """1 is the baseline's win; 1.5 and 0 are ties; null is missing."""
    path = written(tmp_path, *({"preference": p} for p in (2, 1, 0, None, 1.25)))
    found = read_annotations(path)
    assert (found.generator, found.baseline) == ("new", "old")
    np.testing.assert_array_equal(found.preference, [1, 0, 0.5, np.nan, 0.25])
    assert found.length.tolist() == [6] * 5 and found.baseline_length.tolist() == [4] * 5
    rate, error = win_rate(found.preference)
    assert rate == pytest.approx(100 * 1.75 / 4)
    assert error == pytest.approx(100 * np.std([1, 0, 0.5, 0.25], ddof=1) / 2)


@pytest.mark.parametrize(
    "changes, said",
    [
        ([{}, {"preference": 3}], "row 1: preference is 3"),
        ([{}, {"generator_2": "third"}], "row 1: generator_2 is 'third'"),
        ([{"output_1": None}], "row 0: field 'output_1'"),
        ([{"preference": "2"}], "row 0: field 'preference' is str"),
        ([], "at least one"),
    ],
)
def test_bad_annotations(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        read_annotations(written(tmp_path, *changes))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_annotations(tmp_path / "nowhere.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_annotations(tmp_path / "bad.json")


def test_sides_must_answer_the_same_instructions():
    """A mismatch is an error, where aligning by position would give a number."""
    check_same_instructions(["a", "b"], ["a", "b"])
    with pytest.raises(UserError, match="instruction 1 is 'b' on one side and 'c'"):
        check_same_instructions(["a", "b"], ["a", "c"])
    with pytest.raises(UserError, match="has 1 instructions, the other 2"):
        check_same_instructions(["a"], ["a", "b"])


def test_win_rates_of_little():
    assert np.isnan(win_rate(np.array([np.nan]))).all()
    rate, error = win_rate(np.array([1.0, np.nan]))
    assert rate == 100 and np.isnan(error)
