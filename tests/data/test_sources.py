"""Sources: the authors' files counted, columns mapped, and every bad file told apart."""

import gzip
import json

import pytest

from lfjax.data.records import Record, RecordError
from lfjax.data.sources import downsample_satisfactory, load, read_json
from lfjax.errors import UserError
from tests.conftest import shared, write_jsonl

# specs of the published files: flawed, satisfactory and satisfactory kept at 0.25, with failed
# judgments taken for negative ones, as the released trainer does; then flawed and kept without them
PUBLISHED = {
    1: (287, 713, 71, 240, 60),
    2: (231, 769, 57, 228, 57),
    3: (242, 758, 60, 242, 60),
    4: (245, 755, 61, 244, 61),
    5: (246, 754, 61, 246, 61),
}
CUT = {"id": 4, "instruction": "Add.", "input": "", "output": "3", "judgment": "Wrong."}


def split(records):
    """How many are flawed and satisfactory."""
    good = sum(r.satisfactory for r in records)
    return len(records) - good, good


def test_prompts(tmp_path):
    """Without it a file of prompts is refused, or a turn or a note of it is lost."""
    turns = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    rows = [
        "Hi",
        {"id": 3, "q": "Ho", "system": "Be brief.", "meta": {"w": 1}, "dataset": "koala"},
        {"messages": turns},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found = load(path, "prompts", options={"prompt": "q"}).records
    assert [r.id for r in found] == ["a.jsonl:1", "3", "a.jsonl:3"]
    contents = [[m.content for m in r.prompt] for r in found]
    assert contents == [["Hi"], ["Be brief.", "Ho"], ["user", "assistant", "user"]]
    assert found[1].meta == {"w": 1, "dataset": "koala"} and all(r.response is None for r in found)
    with pytest.raises(RecordError, match=r"a\.jsonl:2: has none of the fields 'prompt'"):
        load(path, "prompts")
    for row, said in ((3, "found int, expected an object"), (" ", "field 'prompt' is empty")):
        with pytest.raises(RecordError, match=said):
            load(write_jsonl(tmp_path / "b.jsonl", [row]), "prompts")


def cut_file(tmp_path, *rows):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps([{**CUT, "id": i, **row} for i, row in enumerate(rows)]))
    return str(path)


@pytest.mark.parametrize("iteration", PUBLISHED)
@pytest.mark.parametrize("error_judgments", ["keep", "drop"])
def test_counts_of_the_published_files(iteration, error_judgments):
    """Without it failed judgments, or other records than the paper's, are learned from unseen."""
    path = str(shared(f"data/cut/iter{iteration}.json"))
    with_errors, good, kept, flawed, kept_without = PUBLISHED[iteration]
    expected = (with_errors, kept) if error_judgments == "keep" else (flawed, kept_without)
    options = {"error_judgments": error_judgments}
    loaded = load(path, "cut", options=options)
    assert split(loaded.records) == (expected[0], good)
    assert loaded.dropped["judgment is $ERROR$"] == with_errors - expected[0]
    assert not loaded.skipped
    assert split(downsample_satisfactory(loaded.records, 0.25, 42)) == expected


def test_published_records_round_trip(iter1):
    """Without it what a stage writes cannot be read by the next one."""
    for record in load(iter1, "cut").records:
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "row, satisfactory",
    [
        ({"judgment": None}, True),
        ({"judgment": "Wrong."}, False),
        ({"judgment": "Wrong.", "score": 6.9}, False),
        ({"judgment": "Wrong.", "score": 7}, True),
        ({"judgment": "Wrong.", "score": 9.5}, True),
        ({"judgment": "Wrong.", "score": None}, False),
        ({"judgment": "The response is perfect."}, False),  # as the released trainer reads it
    ],
)
def test_cut_polarity(tmp_path, row, satisfactory):
    """Without it good responses are unlearned, or flawed ones imitated."""
    (record,) = load(cut_file(tmp_path, row), "cut").records
    assert record.satisfactory is satisfactory
    assert record.feedback[0].text == (row["judgment"] or "")
    assert Record.from_json(record.to_json()) == record


def test_cut_input_follows_the_instruction(tmp_path):
    """Without it the model is asked to work on a text that it does not see."""
    path = cut_file(tmp_path, {"input": "1 + 2"}, {"input": ""}, {"input": None})
    contents = [r.prompt[0].content for r in load(path, "cut").records]
    assert contents == ["Add.\n1 + 2", "Add.", "Add."]


@pytest.mark.parametrize(
    "row, said",
    [
        ({"output": ""}, "the response is empty"),
        ({"output": " \n"}, "the response is empty"),
        ({"instruction": ""}, "the prompt is empty"),
        ({"output": None}, "field 'output' is missing; the record has id, instruction"),
        ({"instruction": 3}, "field 'instruction' is int, expected text"),
        ({"judgment": ["Wrong."]}, "field 'judgment' is list, expected text"),
        ({"score": "8"}, "field 'score' is str"),
        ({"score": True}, "field 'score' is bool"),
        ({"id": 0}, "id '0' was already used at"),
    ],
)
def test_malformed_cut_record(tmp_path, row, said):
    """Without it one bad record ends in a traceback, or is learned from; skipped ones are told."""
    path = cut_file(tmp_path, {}, row)
    with pytest.raises(RecordError) as error:
        load(path, "cut")
    assert f"{path}[1]: " in str(error.value) and said in str(error.value)
    assert "on_error=skip" in str(error.value)
    loaded = load(path, "cut", on_error="skip")
    assert len(loaded.records) == 1
    assert len(loaded.skipped) == 1 and said in loaded.skipped[0]


def test_a_missing_judgment_is_not_a_good_one(tmp_path):
    """Without it any instruction file counts as 1,000 satisfactory responses."""
    row = {k: v for k, v in CUT.items() if k != "judgment"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(RecordError, match="field 'judgment' is missing"):
        load(str(path), "cut")
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "response": "r"}])
    assert load(path, "jsonl").records[0].feedback == ()


MAPPED = {
    "prompt": "question",
    "response": "answer",
    "judgment": "critique",
    "input": "context",
    "score": "rating",
    "id": "key",
    "satisfactory": "no issues",
    "satisfactory_score": 4,
}
ROWS = [
    {"key": "a", "question": "q", "context": "c", "answer": "x", "critique": "bad", "rating": 1},
    {
        "key": 7,
        "question": "q",
        "context": "",
        "answer": "x",
        "critique": "No issues.",
        "rating": 1,
    },
    {"question": "q", "answer": "x", "critique": "bad", "rating": 4},
    {"key": "d", "question": "q", "answer": "x", "critique": None},
    {"key": "e", "question": "q", "answer": "x", "rating": 5},
    {"key": "f", "question": "q", "answer": "x", "rating": 3},
    {"key": "", "question": "q", "answer": "x"},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"])
def test_columns_and_file_kinds(tmp_path, name):
    """Without it a user's own file is refused, or its columns are mixed up."""
    lines = json.dumps(ROWS) if ".json." in name + "." else "\n\n".join(map(json.dumps, ROWS))
    opener = gzip.open if name.endswith("gz") else open
    with opener(tmp_path / name, "wt", encoding="utf-8") as stream:
        stream.write(lines)
    records = load(str(tmp_path / name), "jsonl", options=MAPPED).records
    assert [r.prompt[0].content for r in records] == ["q\nc"] + ["q"] * 6
    assert [r.satisfactory for r in records] == [False, True, True, True, True, False, False]
    assert [bool(r.feedback) for r in records] == [True] * 6 + [False]
    assert records[0].feedback[0].text == "bad" and records[0].feedback[0].score == 1.0
    ids = [r.id for r in records]
    assert ids[:2] + ids[3:6] == ["a", "7", "d", "e", "f"]
    assert ids[2].startswith(name) and ids[6].startswith(name)  # no id: the place stands for it
    for record in records:
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_malformed_line_is_named(tmp_path):
    """Without it nobody finds the broken line of a large file, or one broken line stops a run
    that was told to go on."""
    path = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": "p", "response": "r"})
    path.write_text(f'{good}\n\n{{"prompt": \n[1]\n{good}\n')
    with pytest.raises(RecordError, match=r"a\.jsonl:3: not JSON \(.* at column \d+\)"):
        load(str(path), "jsonl")
    loaded = load(str(path), "jsonl", on_error="skip")
    assert [r.id for r in loaded.records] == ["a.jsonl:1", "a.jsonl:5"]
    assert len(loaded.skipped) == 2
    assert "a.jsonl:3: not JSON" in loaded.skipped[0]
    assert "a.jsonl:4: found list, expected an object" in loaded.skipped[1]
    with pytest.raises(RecordError, match="not JSON"):
        list(read_json(str(path)))


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.json", b'{"records": []}', "holds one dict, expected a JSON array"),
        ("a.json", b'[\n{"id": 1},\n]', r"a\.json:3: not JSON"),
        ("a.json", b"[]", "no record is left of source 'cut'"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
        ("a.json.gz", b"[]", "cannot be read as UTF-8 text"),
        ("a.json.gz", gzip.compress(b"[1, 2, 3]")[:-9], "cannot be read as UTF-8 text"),
        ("a.json.gz", gzip.compress(b"[]")[:10] + b"\x07" * 20, "cannot be read as UTF-8 text"),
    ],
    ids=["object", "broken", "empty", "binary", "not gzip", "cut gzip", "broken gzip"],
)
def test_wrong_file(tmp_path, name, content, said):
    """Without it a wrong or damaged file ends in a traceback of a library."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        load(str(tmp_path / name), "cut")


@pytest.mark.parametrize("source", ["records", "jsonl"])
def test_file_of_another_source(tmp_path, source):
    """Without it a run that skips bad records starts on a file of which nothing was read."""
    path = cut_file(tmp_path, {}, {})
    with pytest.raises(RecordError, match=r"cut\.json\[0\]: "):
        load(path, source)
    with pytest.raises(UserError, match=r"2 malformed.*right file"):
        load(path, source, on_error="skip")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"source": "cuts"}, "unknown source 'cuts'. Did you mean 'cut'?"),
        ({"options": {"eror_judgments": "keep"}}, "Did you mean 'error_judgments'?"),
        ({"options": {"error_judgments": "Drop"}}, "is 'Drop', expected drop or keep"),
        ({"on_error": "ignore"}, "on_error is 'ignore', expected stop or skip"),
        ({"path": "absent.json"}, "absent.json: no such file"),
    ],
)
def test_wrong_settings(tmp_path, arguments, said):
    """Without it a misspelt setting is silently without effect."""
    with pytest.raises(UserError) as error:
        load(**{"path": cut_file(tmp_path, {}), "source": "cut", **arguments})
    assert said in str(error.value)


def test_own_records(tmp_path):
    """Without it what one stage writes is not what the next one reads."""
    rows = [
        {"id": name, "source": "s", "prompt": [{"role": "user", "content": "x"}], "response": "y"}
        for name in "ab"
    ]
    records = load(write_jsonl(tmp_path / "records.jsonl", rows), "records").records
    assert [r.to_json() for r in records] == rows


def test_downsampling_is_deterministic_and_keeps_the_order(tmp_path):
    """Without it a resumed run trains on other records, or flawed ones are thrown away."""
    rows = [{"judgment": None if i % 5 else "Wrong."} for i in range(200)]  # 40 flawed
    records = load(cut_file(tmp_path, *rows), "cut").records
    place = {r.id: i for i, r in enumerate(records)}
    kept = downsample_satisfactory(records, 0.26, 3)
    assert split(kept) == (40, 10)  # int(10.4)
    assert [place[r.id] for r in kept] == sorted(place[r.id] for r in kept)
    assert kept == downsample_satisfactory(records, 0.26, 3)
    assert kept != downsample_satisfactory(records, 0.26, 4)
    assert split(downsample_satisfactory(records, 0.0, 3)) == (40, 0)
    thinned = load(cut_file(tmp_path, *rows), "cut", downsample=0.26, seed=3)
    assert thinned.records == downsample_satisfactory(records, 0.26, 3)
    assert thinned.dropped == {"satisfactory, down-sampled": 150}
    for ratio in (-1.0, 4.0, 9.0):
        assert downsample_satisfactory(records, ratio, 3) == records
