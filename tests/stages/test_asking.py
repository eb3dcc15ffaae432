"""Endpoints through the real door: judging and answering by a server, budgets, keys, and what is
kept when something goes wrong."""

import json
import os
import subprocess

import pytest

from tests.conftest import ROOT, write_jsonl
from tests.judges.servers import Chat, completion, refusal, serving
from tests.stages.conftest import command, environment, run_main

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def responses(tmp_path):
    rows = [
        {"prompt": f"Question {i}?", "response": f"Answer {i}.", "judgment": "so"} for i in range(6)
    ]
    return write_jsonl(tmp_path / "responses.jsonl", rows)


def judge(workdir, responses, url, *more, config="configs/judge.py", **env):
    flags = (
        f"--config.data.path={responses}",
        "--config.data.source=jsonl",
        "--config.stages.judged.endpoint.model=m",
        f"--config.stages.judged.endpoint.url={url}",
        "--config.stages.judged.endpoint.deadline_s=3",
    )
    return subprocess.run(
        command(workdir, *flags, *more, config=config, quick=False),
        cwd=ROOT,
        env=environment() | {"OPENAI_API_KEY": KEY} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def read(workdir, stage, name="records"):
    lines = (workdir / stage / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def told(run):
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    return next(line for line in run.stderr.splitlines() if line.startswith("lfjax: "))


def opinion(text):
    """Praise of even answers; of answer 5, nothing that can be had."""
    number = int(text.rstrip(".").rpartition(" ")[2])
    if number == 5:
        return completion("")
    return completion("Perfect." if number % 2 == 0 else f"{number} is wrong.")


def test_judged_by_an_endpoint(tmp_path, responses):
    """Feedback where there is an answer; the rest is kept apart; the key is nowhere."""
    chat = Chat(opinion)
    with serving(chat) as url:
        prices = ("prompt_price=1000000", "price=2000000")
        flags = [f"--config.stages.judged.endpoint.{p}" for p in prices]
        run = judge(tmp_path / "w", responses, url, *flags)
        assert run.returncode == 0, run.stderr
        asked = len(chat.asked)
        records = read(tmp_path / "w", "judged")
        assert [r["feedback"][-1]["polarity"] for r in records] == [
            *("positive", "negative", "positive", "negative", "positive")
        ]
        assert {r["feedback"][-1]["author"] for r in records} == {"m"}
        (missing,) = read(tmp_path / "w", "judged", "missing")
        assert missing["response"] == "Answer 5." and missing["meta"]["not_judged"]["reason"]
        done = json.loads((tmp_path / "w" / "judged" / "done.json").read_text())
        assert done["headline"] == {"judged": 5, "missing": 1, "satisfactory": 3}
        assert done["cost"]["attempts"] == asked and done["cost"]["cost"] == 13.0 * asked
        # Done again, only what is missing is asked.
        again = judge(tmp_path / "w", responses, url, *flags, "--rerun=judged")
        assert again.returncode == 0, again.stderr
        assert {t.rpartition(" ")[2] for t in chat.asked[asked:]} == {"5."}
    everything = run.stdout + run.stderr
    for folder, _, files in os.walk(tmp_path):
        for name in files:
            with open(os.path.join(folder, name), "rb") as stream:
                everything += stream.read().decode("utf-8", "replace")
    assert KEY not in everything


def test_a_budget_stops_and_more_money_goes_on(tmp_path, responses):
    chat = Chat(lambda text: completion("Perfect."))
    flags = [
        f"--config.stages.judged.endpoint.{setting}"
        for setting in ("price=1000000", "concurrency=1", "budget=6")
    ]
    with serving(chat) as url:
        message = told(judge(tmp_path / "w", responses, url, *flags))
        assert "budget=6 is spent" in message and "4 of 6 questions were not asked" in message
        assert len(chat.asked) == 2
        flags[-1] = "--config.stages.judged.endpoint.budget=100"
        run = judge(tmp_path / "w", responses, url, *flags)
        assert run.returncode == 0, run.stderr
        assert len(chat.asked) == len(set(chat.asked)) == 6


@pytest.mark.parametrize(
    "flags, env, reply, said",
    [
        (["--config.stages.judged.endpoint.budget=0"], {}, None, "budget=0: nothing may be asked"),
        ([], {"OPENAI_API_KEY": ""}, None, "environment variable OPENAI_API_KEY"),
        ([], {}, refusal(401, f"bad key {KEY}"), "refuses the key"),
        ([], {}, refusal(404, "no such model"), "knows no model 'm'"),
        (
            ["--config.stages.judged.endpoint.url=http://127.0.0.1:9/v1"],
            {},
            None,
            "cannot be reached",
        ),
        (["--config.stages.judged.question=/nowhere.jinja"], {}, None, "/nowhere.jinja"),
        (["--config.stages.judged.endpoint.model="], {}, None, "model: is empty"),
    ],
)
def test_mistakes(tmp_path, responses, flags, env, reply, said):
    chat = Chat(lambda text: reply or completion("Perfect."))
    with serving(chat) as url:
        run = judge(tmp_path / "w", responses, url, *flags, **env)
    message = told(run)
    assert said in message and KEY not in run.stdout + run.stderr


def test_an_unknown_field_of_a_template(tmp_path, responses):
    template = tmp_path / "q.jinja"
    template.write_text("{% block user %}{{ instructions }}{% endblock %}")
    chat = Chat()
    with serving(chat) as url:
        run = judge(tmp_path / "w", responses, url, f"--config.stages.judged.question={template}")
    assert "unknown field 'instructions'" in told(run) and not chat.asked


def test_answers_of_a_served_model(tmp_path):
    """The same Records as from a local model, and the sampling rules in the request."""
    prompts = write_jsonl(tmp_path / "prompts.jsonl", ["Say one.", "Say two."])
    chat = Chat()
    flags = {"endpoint.model": "served", "samples": 2, "sampling.top_k": 5, "max_new_tokens": 9}
    with serving(chat) as url:
        run = run_main(
            tmp_path / "w",
            f"--config.data.path={prompts}",
            f"--config.stages.answers.endpoint.url={url}",
            *(f"--config.stages.answers.{k}={v}" for k, v in flags.items()),
            config="configs/generate.py:served",
            quick=False,
        )
    assert run.returncode == 0, run.stderr
    records = read(tmp_path / "w", "answers")
    assert [r["response"] for r in records] == ["said Say one."] * 2 + ["said Say two."] * 2
    assert {r["model"] for r in records} == {"served"}
    sent = [
        {k: v for k, v in body.items() if k not in ("messages", "model")} for body in chat.bodies
    ]
    assert sorted(s.pop("seed") for s in sent) == [42, 42, 43, 43]
    assert all(s == {"temperature": 1.0, "max_tokens": 9, "top_k": 5} for s in sent)
