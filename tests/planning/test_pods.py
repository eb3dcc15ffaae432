"""docs/pods.md says what compiling says."""

import json

import pytest

from benchmarks.pods import BEGIN, END, FOUND, PAGE, PODS, compiled, table


def test_the_table_is_what_was_found():
    found = json.loads(FOUND.read_text())
    assert set(found) <= set(PODS)
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == table(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("sft_7b", "cut_13b_adapters"))
def test_rows_are_true(name, tpu_compiler):
    """The table is of this code: memory and FLOPs of programs that are compiled now."""
    before = json.loads(FOUND.read_text())[name]["programs"]
    after = compiled(name)["programs"]
    assert [p["program"] for p in after] == [p["program"] for p in before]
    for old, new in zip(before, after):
        for number in ("argument_bytes", "temporary_bytes", "executed_flops"):
            assert new[number] == pytest.approx(old[number], rel=0.02), number
