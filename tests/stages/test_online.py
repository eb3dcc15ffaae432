"""The online loop through the real door: generate, judge, train, and again; and its stages one by
one."""

import json
import re
import signal
import subprocess
import time

import pytest

from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import command, environment, run_main

LOOP = "tests/stages/loop.py"
STAGES = ("stories", "check0", "rate0", "answers1", "judged1", "cut1", "check1", "rate1")


def read(workdir, stage):
    lines = (workdir / stage / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def told(run):
    """What a run said of its mistake."""
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    return next(line for line in run.stderr.splitlines() if line.startswith("lfjax: "))


@pytest.fixture(scope="module")
def looped(tmp_path_factory, stories):
    """The workdir of a loop that was killed in its middle and started again, and what the second
    start printed."""
    workdir = tmp_path_factory.mktemp("loop")
    flags = (f"--config.model.path={stories}",)
    process = subprocess.Popen(
        command(workdir, *flags, config=LOOP, quick=False),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (workdir / "judged1" / "done.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read(workdir, "answers1")
    again = run_main(workdir, *flags, config=LOOP, quick=False)
    assert again.returncode == 0, again.stderr
    assert read(workdir, "answers1") == before
    return workdir, again


def test_goes_on_where_it_was_killed(looped):
    workdir, again = looped
    finished = re.findall(r"finished before: \S+/(\w+)/done.json", again.stdout)
    assert finished == list(STAGES[: len(finished)]) and len(finished) >= 5
    for stage in (*STAGES, "answers2", "judged2", "cut2", "check2", "rate2"):
        assert (workdir / stage / "done.json").is_file()


def test_prompts_are_drawn_once(looped):
    """No iteration has a prompt of another one, or of those held out."""
    workdir, _ = looped
    asked = [
        {r["prompt"][0]["content"] for r in read(workdir, s)} for s in ("answers1", "answers2")
    ]
    heldout = {r["prompt"][0]["content"] for r in read(workdir, "check0")}
    assert [len(a) for a in asked] == [16, 16] and len(heldout) == 8
    assert not asked[0] & asked[1] and not heldout & (asked[0] | asked[1])
    assert heldout == {r["prompt"][0]["content"] for r in read(workdir, "check2")}


def test_records_say_who_answered_and_who_judged(looped):
    workdir, _ = looped
    for record in read(workdir, "judged2"):
        assert record["model"] == "cut1"
        (said,) = record["feedback"]
        assert said["author"] == "lfjax.judges.rules:story"
        assert "\n" not in record["response"]
        word = record["meta"]["words"][0]
        missing = re.search(rf"\b{word}\b", record["response"], re.IGNORECASE) is None
        assert missing == (f'not contain the word "{word}"' in said["text"])


def test_the_next_model_learns_from_the_judgments(looped):
    workdir, _ = looped
    done = json.loads((workdir / "cut2" / "done.json").read_text())
    before = json.loads((workdir / "cut1" / "done.json").read_text())
    assert done["inputs"]["init"]["hash"] == before["outputs"]["model"]["hash"]
    judged = json.loads((workdir / "judged2" / "done.json").read_text())
    assert done["inputs"]["data"]["hash"] == judged["outputs"]["records"]["hash"]
    metrics = (workdir / "cut2" / "metrics.jsonl").read_text()
    assert "misalign" in metrics


def test_stored_answers_are_not_drawn_again(looped, stories, tmp_path):
    """A stage that is done again finds its answers in the store."""
    workdir, _ = looped
    flags = (f"--config.model.path={stories}", "--rerun=check0")
    run = run_main(workdir, *flags, config=LOOP, quick=False)
    assert run.returncode == 0, run.stderr
    done = json.loads((workdir / "check0" / "done.json").read_text())
    assert done["cost"]["asked"] == 0 and done["headline"]["answers"] == 8
    assert read(workdir, "check0") == read(workdir, "check0.old1")


def test_shuffled_judgments_and_positives(looped, tmp_path, stories):
    """The control arms' data: another response's judgment, or none that finds fault."""
    workdir, _ = looped
    flags = (f"--config.data.path={workdir / 'judged1' / 'records.jsonl'}",)
    for name in ("shuffled", "satisfactory"):
        config = tmp_path / f"{name}.py"
        config.write_text(
            "from lfjax.recipe import base, filter_, recipe\n"
            "def get_config(arg=''):\n"
            "    c = base(source='records')\n"
            f"    return recipe(c, kept=filter_('{name}', data=c.data))\n"
        )
        run = run_main(tmp_path / name, *flags, config=str(config), quick=False)
        assert run.returncode == 0, run.stderr
    before = read(workdir, "judged1")
    after = read(tmp_path / "shuffled", "kept")
    flawed = [i for i, r in enumerate(before) if r["feedback"][0]["polarity"] == "negative"]
    texts = [[rs[i]["feedback"][0]["text"] for i in flawed] for rs in (before, after)]
    assert sorted(texts[0]) == sorted(texts[1])
    assert [r["response"] for r in before] == [r["response"] for r in after]
    good = read(tmp_path / "satisfactory", "kept")
    assert len(good) == len(before) - len(flawed)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    rows = ["Tell me about the fox.", {"prompt": "Tell me about the owl."}]
    return write_jsonl(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


def answer(workdir, prompts, stories, *more, config="configs/generate.py"):
    flags = (
        f"--config.data.path={prompts}",
        f"--config.model.path={stories}",
        "--config.stages.answers.max_new_tokens=8",
        "--config.stages.answers.max_tokens=128",
        "--config.stages.answers.slots=8",
    )
    return run_main(workdir, *flags, *more, config=config, quick=False)


def test_several_samples(tmp_path, prompts, stories):
    run = answer(tmp_path, prompts, stories, "--config.stages.answers.samples=3")
    assert run.returncode == 0, run.stderr
    records = read(tmp_path, "answers")
    assert [r["meta"]["sample"] for r in records] == [0, 1, 2] * 2
    assert len({r["response"] for r in records}) > 2 and len({r["id"] for r in records}) == 6
    assert {r["meta"]["prompt_id"] for r in records} == {"prompts.jsonl:1", "prompts.jsonl:2"}


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--config.stages.answers.max_new_tokens=200"], "leaves no room for max_new_tokens"),
        (
            ["--config.stages.answers.examples=3"],
            "draws 3 prompts from place 0 on, but there are 2",
        ),
        (["--config.stages.answers.asks=refinements"], "refinement"),
        (["--config.stages.answers.sampling.top_p=0"], "top_p"),
        (["--config.stages.answers.samples=0"], "samples=0"),
        (["--config.stages.answers.part=test"], "train or heldout"),
        (["--config.model.path=/nowhere"], "/nowhere"),
        (["--config.data.template=chatty"], "chatty"),
    ],
)
def test_mistakes_in_generation(tmp_path, prompts, stories, flags, said):
    assert said in told(answer(tmp_path, prompts, stories, *flags))


def test_nobody_to_ask(tmp_path, prompts):
    flags = (f"--config.data.path={prompts}",)
    run = run_main(tmp_path, *flags, config="configs/generate.py", quick=False)
    assert "nobody to ask" in told(run)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--config.stages.judged.rule=nowhere:f"], "cannot be imported"),
        (["--config.stages.judged.rule=lfjax.judges.rules:storey"], "story"),
        (["--config.stages.judged.judge=scores"], "score"),
    ],
)
def test_mistakes_in_judging(looped, tmp_path, flags, said):
    records = looped[0] / "answers1" / "records.jsonl"
    run = run_main(
        tmp_path,
        f"--config.data.path={records}",
        *flags,
        config="configs/judge.py:rule",
        quick=False,
    )
    assert said in told(run)
