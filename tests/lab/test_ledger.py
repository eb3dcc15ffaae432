"""The ledger: what is true of an answer, and a critic whose words lead to the repair."""

import re
from dataclasses import replace

import pytest

from lfjax.data.tokenize import load_tokenizer
from lfjax.errors import UserError
from lfjax.judges.parsing import critique
from lfjax.judges.rules import load_critic, load_rule
from lfjax.lab.ledger import Ledger
from lfjax.lab.making import ledger
from lfjax.lab.oracle import Oracle, parts_of, right_share
from lfjax.lab.phrasebook import split_of
from lfjax.lab.world import World

WORLD = Ledger(seed=1)
(RECORD,) = WORLD.prompts("train", 1)
RECORD = replace(
    RECORD, prompt=(replace(RECORD.prompt[0], content="a 3 b 5 c 2\nd 4 e 4 f 0\ng 9 h 2 i 6"),)
)


def test_is_a_world():
    assert isinstance(WORLD, World)


@pytest.mark.parametrize(
    "response, right",
    [
        ("z 0\ny 8\nx 7", [True, True, True]),
        ("z 0\ny 8\nx 5", [True, True, False]),
        ("b 8\na 0\nx 7", [False, False, True]),
        ("z 0\ny 8", [True, True, False]),
        ("z 0\n\nx 7", [True, False, True]),
        ("z 0 1\ny 8\nx 7\nd 1", [False, True, True, False]),
        ("", [False, False, False]),
    ],
)
def test_parts(response, right):
    parts = WORLD.parts(RECORD, response)
    assert [p.right for p in parts] == right
    assert [p.tier for p in parts[:3]] == ["3 entries", "2 entries", "3 entries"]
    for part in parts:
        assert part.span is None or response[slice(*part.span)] == part.said
    assert WORLD.repaired(RECORD, response, parts) == "z 0\ny 8\nx 7"


def test_the_critic_names_two_faults_and_repairs_exactly_these():
    """Without it a refinement repairs what nobody spoke of, or leaves what was named."""
    said = WORLD.critique(RECORD, "z 1\ny 1\nx 1")
    assert said.refinement == "z 0\ny 8\nx 1" and said.feedback.score == 1
    assert said.feedback.weaknesses == (
        "a 3 b 8 c 0 z 1 wrong\nd 4 e 8 f 8 y 1 wrong\ng 9 h 1 i 7 x 1 wrong"
    )
    assert said.feedback.suggestions == "z 0\ny 8"
    again = WORLD.critique(RECORD, said.refinement)
    assert again.refinement == "z 0\ny 8\nx 7" and again.feedback.score == 7
    last = WORLD.critique(RECORD, again.refinement)
    assert last.refinement == again.refinement and last.feedback.score == 10
    assert "right\nAdvice:\nnone" in last.feedback.text


def test_its_critiques_are_read_as_they_were_meant():
    for response in ("z 0\ny 8\nx 5", "z 1", "z 0\ny 8\nx 7"):
        said = WORLD.critique(RECORD, response)
        text = f"{said.feedback.text}\n\n### Improved Response\n{said.refinement}"
        read = critique(text)
        assert read.refinement == said.refinement
        assert replace(read.feedback, author="oracle") == said.feedback


def test_files(tmp_path):
    outputs = ledger(tmp_path, seed=3, pretraining=20, prompts=8, evaluated=4)
    assert set(outputs) == {
        *("model", "comparisons", "totals", "exercises", "pretraining"),
        *("prompts", "validation", "test", "preferences"),
    }
    from lfjax.data.sources import load

    read = {
        k: load(str(tmp_path / v), "records").records for k, v in outputs.items() if k != "model"
    }
    for line in read["comparisons"][0].response.split("\n"):
        total, _, told, mark = line.split()
        assert (total == told) == (mark == "right")
    for r in (*read["totals"], *read["exercises"], *read["pretraining"]):
        asked, checks = r.prompt[0].content, r.response
        if "work\n" in asked or "work work\n" in asked:
            given, advice = re.split("(?: ?work)+\n", asked)
            lines = dict(t.split() for t in given.strip().split("\n"))
            if advice != "none":
                lines |= dict(t.split() for t in advice.split("\n"))
            assert checks == "\n".join(f"{n} {t}" for n, t in lines.items())
            continue
        if "\n\nanswer:\n" in checks:
            checks, corrected = checks.split("\n\nanswer:\n")
            assert right_share(parts_of(r, corrected)) == 1
        accounts = [
            list(map(int, line.split()[1::2]))
            for line in asked.partition("\nanswer:")[0].split("\n")
        ]
        for entries, line in zip(accounts, map(str.split, checks.split("\n"))):
            if asked.endswith("work"):
                *_, total, _, told, mark = line
                assert (total == told) == (mark == "right")
            if len(line) > 2:
                totals = [sum(entries[: i + 1]) % 10 for i in range(3)]
                assert list(map(int, line[1:6:2])) == totals
            else:
                assert int(line[1]) == sum(entries) % 10
    assert {split_of(r.prompt[0].content) for r in read["test"]} == {"test"}
    for r in read["preferences"]:
        better, worse = sorted(r.candidates, key=lambda c: not c.preferred)
        assert Oracle().preferred(r, better.text, worse.text) == 1
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    prompt = read["prompts"][0].prompt[0].content
    said = Ledger(3).critique(read["prompts"][0], "z 1\ny 2\nx 3")
    whole = f"{prompt}\nanswer:\n{said.refinement}\n\n### Feedback\n{said.feedback.text}"
    ids = tokenizer.encode(whole)
    assert tokenizer.decode(ids) == whole and tokenizer.hf.unk_token_id not in ids


def test_the_critic_as_a_rule():
    answered = replace(RECORD, response="z 0\ny 8\nx 5")
    name = "lfjax.lab.making:critic"
    assert load_critic(name)(answered) == WORLD.critique(answered, answered.response)
    assert load_rule(name)(answered) == WORLD.critique(answered, answered.response).feedback


def test_mistakes():
    with pytest.raises(UserError, match="fewest"):
        Ledger(entries=2, fewest=3)
    with pytest.raises(UserError, match="were found"):
        Ledger(accounts=1, entries=1).prompts("train", 10)
    with pytest.raises(UserError, match="expected 3 accounts"):
        WORLD.parts(replace(RECORD, prompt=(replace(RECORD.prompt[0], content="a 1\nb x"),)), "z 1")
