"""SRT's stages through the real door: what is asked, what is kept, what is said of mistakes."""

import json
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import srt
from lfjax.data.records import Feedback, Message, Record
from lfjax.errors import UserError
from lfjax.generation.speaker import Speaker
from lfjax.judges.asking import Answer, Asker, Collected
from lfjax.recipe import base, generate
from lfjax.stages import own_words
from lfjax.stages.artifacts import Stage
from lfjax.stages.generate import draw
from lfjax.stages.own_words import (
    WEIGHTS,
    check_own,
    expected_scores,
    first_answers_kept,
    self_refined,
)
from tests.conftest import ROOT, write_jsonl
from tests.judges.servers import Chat, completion, serving
from tests.stages.conftest import command, environment, run_main

CONFIG = "tests/stages/srt.py:collect"


def critique(score, better):
    return (
        f"Weaknesses: It is short.\nAdvice: Say more.\nOverall Score: [[{score}]]\n"
        f"### Improved Response\n{better}"
    )


def opinion(text):
    """Response n scores n + 2 and becomes "Better n."; that scores as much for odd n, and one more
    for even ones."""
    said = text.split("### Response\n")[1].split("\n")[0].rstrip(".")
    kind, number = said.rpartition(" ")[0], int(said.rpartition(" ")[2])
    gain = 1 - number % 2 if kind == "Better" else 0
    return completion(critique(number + 2 + gain, f"Better {number}."))


@pytest.fixture
def responses(tmp_path):
    def write(count, **changed):
        rows = [
            {
                "id": str(i),
                "source": "test",
                "prompt": [{"role": "user", "content": f"Question {i}?"}],
                "response": f"Answer {i}.",
                **changed,
            }
            for i in range(count)
        ]
        return write_jsonl(tmp_path / "responses.jsonl", rows)

    return write


def flags_of(data, url, *more):
    endpoints = (f"--config.stages.{s}.endpoint.url={url}" for s in ("critiques", "scored"))
    return [f"--config.data.path={data}", *endpoints, *more]


def run(workdir, data, url, *more):
    return run_main(workdir, *flags_of(data, url, *more), config=CONFIG, quick=False)


def kept(workdir):
    lines = (workdir / "kept" / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_another_tie_policy_asks_nobody_anything(tmp_path, responses):
    """The refinement is scored in a call of its own; filters need no call at all."""
    chat, data, work = Chat(opinion), responses(6), tmp_path / "w"
    with serving(chat) as url:
        first = run(work, data, url)
        assert first.returncode == 0, first.stderr
        assert len(chat.asked) == len(set(chat.asked)) == 12
        fresh = [t for t in chat.asked if "Better" in t]
        assert len(fresh) == 6 and not any("It is short" in t or "Answer" in t for t in fresh)
        pairs = [[c["score"] for c in r["candidates"]] for r in kept(work)]
        assert pairs == [[i + 3 - i % 2, i + 2] for i in range(6)]
        again = run(work, data, url, "--config.stages.kept.options.ties=drop", "--rerun=kept")
        assert again.returncode == 0, again.stderr
        assert len(chat.asked) == 12
    assert [r["id"] for r in kept(work)] == ["0", "2", "4"]
    done = json.loads((work / "kept" / "done.json").read_text())
    assert done["headline"] == {"records": 3, "refinement scores the same": 3}


def test_a_killed_collection_asks_no_stored_question_again(tmp_path, responses):
    chat, data, work = Chat(opinion, seconds=0.02), responses(8), tmp_path / "w"
    with serving(chat) as url:
        for until in (3, 11):
            flags = flags_of(data, url)
            process = subprocess.Popen(
                command(work, *flags, config=CONFIG, quick=False),
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while len(chat.asked) < until and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            while chat.flying:
                time.sleep(0.01)
        last = run(work, data, url)
        assert last.returncode == 0, last.stderr
    times = Counter(chat.asked)
    assert len(times) == 16 and max(times.values()) <= 2
    assert sum(times.values()) - 16 <= 2  # what was in flight when it was killed
    assert len(kept(work)) == 8


def test_a_critic_that_never_keeps_to_the_form(tmp_path, responses):
    """It is stopped early, with reasons and examples; what it said is kept."""

    def never(text):
        number = int(text.split("### Response\nAnswer ")[1].split(".")[0])
        given = ["Fine.", critique(7, "").rstrip(), critique("seven", "Better.")][number % 3]
        return completion(given)

    chat, data, work = Chat(never), responses(120), tmp_path / "w"
    with serving(chat) as url:
        done = run(work, data, url, "--config.stages.critiques.endpoint.concurrency=8")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(chat.asked) == 50
    said = done.stderr
    assert "stopped after 50 of 120 records: none of 50 records was judged" in said
    for part in ("17: no improved response, such as 'Fine.'", "no score, such as 'Weaknesses:"):
        assert part in said
    assert "improved response is empty" in said
    missing = (work / "critiques" / "missing.jsonl").read_text().splitlines()
    assert len(missing) == 50 and "Fine." in missing[0]


def test_prompts_that_the_other_stage_has_learned_from(tmp_path, responses):
    data = responses(3)
    other = tmp_path / "first.jsonl"
    row = {"id": "x", "source": "one", "prompt": [{"role": "user", "content": " question  1? "}]}
    write_jsonl(other, [row])
    flags = [
        f"--config.data.path={data}",
        "--config.stages.answers.endpoint.url=http://127.0.0.1:9/v1",
        f"--config.stages.answers.apart_from={other}",
    ]
    done = run_main(tmp_path / "w", *flags, config="tests/stages/srt.py:apart", quick=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "1 of 3 prompts are also in" in done.stderr and "'1' is 'x' there" in done.stderr


def test_prompts_that_differ_in_case_and_spaces_alone_are_drawn_once(tmp_path):
    """Else two stages that draw from one file could share them."""
    asked = ("Name a colour.", "name  a colour.", "Name a number.", "Name a colour!")
    path = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": text} for text in asked])
    data = base(source="prompts", path=path).data
    config = generate(data=data, init="model", examples=3)
    found = draw(replace(stage(), config=config, inputs={"data": path}))
    assert sorted(r.prompt[0].content for r in found) == sorted(asked[:1] + asked[2:])


def test_a_second_stage_that_starts_from_another_model(tmp_path):
    """Pairs that the start of training did not write are refused before anything is computed."""
    row = {"prompt": "Name a colour.", "chosen": "It is blue.", "rejected": "Seven."}
    flags = [
        f"--config.data.path={write_jsonl(tmp_path / 'pairs.jsonl', [row] * 4)}",
        f"--config.model.path={ROOT / 'lfjax' / 'lab' / 'demo'}",
        "--config.model.weights=random",
        "--config.data.heldout_examples=0",
        "--config.stages.dpo.own_pairs=true",
    ]
    done = run_main(tmp_path / "w", *flags, config="configs/dpo.py:stories260k", quick=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "starts from, and is compared with, the model" in done.stderr
    assert "4 of its 4 pairs were made by another" in done.stderr
    assert not (tmp_path / "w" / "dpo").exists()


# --- parts ------------------------------------------------------------------------------------

RECORD = Record("r", "test", (Message("user", "Name a colour."),), "Seven.")


def stage(**config):
    given = dict(leave_out="", refine_tokens=64, max_new_tokens=16)
    inputs = {"init": "m"}
    identity = {"inputs": {"init": "abc"}}
    settings = SimpleNamespace(**{**given, **config})
    return Stage("s", Path("s"), settings, inputs, 0, None, identity)


def test_pairs_of_another_model():
    """Without it stage 2 starts from, or is compared with, a model that did not write its pairs."""
    own = replace(RECORD, meta={WEIGHTS: "abc"})
    check_own(stage(), [own, own])
    for strange in (replace(RECORD, meta={WEIGHTS: "xyz"}), RECORD):
        with pytest.raises(UserError, match=r"starts from.*1 of its 2 pairs.*'r' of test"):
            check_own(stage(), [own, strange])


def test_expected_scores():
    logps = np.log([[0.1, 0.2, 0.1], [1e-30, 1e-30, 3e-30]])
    found = expected_scores(logps, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found, [2.0, 2.4])


def test_what_cannot_be_read_leaves_the_first_answer(monkeypatch):
    given = [Answer(critique(3, "Blue.")), Answer("Nonsense."), Answer(None, "empty")]
    asked = []

    def collected(stage, questions, asker):
        asked.extend(questions)
        return Collected(given, 0, given, 0, 0.0)

    monkeypatch.setattr(own_words, "collected", collected)
    how = {}

    def local_asker(*_, **changed):
        how.update(changed)
        return Asker("m", {}, iter)

    monkeypatch.setattr(own_words, "local_asker", local_asker)
    records = [replace(RECORD, id=str(i)) for i in range(3)]
    out, numbers, _ = self_refined(stage(), object.__new__(Speaker), records)
    assert [q.begin for q in asked] == [("Seven.", "\n\n### Feedback\n")] * 3
    assert [r.refinement for r in out] == ["Blue.", None, None]
    assert numbers["refined"] == 1 and numbers["first_answer_kept"] == 2
    assert set(how) == {"max_new_tokens", "stop"}  # decoded as the responses were
    assert out[0].meta[WEIGHTS] == "abc" and isinstance(out[0].feedback[0], Feedback)
    reasons = [r.meta["not_judged"]["reason"] for r in out[1:]]
    assert reasons == ["no improved response", "empty"]
    assert first_answers_kept(out) == 2 and first_answers_kept(out[:1]) == 0
    assert first_answers_kept(records) is None  # of these nobody tried to make a refinement


@pytest.mark.parametrize("variant", ["custom", "tulu2_13b"])
def test_gains_are_measured_from_answers_of_the_base_model(variant):
    """Without it there is nothing that AlpacaEval's own tool could compare the stages' files with;
    and answers that are cut earlier than the others lose for that alone."""
    c = srt.get_config(variant)
    evaluation = c.stages["compared" if variant == "custom" else "outputs"]
    assert evaluation.alpaca_eval and evaluation.systems.base.path == "base_answers"
    base, ours = c.stages.base_answers, c.stages.stage1_answers
    assert base.init is c.model and base.sampling.temperature == ours.sampling.temperature == 0
    assert base.max_new_tokens == ours.max_new_tokens and base.data is ours.data
    assert c.order.index("base_answers") < len(c.order) - 1
