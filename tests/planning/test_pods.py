"""docs/pods.md says what compiling says."""

import json

import pytest

from benchmarks.pods import BEGIN, END, FOUND, PAGE, PODS, compiled, table
from lfjax.planning.chips import GIB


def test_the_table_is_what_was_found():
    found = json.loads(FOUND.read_text())
    assert set(found) <= set(PODS)
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == table(found)


@pytest.mark.parametrize(
    ("name", "gib"), {"sft_70b": 11.0, "sft_13b": 15.5, "sft_8b": 14.0, "sft_7b": 26.0}.items()
)
def test_sft_stays_small(name, gib):
    """In a peak, in what is computed twice, and in what is replicated."""
    (step,) = json.loads(FOUND.read_text())[name]["programs"]
    assert step["fits"] and step["peak_bytes"] <= gib * GIB
    assert step["executed_flops"] <= 1.35 * step["model_flops"]
    assert step["replicated"] <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ("sft_7b", "cut_13b_adapters"))
def test_rows_are_true(name, tpu_compiler):
    """The table is of this code: memory and FLOPs of programs that are compiled now."""
    before = json.loads(FOUND.read_text())[name]["programs"]
    after = compiled(name)["programs"]
    assert [p["program"] for p in after] == [p["program"] for p in before]
    for old, new in zip(before, after):
        for number in ("peak_bytes", "argument_bytes", "temporary_bytes", "executed_flops"):
            assert new[number] == pytest.approx(old[number], rel=0.02), number
