"""The garden: what is true of responses, how they are repaired, what preferences say."""

import itertools
import random

import pytest

from lfjax.data.records import Message, Record
from lfjax.data.templates import render_prompt
from lfjax.data.views import gap, improve
from lfjax.errors import UserError
from lfjax.judges.asking import Answer, Collected
from lfjax.lab.model import make_tokenizer
from lfjax.lab.oracle import Oracle, parts_of, right_share
from lfjax.lab.phrasebook import split_of
from lfjax.lab.repair import PLANTS, WRONG, Repair
from lfjax.lab.world import LANGUAGE, World, score
from lfjax.stages.improving import by_self_refine

GARDEN = Repair()


# S grows on the first two soils, T on the second, U on the third and not on the first, Y on the
# first and not on the second.
A, B, C, S, T, U, Y = next(
    (a, b, c, s, t, u, y)
    for a, b, c in itertools.permutations(GARDEN.plants, 3)
    for s, t, u, y in itertools.permutations(PLANTS, 4)
    if {s, y} <= {*GARDEN.plants[a]}
    and {s, t} <= {*GARDEN.plants[b]} - {y}
    and u in {*GARDEN.plants[c]} - {*GARDEN.plants[a]}
)
SOILS = f"{A} {B} {C}"


def asked(text=SOILS):
    about = {"name": "repair", "seed": 0, "beds": 6}
    return Record("r", "test", (Message("user", text),), meta={"world": about})


def right(response):
    return [p.right for p in parts_of(asked(), response)]


def test_truth():
    assert right(f"{S}\n{T}\n{U}") == [True] * 3
    assert right(f"{S}\n{S}\n{U}") == [True, False, True]  # taken
    assert right(f"{U}\n{S}\n{U}") == [False, True, True]  # does not grow there, so not taken
    assert right(f"{S} {U}\n{T}\n") == [False, True, False]
    assert right("") == [False] * 3
    assert right(f"{S}\n{T}\n{U}\n{Y}") == [True, True, True, False]
    assert right(f" {S} \n\n{T}\n{U}") == [True] * 3


def test_what_is_said_of_a_fault_lies_where_it_says():
    text = f"{S}\n{S}\n{U}"
    part = parts_of(asked(), text)[1]
    assert text[slice(*part.span)] == part.said == S and part.span[0] > 0
    assert part.wanted in GARDEN.plants[B] and part.wanted != S


def test_a_repair_mends_these_lines_and_keeps_the_others():
    record, text = asked(), f"{S}\n{Y}\n{S}"
    parts = parts_of(record, text)
    assert [p.right for p in parts] == [True, False, False]
    everything = GARDEN.repaired(record, text, [p for p in parts if not p.right])
    assert right(everything) == [True] * 3
    one = GARDEN.repaired(record, text, [parts[1]])
    assert right(one) == [True, True, False] and one.endswith(S)


def test_any_response_can_be_repaired():
    rng = random.Random(0)
    for record in GARDEN.prompts("train", 60):
        soils = record.prompt[0].content.split()
        text = "\n".join(rng.choice(PLANTS) for _ in soils if rng.random() < 0.9)
        assert right_share(parts_of(record, Oracle().improved(record, text, everything=True))) == 1


def test_prompts_have_many_answers_that_are_hard_to_find():
    found, by_luck = [], []
    rng = random.Random(0)
    for record in GARDEN.prompts("test", 40):
        beds = [GARDEN.plants[soil] for soil in record.prompt[0].content.split()]
        answers = itertools.product(*beds)
        found.append(sum(len(set(a)) == len(a) for a in answers))
        taken = []
        for plants in beds:
            free = [p for p in plants if p not in taken]
            taken.append(rng.choice(free or plants))
        by_luck.append(len(set(taken)) == len(taken))
    assert min(found) >= 1 and sorted(found)[20] >= 20
    assert 0.4 < sum(by_luck) / 40 < 0.8


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


def test_pretraining_speaks_of_answers():
    """Faults are left out where they are found, most of them, and rewriting keeps all else."""
    records = list(GARDEN.pretraining(600))
    by_turns = {n: [r for r in records if len(r.prompt) == n] for n in (1, 3, 5)}
    assert sum(map(len, by_turns.values())) == 600 and min(map(len, by_turns.values())) > 90
    found = []
    for r in by_turns[3]:
        said, parts = r.response.split(), parts_of(r, r.prompt[1].content)
        assert all(word in (WRONG, part.said) for word, part in zip(said, parts, strict=True))
        found += [(word == WRONG, not part.right) for word, part in zip(said, parts)]
    assert 0.9 < sum(a == b for a, b in found) / len(found) < 1
    gain = 0.0
    for r in by_turns[5]:
        draft, said, new = (t.split() for t in (*(r.prompt[i].content for i in (1, 3)), r.response))
        assert all(b == a for a, word, b in zip(draft, said, new, strict=True) if word != WRONG)
        gain += right_share(parts_of(r, r.response)) - right_share(parts_of(r, "\n".join(draft)))
    assert gain / len(by_turns[5]) > 0.08


def test_self_refine_asks_what_pretraining_answers():
    """The same questions, shown as the same words."""
    (record,) = [r for r in GARDEN.pretraining(30) if len(r.prompt) == 5][:1]
    asked = []

    def ask(questions):
        asked.extend(questions)
        texts = [record.prompt[3].content, record.response]
        answers = [Answer(texts[len(asked) - 1])]
        return Collected(answers, 0, answers, 0, 0.0)

    draft = Record("r", "test", record.prompt[:1], record.prompt[1].content)
    (made,) = by_self_refine([draft], ask, "me").records
    assert made.refinement == record.response and asked[1].messages == record.prompt
    text = render_prompt(GARDEN.template, asked[1].messages)
    kinds = [line for line in text.split("\n") if line.endswith(":")]
    assert kinds == ["given:", "asked:", "given:", "asked:", "answer:"]


def test_splits_do_not_share_prompts():
    for split in ("train", "validation", "test"):
        for r in (*GARDEN.prompts(split, 20), *GARDEN.preferences(split, 20)):
            assert split_of(r.prompt[0].content) == split


def test_another_seed_asks_other_things():
    assert GARDEN.prompts("test", 5) == Repair().prompts("test", 5) != Repair(1).prompts("test", 5)
    assert GARDEN.plants != Repair(1).plants


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
    with pytest.raises(UserError, match=r"asks for \['Tell'"):
        parts_of(asked("Tell me"), "Oak")
