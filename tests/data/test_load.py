"""From a data block to batches: what is kept out, what is refused, and what is said of it."""

import pytest
from ml_collections import ConfigDict

from lfjax.data.load import Batches, describe, encode, load_records, told
from lfjax.data.plan import make_plan
from lfjax.data.templates import template_text
from lfjax.errors import UserError
from lfjax.methods.cut import METHOD
from tests.conftest import write_jsonl
from tests.data.tokenizers_of import tokenizer_of

ALPACA = template_text("alpaca")


def block(**settings):
    """A data block of a config."""
    return ConfigDict(
        {
            "source": "jsonl",
            "options": {},
            "downsample": -1.0,
            "heldout_examples": 0,
            "on_error": "stop",
            **settings,
        }
    )


@pytest.fixture
def path(tmp_path):
    """20 records, every fourth of them flawed."""
    rows = [
        {"id": i, "prompt": "p" * (i + 1), "response": "r", "judgment": None if i % 4 else "Bad."}
        for i in range(20)
    ]
    return write_jsonl(tmp_path / "a.jsonl", rows)


def ids(records):
    return [r.id for r in records]


@pytest.mark.parametrize("count", [0, 1, 7, 19])
def test_heldout_records_are_apart_and_the_same_every_time(path, count):
    """Without it a model is evaluated on what it learned, or on other records after a restart."""
    loaded, heldout = load_records(block(heldout_examples=count), {"data": path}, 5)
    assert len(heldout) == count and len(loaded.records) == 20 - count
    both = ids(loaded.records) + ids(heldout)
    assert sorted(map(int, both)) == list(range(20))
    for part in (loaded.records, heldout):  # in the file's order
        assert ids(part) == sorted(ids(part), key=int)
    again, heldout_again = load_records(block(heldout_examples=count), {"data": path}, 5)
    assert (again.records, heldout_again) == (loaded.records, heldout)


def test_no_prompt_is_on_both_sides(tmp_path):
    """Without it a reward is measured on prompts whose responses it has seen."""
    rows = [
        {"id": str(i), "prompt": f"question {i // 4}", "response": str(i), "judgment": None}
        for i in range(20)
    ]
    data = {"data": write_jsonl(tmp_path / "b.jsonl", rows)}
    for count, found in ((1, 4), (6, 8), (8, 8)):  # whole prompts, of four records each
        loaded, heldout = load_records(block(heldout_examples=count), data, 5)
        assert len(heldout) == found and len(loaded.records) == 20 - found
        assert not {r.prompt for r in heldout} & {r.prompt for r in loaded.records}
    with pytest.raises(UserError, match="none is left to train on"):
        load_records(block(heldout_examples=17), data, 5)


def test_another_seed_keeps_out_others(path):
    """Without it the seed of a config has no effect on the split."""
    assert (
        len(
            {
                tuple(ids(load_records(block(heldout_examples=7), {"data": path}, s)[1]))
                for s in (1, 2, 3)
            }
        )
        > 1
    )


def test_heldout_after_downsampling(path):
    """Without it the ratio of good to flawed records is not the one that was asked for."""
    loaded, heldout = load_records(block(downsample=1.0, heldout_examples=4), {"data": path}, 5)
    everything = loaded.records + heldout
    assert sum(r.satisfactory for r in everything) == 5 and len(everything) == 10
    assert loaded.dropped["satisfactory, down-sampled"] == 10


def test_options_that_nobody_set(path):
    """Without it a recipe that knows the options of every source can name none of them."""
    loaded, _ = load_records(
        block(options={"rank": None, "prompt": None, "id": "x"}), {"data": path}, 5
    )
    assert len(loaded.records) == 20 and loaded.records[0].id == "a.jsonl:1"
    with pytest.raises(UserError, match="source 'jsonl' has no option 'rank'"):
        load_records(block(options={"rank": "min"}), {"data": path}, 5)


@pytest.mark.parametrize("count", [-1, 20, 21])
def test_more_kept_out_than_there_are(path, count):
    """Without it a run starts with nothing to learn from."""
    with pytest.raises(UserError, match=rf"heldout_examples={count}: .*has 20 records"):
        load_records(block(heldout_examples=count), {"data": path}, 5)


@pytest.mark.parametrize(
    "row_tokens, max_tokens, said",
    [
        (64, 128, "row_tokens=64 is less than max_tokens=128"),
        (2, 2, "no record is left to learn from: 20 response too long"),
    ],
)
def test_rows_that_hold_nothing(path, row_tokens, max_tokens, said):
    """Without it too short rows end in an empty plan, or in a traceback."""
    loaded, _ = load_records(block(), {"data": path}, 5)
    config = ConfigDict({"row_tokens": row_tokens, "max_tokens": max_tokens, "data": block()})
    views = METHOD.views_of(METHOD.options)
    with pytest.raises(UserError) as error:
        encode(config, loaded.records, views, tokenizer_of("gpt2"), ALPACA)
    assert said in str(error.value)


def test_batches_and_their_description(tmp_path):
    """Without it what was dropped, trimmed or skipped is not shown to the one who trains."""
    rows = [
        {"id": "good", "prompt": "p", "response": "r", "judgment": "Perfect."},
        {"id": "flawed", "prompt": "p", "response": "r", "judgment": "Bad."},
        {"id": "trimmed", "prompt": "p" * 500, "response": "r", "judgment": None},
        {"id": "long", "prompt": "p", "response": "r " * 500, "judgment": None},
        {"id": "bad", "prompt": "p"},
    ]
    data = block(on_error="skip")
    loaded, _ = load_records(data, {"data": write_jsonl(tmp_path / "a.jsonl", rows)}, 5)
    config = ConfigDict({"row_tokens": 600, "max_tokens": 300, "data": data})
    views = METHOD.views_of(METHOD.options)
    encoded = encode(config, loaded.records, views, tokenizer_of("gpt2"), ALPACA)
    plan = make_plan(encoded.lengths, row_tokens=600, seed=5, batch_examples=2)
    batches = Batches(loaded.records, encoded, plan, "example")
    assert sorted(batches.record_ids(0) + batches.record_ids(1)) == ["flawed", "good", "trimmed"]
    assert [len(batches.record_ids(s)) for s in (0, 1)] == [2, 1]
    for step in (0, 1):
        assert sum(batches.segment_lengths(step)) == (batches.rows(step).segment > 0).sum()
    lines = describe(loaded, batches)
    assert lines[0] == "records: 4 (3 satisfactory, 1 not), 3 used"
    assert lines[1] == "left out: 1 response too long; prompts trimmed: 1"
    assert lines[2].startswith("steps: 2 (2 an epoch, 1.5 examples each), rows of 600 tokens")
    assert (
        lines[3].startswith("malformed, left out: ") and "a.jsonl:5: field 'response'" in lines[3]
    )
    assert told(encoded.counts) and told(type(encoded.counts)()) == "none"
