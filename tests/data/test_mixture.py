"""Mixtures: shares, draws and order."""

import json

import pytest

from lfjax.data.load import load_records
from lfjax.data.mixture import data_inputs, load_mixture, mix, mixture_blocks
from lfjax.data.records import Message, Record
from lfjax.errors import UserError
from lfjax.recipe import base
from tests.conftest import write_jsonl


def records(name, count):
    return [Record(str(i), name, (Message("user", "x"),), "y") for i in range(count)]


def sources(mixed):
    return [r.source for r in mixed]


PARTS = {"a": records("a", 90), "b": records("b", 20), "c": records("c", 50)}
WEIGHTS = {"a": 3.0, "b": 1.0, "c": 2.0}


@pytest.mark.parametrize("examples", [0, 1, 7, 60, 119])
def test_shares(examples):
    """Without it a small set is drowned, or the mixture is not the one that was asked for."""
    mixed = mix(PARTS, WEIGHTS, seed=1, examples=examples)
    assert len(mixed) == (examples or 120)  # a sixth of it is all that b has
    for name, weight in WEIGHTS.items():
        share = weight / 6 * len(mixed)
        assert abs(sources(mixed).count(name) - share) < 1
        for end in range(len(mixed)):  # interleaved: no stretch of one kind
            assert abs(sources(mixed[:end]).count(name) - weight / 6 * end) <= 2


def test_largest_total_uses_up_a_part():
    """Without it records that the shares allow are left out."""
    mixed = mix(PARTS, {"a": 1, "b": 1, "c": 1}, seed=1)
    assert sources(mixed).count("b") == 20 and len(mixed) == 60
    alone = mix({"a": PARTS["a"]}, {"a": 0.3}, seed=1)
    assert [r.id for r in alone] == [f"a/{i}" for i in range(90)]


def test_draw_is_without_replacement_and_of_the_seed():
    """Without it a record is learned twice, or a resumed run learns from others."""
    first, again, other = (mix(PARTS, WEIGHTS, seed=s, examples=60) for s in (1, 1, 2))
    ids = [r.id for r in first]
    assert len(set(ids)) == 60 and first == again
    assert ids != [r.id for r in other]
    of_a = [int(i[2:]) for i in ids if i.startswith("a/")]
    assert of_a == sorted(of_a) and len(of_a) == 30  # a part's own order


def test_another_block_does_not_change_a_draw():
    """Without it a block that is added changes which records of the others are seen."""

    def of_a(parts):
        mixed = mix(parts, WEIGHTS, seed=1, examples=10 * sum(int(WEIGHTS[n]) for n in parts))
        return [r.id for r in mixed if r.source == "a"]

    twins = mix({"a": PARTS["a"], "b": records("b", 90)}, {"a": 1, "b": 1}, seed=1, examples=80)
    drawn = [{r.id[2:] for r in twins if r.source == name} for name in "ab"]
    assert drawn[0] != drawn[1]  # two parts of one length
    assert of_a(PARTS) == of_a({"b": PARTS["b"], "a": PARTS["a"]})


@pytest.mark.parametrize(
    "weights, examples, said",
    [
        ({**WEIGHTS, "b": 0}, 0, "the weight of 'b' is 0, expected a positive number"),
        ({**WEIGHTS, "b": -1.0}, 0, "the weight of 'b' is -1.0"),
        ({**WEIGHTS, "b": float("nan")}, 0, "the weight of 'b' is nan"),
        ({**WEIGHTS, "b": float("inf")}, 0, "the weight of 'b' is inf"),
        (WEIGHTS, 150, "'b' has 20 records, its share of 150 examples is 25"),
    ],
)
def test_impossible_mixture(weights, examples, said):
    """Without it a part that is too small is repeated or silently falls short."""
    with pytest.raises(UserError) as error:
        mix(PARTS, weights, seed=1, examples=examples)
    assert said in str(error.value)


def test_load_mixture(tmp_path):
    """Without it equal ids of two files clash, or what was left out is not told."""
    chat = {"messages": [{"role": r, "content": r} for r in ("user", "assistant")]}
    rows = [{**chat, "id": str(i)} for i in range(8)]
    pairs = [{"id": str(i), "prompt": "p", "chosen": "c", "rejected": "r"} for i in range(4)]
    broken = write_jsonl(tmp_path / "b.jsonl", [*pairs, {"prompt": "p"}])
    blocks = {
        "chat": {
            "path": write_jsonl(tmp_path / "a.jsonl", rows),
            "source": "messages",
            "weight": 1,
        },
        "pairs": {
            "path": broken,
            "source": "preference",
            "weight": 2.0,
            "options": {"response": "chosen"},
        },
    }
    with pytest.raises(UserError, match=r"b\.jsonl:5: "):
        load_mixture(blocks, seed=3)
    loaded = load_mixture(blocks, seed=3, on_error="skip")
    assert sources(loaded.records).count("pairs/preference") == 4 and len(loaded.records) == 6
    assert {r.response for r in loaded.records} == {"assistant", "c"}
    assert loaded.dropped == {"chat: beyond its share": 6}
    assert len(loaded.skipped) == 1 and loaded.skipped[0].startswith("pairs: ")
    ids = [r.id for r in loaded.records]
    assert len(set(ids)) == 6 and {i.split("/")[0] for i in ids} == {"chat", "pairs"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"weigth": 1}, "unknown field 'weigth'. Did you mean 'weight'?"),
        ({"source": None}, "field 'source' is missing"),
        ({"weight": "3"}, "field 'weight' is str, expected a number"),
        ({"weight": True}, "field 'weight' is bool, expected a number"),
        ({"options": []}, "field 'options' is list, expected an object"),
        ({"source": "message"}, "unknown source 'message'. Did you mean 'messages'?"),
        ({"source": "messages", "options": {"rank": "max"}}, "has no option 'rank'"),
        ({"path": "absent.jsonl"}, "absent.jsonl: no such file"),
        ({"downsample": 0.5}, "all 3 are satisfactory"),
        ({"source": "shepherd"}, "field 'question' is missing"),
    ],
)
def test_errors_name_the_block(tmp_path, change, said):
    """Without it nobody knows which of ten blocks is wrong."""
    rows = [{"prompt": "p", "response": "r", "judgment": None}] * 3
    block = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "source": "jsonl", "weight": 1}
    with pytest.raises(UserError) as error:
        load_mixture({"good": block, "chat": block | change}, seed=3)
    assert str(error.value).startswith("data block 'chat': ") and said in str(error.value)


def test_downsample_of_a_block_and_of_all(tmp_path):
    """Without it a chat block, all of whose answers are good, cannot stand beside a judged one."""
    rows = [{"prompt": "p", "response": "r", "judgment": "Bad." if i < 4 else ""} for i in range(9)]
    block = {"path": write_jsonl(tmp_path / "a.jsonl", rows), "source": "jsonl", "weight": 1}
    blocks = {"all": block, "own": block | {"downsample": -1}}
    loaded = load_mixture(blocks, seed=3, downsample=0.5)
    assert loaded.dropped == {
        "all: satisfactory, down-sampled": 3,
        "own: beyond its share": 3,
    }


# --- in a config ------------------------------------------------------------------------------


def test_a_file_of_blocks(tmp_path):
    """Without it paths mean another file wherever the program is started."""
    file = tmp_path / "mix.json"
    block = {"source": "jsonl", "weight": 1}
    places = {"near": "in/a.jsonl", "far": "/far/b.jsonl", "bucket": "gs://x/y/1.0.0"}
    file.write_text(json.dumps({name: block | {"path": p} for name, p in places.items()}))
    data = base(path=str(file)).data
    paths = data_inputs(data)
    assert paths == {
        "data": str(file),
        "data/near": str(tmp_path / "in" / "a.jsonl"),
        "data/far": "/far/b.jsonl",
        "data/bucket": "gs://x/y/1.0.0",
    }
    blocks = mixture_blocks(data, paths | {"data/near": "found"})
    assert list(blocks) == list(places) and blocks["near"] == block | {"path": "found"}


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "mix.json:1: not JSON"),
        ("[]", "expected an object of blocks"),
        ('{"a": 3}', "expected an object of blocks"),
        ('{"a": {"path": "x", "source": "cut"}}', "block 'a': field 'weight' is missing"),
        ('{"a": {"path": "x", "source": "cut", "weigh": 1}}', "block 'a': unknown field 'weigh'"),
        ('{"a": {}, "a": {}}', "'a' stands there twice"),
        (None, "cannot be read (No such file"),
    ],
)
def test_a_file_that_is_no_mixture(tmp_path, text, said):
    """Without it a slip in the file ends in a traceback, or drops a block."""
    file = tmp_path / "mix.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        data_inputs(base(path=str(file)).data)
    assert str(error.value).startswith(str(file)) and said in str(error.value)


def test_blocks_of_a_recipe():
    """Without it a recipe's mixture cannot be set on the command line."""
    data = base(
        mixture={
            "chat": dict(source="messages", weight=3, path="a.jsonl"),
            "pairs": dict(source="hh", weight=1, options=dict(response="chosen"), downsample=1),
        }
    ).data
    assert data.source == "mixture" and data.mixture.chat.weight == 3.0
    with pytest.raises(UserError, match=r"--config\.data\.mixture\.pairs\.path=FILE"):
        data_inputs(data)
    data.mixture.pairs.path, data.mixture.chat.weight = "b.jsonl", 2.5
    paths = data_inputs(data)
    assert paths == {"data/chat": "a.jsonl", "data/pairs": "b.jsonl"}
    blocks = mixture_blocks(data, paths)
    assert blocks["chat"]["weight"] == 2.5 and blocks["chat"]["downsample"] is None
    assert blocks["pairs"]["options"]["response"] == "chosen"
    data.path = "c.jsonl"
    with pytest.raises(UserError, match="this recipe's mixture has a path for each block"):
        data_inputs(data)
    data.source = "cut"  # both, and the recipe's mixture is left
    assert data_inputs(data) == {"data": "c.jsonl"}


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(mixture={"a": dict(source="cut")}), "block 'a': field 'weight' is missing"),
        (dict(mixture={"a": dict(source="cuts", weight=1)}), "unknown 'cuts'. Did you mean 'cut'"),
        (dict(mixture={"a": dict(source="cut", weigh=1)}), "unknown field 'weigh'"),
        (dict(source="cut", mixture={"a": dict(source="cut", weight=1)}), "give one"),
        (dict(source="mixtur"), "Did you mean 'mixture'"),
    ],
)
def test_a_recipe_s_mistakes(given, said):
    """Without it a misspelt field of a recipe is silently left out."""
    with pytest.raises(UserError) as error:
        base(**given)
    assert said in str(error.value)


def test_options_belong_to_blocks(tmp_path):
    """Without it an option on the command line has no effect and nobody says so."""
    data = base(mixture={"a": dict(source="cut", weight=1, path="a.json")}).data
    data.options.rank = "min"
    with pytest.raises(UserError, match=r"data\.options\.rank is set, but .* in its blocks"):
        load_records(data, data_inputs(data), 1)


def test_heldout_records_are_of_all_blocks_and_the_same_again(tmp_path):
    """Without it a mixture is evaluated on one of its blocks, or on what was learned."""

    def block(name, weight):
        rows = [
            {"id": i, "prompt": f"{name}{i}", "response": "r", "judgment": None} for i in range(40)
        ]
        path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        return dict(source="jsonl", path=path, weight=weight)

    data = base(mixture={"a": block("a", 3), "b": block("b", 1)}).data
    data.heldout_examples = 20
    loaded, heldout = load_records(data, data_inputs(data), 1)
    assert len(loaded.records) == 33 and len(heldout) == 20
    assert {r.source for r in heldout} == {"a/jsonl", "b/jsonl"}
    assert not {r.id for r in heldout} & {r.id for r in loaded.records}
    again, heldout_again = load_records(data, data_inputs(data), 1)
    assert (again.records, heldout_again) == (loaded.records, heldout)
