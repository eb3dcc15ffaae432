"""Mixtures: shares, draws and order."""

import pytest

from lfjax.data.mixture import load_mixture, mix
from lfjax.data.records import Message, Record
from lfjax.errors import UserError
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
    assert sources(loaded.records).count("preference") == 4 and len(loaded.records) == 6
    assert {r.response for r in loaded.records} == {"assistant", "c"}
    assert loaded.dropped == {"chat: beyond its share": 6}
    assert len(loaded.skipped) == 1 and loaded.skipped[0].startswith("pairs: ")
    ids = [r.id for r in loaded.records]
    assert len(set(ids)) == 6 and {i.split("/")[0] for i in ids} == {"chat", "pairs"}
    for field, said in (("weigth", "Did you mean 'weight'?"), ("wieght", "unknown field")):
        with pytest.raises(UserError, match="data block 'chat'") as error:
            load_mixture({"chat": {**blocks["chat"], field: 1}}, seed=3)
        assert said in str(error.value)
    with pytest.raises(UserError, match="data block 'chat': field 'source' is missing"):
        load_mixture({"chat": {"path": "a", "weight": 1}}, seed=3)
