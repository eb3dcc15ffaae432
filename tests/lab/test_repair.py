"""The garden: what is true of responses, how they are repaired, what preferences say."""

import itertools
import random

import pytest

from lfjax.data.records import Message, Record
from lfjax.data.templates import render_prompt
from lfjax.data.views import gap, improve
from lfjax.errors import UserError
from lfjax.lab.model import make_tokenizer
from lfjax.lab.oracle import Oracle, parts_of, right_share
from lfjax.lab.phrasebook import split_of
from lfjax.lab.repair import PLANTS, Repair, beds_of
from lfjax.lab.world import LANGUAGE, World, score

GARDEN = Repair()
BEDS = "first: Oak Elm Oak second: Elm Fir Fir third: Ivy Oak Ivy"


def asked(text=BEDS):
    about = {"name": "repair", "seed": 0, "beds": 3, "spare": 0}
    return Record("r", "test", (Message("user", text),), meta={"world": about})


def right(response, text=BEDS):
    return [p.right for p in parts_of(asked(text), response)]


def test_truth():
    assert right("Oak\nElm\nFir") == [True] * 3
    assert right("Oak\nOak\nFir") == [True, False, True]  # taken
    assert right("Fir\nFir\nIvy") == [False, True, True]  # not for this bed, so not taken
    assert right("Oak Elm\nElm\n") == [False, True, False]
    assert right("") == [False] * 3
    assert right("Oak\nElm\nFir\nBay") == [True, True, True, False]
    assert right(" Oak \n\nElm\nFir") == [True] * 3


def test_what_is_said_of_a_fault_lies_where_it_says():
    text = "Oak\nOak\nFir"
    part = parts_of(asked(), text)[1]
    assert text[slice(*part.span)] == part.said == "Oak" and part.wanted == "Elm"


def test_a_repair_mends_these_lines_and_keeps_the_others():
    record, text = asked(), "Oak\nOak\nBay"
    parts = parts_of(record, text)
    everything = GARDEN.repaired(record, text, [p for p in parts if not p.right])
    assert right(everything) == [True] * 3 and everything.startswith("Oak\n")
    one = GARDEN.repaired(record, text, [parts[1]])
    assert right(one)[1] and one.endswith("Bay")


def test_any_response_can_be_repaired():
    rng = random.Random(0)
    for record in GARDEN.prompts("train", 60):
        text = "\n".join(rng.choice(PLANTS) for _ in beds_of(record) if rng.random() < 0.9)
        assert right_share(parts_of(record, Oracle().improved(record, text, everything=True))) == 1


def test_prompts_have_many_answers_that_are_hard_to_find():
    found, by_luck = [], []
    rng = random.Random(0)
    for record in GARDEN.prompts("test", 40):
        beds = beds_of(record)
        answers = itertools.product(*beds)
        found.append(sum(len(set(a)) == len(a) for a in answers))
        taken = []
        for plants in beds:
            free = [p for p in plants if p not in taken]
            taken.append(rng.choice(free or plants))
        by_luck.append(len(set(taken)) == len(taken))
    assert min(found) >= 1 and sorted(found)[20] >= 8
    assert 0.2 < sum(by_luck) / 40 < 0.75


def test_preferences_say_what_is_better():
    oracle, perfect = Oracle(), 0
    records = GARDEN.preferences("train", 200)
    for r in records:
        better, worse = (c.text for c in r.candidates)
        assert oracle.preferred(r, better, worse) == 1
        perfect += right_share(parts_of(r, better)) == 1
        assert right_share(parts_of(r, worse)) < 1
    assert 0.3 < perfect / 200 < 0.8  # who imitates the better ones is not perfect
    grades = {score(parts_of(r, r.candidates[1].text)) for r in records}
    assert len(grades) >= 3 and 10 not in grades


def test_splits_do_not_share_prompts():
    for split in ("train", "validation", "test"):
        for r in (*GARDEN.prompts(split, 20), *GARDEN.preferences(split, 20)):
            assert split_of(r.prompt[0].content) == split


def test_another_seed_asks_other_things():
    assert GARDEN.prompts("test", 5) == Repair().prompts("test", 5) != Repair(1).prompts("test", 5)


def test_one_layout_for_training_and_asking():
    """The worse response stands where an improver is shown what it improves."""
    record = GARDEN.preferences("train", 1)[0]
    better, worse = (c.text for c in record.candidates)
    (view,) = improve(record)
    text = render_prompt(GARDEN.template, view.prompt)
    prompt = record.prompt[0].content
    assert text == f"{prompt}\ngiven:\n{worse}\nbetter:\nanswer:\n" and view.response == better
    assert [v.response for v in gap(record)] == [better, better, worse, worse]
    assert gap(record)[0].prompt == view.prompt


def test_a_model_reads_it_word_by_word():
    assert isinstance(GARDEN, World)
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", *LANGUAGE, *GARDEN.tokens]
    tokenizer = make_tokenizer(list(dict.fromkeys(vocabulary)))
    (record,) = GARDEN.preferences("train", 1)
    for text in (record.candidates[0].text, record.candidates[1].text):
        ids = tokenizer.encode(text).ids
        assert tokenizer.token_to_id("<unk>") not in ids and tokenizer.decode(ids[1:]) == text


def test_bad_input():
    with pytest.raises(UserError, match="beds=99"):
        Repair(beds=99)
    for text in ("Tell me", "first: Oak second: Elm Fir third: Ivy", "first: Oak second: Elm"):
        with pytest.raises(UserError, match="not of the world"):
            right("Oak", text)
