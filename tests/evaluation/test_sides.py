"""Systems side by side."""

import pytest

from lfjax.data.records import Message, Record
from lfjax.errors import UserError
from lfjax.evaluation.sides import align


def record(id, response="r", prompt=None):
    return Record(id, "s", (Message("user", prompt or f"Prompt {id}"),), response)


def test_answers_are_found_by_id():
    a = [record("1", "a1"), record("2", "a2")]
    b = [record("2", "b2"), record("1", "b1")]
    found = align({"a": a, "b": b}, "stop")
    assert [p.id for p in found.prompts] == ["1", "2"]
    assert [r.response for r in found.answers["b"]] == ["b1", "b2"]


def test_one_id_and_two_prompts():
    a, b = [record("1"), record("2")], [record("1"), record("2", prompt="Another")]
    for how in ("stop", "count"):
        with pytest.raises(UserError, match=r"different prompts: '2' is 'Prompt 2'.*'Another' for"):
            align({"a": a, "b": b}, how)


def test_an_answer_is_missing():
    systems = {"a": [record("1"), record("2"), record("3", None)], "b": [record("1"), record("4")]}
    with pytest.raises(UserError, match=r"'a' has no answer to '3'.* 2 of 4"):
        align(systems, "stop")
    found = align(systems, "count")
    assert [p.id for p in found.prompts] == ["1", "2", "3", "4"]
    assert [r and r.id for r in found.answers["a"]] == ["1", "2", None, None]
    assert [r and r.id for r in found.answers["b"]] == ["1", None, None, "4"]
    empty = align(systems, "empty")
    assert [r.response for r in empty.answers["b"]] == ["r", "", "", "r"]


def test_unknown_choice():
    with pytest.raises(UserError, match="Did you mean 'count'"):
        align({"a": []}, "counts")
