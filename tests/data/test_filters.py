"""Filters: what is kept, what is exchanged, and what is said of the rest."""

from dataclasses import replace

import pytest

from lfjax.data.filters import compared, satisfactory, shuffled
from lfjax.data.records import Feedback, Message, Record, RecordError, to_jsonl
from lfjax.data.sources import load
from tests.conftest import write_jsonl


def record(i, text="", score=None, **changed):
    polarity = "negative" if text else "positive"
    given = dict(response=f"answer {i}", feedback=(Feedback(text, polarity, score=score),))
    return Record(str(i), "test", (Message("user", f"question {i}"),), **(given | changed))


RECORDS = [record(i, f"fault {i}" if i % 3 else "") for i in range(12)]


def test_shuffled_feedback_is_never_ones_own():
    for seed in range(20):
        found, left = shuffled(RECORDS, seed)
        assert not left
        flawed = [i for i in range(12) if i % 3]
        texts = [found[i].feedback[0].text for i in flawed]
        assert sorted(texts) == sorted(f"fault {i}" for i in flawed)
        assert all(text != f"fault {i}" for i, text in zip(flawed, texts))
        assert [replace(f, feedback=()) for f in found] == [
            replace(r, feedback=()) for r in RECORDS
        ]
        assert found == shuffled(RECORDS, seed)[0]
    assert shuffled(RECORDS, 0)[0] != shuffled(RECORDS, 1)[0]


def test_nothing_to_exchange():
    with pytest.raises(RecordError, match="1 flawed"):
        shuffled(RECORDS[:2], 0)


def test_satisfactory_ones():
    found, left = satisfactory(RECORDS, 0)
    assert [r.id for r in found] == ["0", "3", "6", "9"] and left == {"not satisfactory": 8}


def test_samples_of_a_prompt_become_candidates():
    def sample(prompt, n, score):
        meta = {"prompt_id": prompt, "sample": n}
        return record(f"{prompt}/{n}", "so", score, meta=meta, model="m")

    scores = {"a": (3.0, 8.0, 5.0), "b": (4.0, 4.0), "c": (1.0, 2.0)}
    records = [sample(p, n, s) for p, each in scores.items() for n, s in enumerate(each)]
    found, left = compared(records, 0)
    assert left == {"all responses of a prompt score the same": 1}
    assert [r.id for r in found] == ["a", "c"]
    assert found[0].response == "answer a/1"
    assert [(c.text, c.score, c.model) for c in found[0].candidates] == [
        ("answer a/0", 3, "m"),
        ("answer a/1", 8, "m"),
        ("answer a/2", 5, "m"),
    ]
    with pytest.raises(RecordError, match="no scored response"):
        compared([record("x", "fault")], 0)


def test_written_records_come_back(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(to_jsonl(RECORDS), encoding="utf-8")
    assert load(str(path), "records").records == RECORDS


def test_prompts(tmp_path):
    """Texts, objects and conversations; what they bring along is kept."""
    rows = [
        "Say hello.",
        {"prompt": "Say more.", "id": "b", "meta": {"words": ["more"]}},
        {"messages": [{"role": "user", "content": "And?"}], "system": "Be short."},
    ]
    found = load(write_jsonl(tmp_path / "p.jsonl", rows), "prompts").records
    assert [r.prompt[-1].content for r in found] == ["Say hello.", "Say more.", "And?"]
    assert [r.id for r in found] == ["p.jsonl:1", "b", "p.jsonl:3"]
    assert found[1].meta == {"words": ["more"]} and found[2].prompt[0].role == "system"
    for row, said in (({"q": 1}, "'prompt'"), ({"prompt": " "}, "empty"), (3, "object")):
        with pytest.raises(RecordError, match=said):
            load(write_jsonl(tmp_path / "bad.jsonl", [row]), "prompts")
