"""Improvement step by step: when it stops, what is kept, and the door with a real model."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from lfjax.data.records import Message, Record, RecordError
from lfjax.errors import UserError
from lfjax.improve import read_responses, word_diff
from lfjax.judges.asking import Answer, Collected
from lfjax.stages import improving
from lfjax.stages.monitors import similarity
from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import environment


def record(i, response):
    return Record(str(i), "test", (Message("user", f"question {i}"),), response)


def stepper(answers):
    """(records) -> those with an answer, improved: `answers` by id, one a step."""
    left = {name: list(texts) for name, texts in answers.items()}

    def one_step(records):
        texts = [(r, left[r.id].pop(0)) for r in records]
        return [replace(r, refinement=text) for r, text in texts if text is not None]

    return one_step


def until(records, answers, gaps=None, steps=3):
    scores = {(a, b): g for (a, b), g in (gaps or {}).items()}
    gap = None if gaps is None else lambda made: [scores[r.response, r.refinement] for r in made]
    how = dict(steps=steps, gap=gap, similar=similarity)
    return {h.record.id: h for h in improving.improve_until(records, stepper(answers), **how)}


def test_when_improvement_stops():
    """After the last step, at a copy, where the gap is not positive, and without an answer."""
    records = [record(i, "one two three") for i in range(4)]
    answers = {
        "0": ["four five", "six seven", "eight nine"],
        "1": ["four five", "four five"],
        "2": ["four five", "six seven"],
        "3": [None],
    }
    gaps = {("one two three", "four five"): 1.0}
    gaps |= {("four five", "six seven"): 0.5, ("six seven", "eight nine"): 0.25}
    found = until([r for r in records if r.id != "2"], answers, gaps)
    assert found["0"].versions == ["one two three", "four five", "six seven", "eight nine"]
    assert (found["0"].stopped, found["0"].gaps) == ("steps", [1.0, 0.5, 0.25])
    assert (found["1"].stopped, found["1"].versions[1:]) == ("next to no change", ["four five"])
    assert (found["3"].stopped, found["3"].versions[1:]) == ("no answer", [])
    gaps["four five", "six seven"] = -0.1
    found = until(records[2:3], {"2": answers["2"]}, gaps)
    assert (found["2"].stopped, found["2"].versions[1:]) == ("not better", ["four five"])
    assert found["2"].gaps == [1.0, -0.1]


def test_what_a_gap_reward_cannot_read_is_kept_as_it_was():
    gaps = {("one", "two"): 1.0, ("two", "three"): float("nan")}
    found = until([record(0, "one")], {"0": ["two", "three"]}, gaps)["0"]
    assert (found.stopped, found.versions) == ("too long to compare", ["one", "two"])
    assert found.gaps == [1.0]


def test_ids_that_are_there_twice(tmp_path):
    rows = [{"id": "a", "prompt": "x", "response": text} for text in ("y", "z")]
    with pytest.raises(UserError, match="1 ids are there more than once, such as 'a'"):
        read_responses(write_jsonl(tmp_path / "twice.jsonl", rows))


def test_what_is_written():
    found = until(
        [record(0, "one"), record(1, "one")], {"0": ["two", "three"], "1": ["one"]}, steps=2
    )
    changed, same = (found[i].as_record() for i in "01")
    assert (changed.response, changed.refinement) == ("one", "three")
    assert changed.meta["improved"]["versions"] == ["one", "two", "three"]
    assert same.refinement is None and same.meta["improved"]["stopped"] == "next to no change"


def test_self_refine_asks_for_feedback_and_then_for_a_rewrite():
    asked = []

    def ask(questions):
        asked.append(questions)
        texts = [
            Answer(None, "empty") if "1" in q.messages[0].content else Answer("so")
            for q in questions
        ]
        return Collected(texts, 0, texts, 0, 0.0)

    found = improving.by_self_refine([record(0, "one"), record(1, "two")], ask, "m")
    (made,) = found.records
    assert made.refinement == "so" and made.meta["self_feedback"] == "so"
    assert [m.role for m in asked[0][0].messages] == ["user", "assistant", "user"]
    (rewrite,) = asked[1]
    assert rewrite.messages[:3] == asked[0][0].messages
    assert rewrite.messages[3] == Message("assistant", "so") and rewrite.messages[4].role == "user"


def test_every_step_is_a_draw_of_its_own():
    """Also where a step changed nothing, and in a later stage that goes on."""
    drawn = []

    def ask(questions):
        drawn.append([q.sample for q in questions])
        texts = [Answer("one") for _ in questions]
        return Collected(texts, 0, texts, 0, 0.0)

    records = [record(0, "one"), record(1, "one")]
    for _ in range(2):
        records = improving.next_step(improving.by_improver(records, ask, "m").records)
    again = improving.begin([replace(r, refinement=r.response) for r in records], "refinement")
    improving.by_improver(again, ask, "m")
    improving.by_improver(improving.begin(records, "response"), ask, "m")
    assert drawn == [[0, 0], [1, 1], [2, 2], [0, 0]]


def test_a_chain_reads_what_the_step_before_made():
    first = [replace(record(0, "one"), refinement="two")]
    assert improving.begin(first, "refinement")[0].response == "two"
    assert improving.begin(first, "response")[0].response == "one"
    with pytest.raises(UserError, match="of='candidates'"):
        improving.begin(first, "candidates")
    with pytest.raises(RecordError, match="no refinement"):
        improving.begin([record(0, "one")], "refinement")


def test_word_diff():
    assert word_diff("a b c", "a x c d", color=False) == "a [-b-]{+x+} c{+ d+}"
    assert word_diff("a", "a", color=True) == "a"
    assert "\x1b[31mb" in word_diff("a b", "a c", color=True)


def improve(*flags):
    return subprocess.run(
        [sys.executable, "-m", "lfjax.improve", *flags],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_door(stories, tmp_path):
    """Changes are shown and written; the same command asks nobody again."""
    rows = [
        {"prompt": f"Tell me of the {a}.", "response": f"The {a} is red."} for a in ("fox", "owl")
    ]
    path = write_jsonl(tmp_path / "responses.jsonl", rows)
    flags = (f"--model={stories}", f"--input={path}", "--template=bare", "--max_new_tokens=12")
    sizes = ("--steps=2", "--max_tokens=256", "--slots=2")
    run = improve(*flags, *sizes)
    assert run.returncode == 0, run.stderr
    assert "--- 0, step 1" in run.stdout and "{+" in run.stdout
    assert "2 of 2 responses changed; ended by: 2 steps" in run.stdout
    made = [json.loads(x) for x in (tmp_path / "responses.improved.jsonl").read_text().splitlines()]
    assert [r["response"] for r in made] == [r["response"] for r in rows]
    assert all(r["meta"]["improved"]["versions"][-1] == r["refinement"] for r in made)
    again = improve(*flags, *sizes)
    assert again.stdout == run.stdout and "0answer" not in again.stderr


def test_what_does_not_fit_is_told(stories, tmp_path):
    """Without it "no answer" is all that is said, and a run in which nothing fits ends well; it
    must not replace what an earlier one has written either."""
    rows = [
        {"prompt": "Tell me of the fox.", "response": response}
        for response in ("It is red.", "It is red. " * 200)
    ]
    flags = (f"--model={stories}", "--template=bare", "--max_new_tokens=12", "--steps=1")
    flags += ("--max_tokens=256", "--slots=2")
    some = write_jsonl(tmp_path / "some.jsonl", rows)
    run = improve(*flags, f"--input={some}")
    assert run.returncode == 0, run.stderr
    assert "1 no answer" in run.stdout
    why = r"1 the prompt of \d+ tokens leaves no room for max_new_tokens in max_tokens=256"
    assert re.search(f"without an answer: {why}\n", run.stdout)
    none, output = write_jsonl(tmp_path / "none.jsonl", rows[1:]), tmp_path / "some.improved.jsonl"
    before = output.read_text()
    run = improve(*flags, f"--input={none}", f"--output={output}")
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert "not one of 1 responses was improved" in run.stderr
    assert re.search(why, run.stderr) and output.read_text() == before


@pytest.mark.parametrize(
    "flags, told",
    [
        ((), "--model DIRECTORY_OR_HUB_ID and --input FILE are needed"),
        (("--model=MODEL", "--input=/nowhere.jsonl"), "/nowhere.jsonl"),
        (
            ("--model=MODEL", "--input=FILE", "--template=bare", "--reward=MODEL"),
            "no score.safetensors",
        ),
        (("--model=MODEL", "--input=FILE"), "the model has no chat template"),
    ],
)
def test_mistakes(stories, tmp_path, flags, told):
    path = write_jsonl(tmp_path / "r.jsonl", [{"prompt": "Hello", "response": "Hi"}])
    run = improve(*(f.replace("MODEL", stories).replace("FILE", path) for f in flags))
    assert run.returncode == 2 and told in run.stderr and "Traceback" not in run.stderr


def test_inputs(tmp_path):
    rows = [record(0, "one").to_json(), record(1, "two").to_json()]
    assert [r.id for r in read_responses(write_jsonl(tmp_path / "a.jsonl", rows))] == ["0", "1"]
    chat = {"messages": [{"role": "user", "content": "Hello"}], "response": "Hi", "id": 7}
    (found,) = read_responses(write_jsonl(tmp_path / "b.jsonl", [chat]))
    assert found.id == "7" and found.prompt[0].content == "Hello"
    for row, told in (
        (record(0, None).to_json(), "has no response"),
        ({"text": "x"}, "'prompt' and"),
    ):
        with pytest.raises(UserError, match=told):
            read_responses(write_jsonl(tmp_path / "c.jsonl", [row]))
