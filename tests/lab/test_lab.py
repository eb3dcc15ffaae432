"""The lab's recipe through the real door, at a size for tests: every arm is trained, answers, and
is scored by exact truth."""

import json
from dataclasses import replace

import pytest

from lfjax.data.sources import load
from lfjax.lab.making import EVALUATED, oracle, phrasebook
from lfjax.lab.oracle import Oracle
from tests.stages.conftest import run_main

ARMS = ("base", "cut", "hindsight", "dpo", "placebo", "hindsight_praised")


@pytest.mark.slow
def test_smoke(tmp_path):
    run = run_main(tmp_path, config="configs/lab.py:smoke", quick=False)
    assert run.returncode == 0, run.stderr
    for how in ("greedy", "sampled"):
        results = json.loads((tmp_path / how / "results.json").read_text())
        assert set(results["systems"]) == set(ARMS) and results["prompts"] == 4 * len(EVALUATED)
    judged, misjudged = (
        [json.loads(line) for line in (tmp_path / s / "records.jsonl").read_text().splitlines()]
        for s in ("judged", "misjudged")
    )
    assert [r["response"] for r in judged] == [r["response"] for r in misjudged]
    texts = [[r["feedback"][0]["text"] for r in rs] for rs in (judged, misjudged)]
    assert texts[0] != texts[1]
    assert (tmp_path / "report" / "index.html").is_file()


def test_files_of_a_world(tmp_path):
    """What the recipe's first stage writes, and the oracle as a rule on it."""
    outputs = phrasebook(tmp_path, seed=3, pretraining=20, feedback=5, evaluated=2)
    assert set(outputs) == {"model", "pretraining", "feedback", "validation", "test"}
    tests = load(str(tmp_path / outputs["test"]), "records").records
    assert [r.meta["group"] for r in tests] == [g for g in EVALUATED for _ in range(2)]
    texts = load(str(tmp_path / outputs["pretraining"]), "records").records
    assert len(texts) == 20 and all(r.response for r in texts)
    (one, *_) = load(str(tmp_path / outputs["feedback"]), "records").records
    answered = replace(one, response=texts[0].response)
    said = oracle(answered, kind="one")
    assert said == Oracle("one").feedback(one, answered.response) and said.author == "oracle"
