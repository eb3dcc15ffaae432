"""What the systems of a run of claims took: stages that lead to them, each counted once."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAM = runpy.run_path(str(ROOT / "benchmarks" / "arms.py"))
TRAINED = {"tokens": 1000, "model_flops": 3e9}
ASKED = {"asked": 10, "prompt_tokens": 100, "tokens": 70}
STORED = {"asked": 0, "prompt_tokens": 0, "tokens": 0}
ANSWERS = {"records": 10, "answers": 10, "mean_tokens": 7.0}


@pytest.fixture
def stage(tmp_path, stories):
    """Writes what a finished stage leaves. There are a base, a model trained on its drafts, and one
    trained by DPO from that."""

    def write(name, inputs, cost, config, headline=None, outputs=("records.jsonl",)):
        folder = tmp_path / name
        (folder / "hf").mkdir(parents=True)
        shutil.copy(Path(stories) / "config.json", folder / "hf")
        given = {role: {"path": str(tmp_path / path)} for role, path in inputs.items()}
        made = {str(i): {"path": path} for i, path in enumerate(outputs)}
        done = dict(inputs=given, cost=cost, headline=headline or {}, outputs=made)
        (folder / "done.json").write_text(json.dumps(done))
        (folder / "stage.json").write_text(json.dumps({"config": config}))

    draft = {"init": "s0_base/hf"}
    write("s0_base", {}, TRAINED, {"kind": "train", "method": "sft"})
    write("s0_drafts", draft, ASKED, {"kind": "generate"}, ANSWERS)
    data = {"data": "s0_drafts/records.jsonl"}
    write("s0_first", data | draft, TRAINED, {"kind": "train", "method": "sft"})
    second = data | {"init": "s0_first/hf"}
    write("s0_second", second, TRAINED, {"kind": "train", "method": "dpo"})
    return write


def row(tmp_path, path, first=False):
    run = PROGRAM["Run"](tmp_path, "base")
    return PROGRAM["row"](run, str(tmp_path / path), 10, first)


def test_what_leads_to_a_system_is_counted_once(tmp_path, stage):
    """Without it the base's pretraining is an arm's, or data that two models learn from count
    twice."""
    stage("s0_answers", {"init": "s0_second/hf"}, ASKED, {"kind": "generate"}, ANSWERS)
    learned, flops, drawn, spent = row(tmp_path, "s0_answers/records.jsonl")
    assert (learned, drawn, spent) == (2000, 70, 7)
    sampling = PROGRAM["cost"](PROGRAM["Run"](tmp_path, "base"), "s0_drafts")[2]
    assert flops == pytest.approx((3e9 + 4e9 + sampling) / 1e9) and sampling > 0
    stage("s0_base_answers", {"init": "s0_base/hf"}, ASKED, {"kind": "generate"}, ANSWERS)
    assert row(tmp_path, "s0_base_answers/records.jsonl") == (0, 0, 0, 7)


def test_stored_answers_count_as_drawn(tmp_path, stage):
    """Without it a system that asks what another has asked is free."""
    config, init = {"kind": "generate"}, {"init": "s0_second/hf"}
    stage("s0_stored", init, STORED, config, ANSWERS)
    assert row(tmp_path, "s0_stored/records.jsonl")[3] == 7
    half = {"asked": 5, "prompt_tokens": 50, "tokens": 35}
    stage("s0_half", init, half, config, ANSWERS)
    assert row(tmp_path, "s0_half/records.jsonl")[3] == 7


def test_samples_steps_and_first_answers(tmp_path, stage):
    """Without it best of two pays for sixteen, one step for five, an answer for its feedback."""
    init = {"init": "s0_second/hf"}
    many = {"asked": 160, "prompt_tokens": 1600, "tokens": 1120}
    sampled = {"kind": "generate", "samples": 16}
    stage("s0_samples", init, many, sampled, {**ANSWERS, "answers": 160})
    voted = {"kind": "filter", "options": {"samples": 2}}
    stage("s0_voted", {"data": "s0_samples/records.jsonl"}, {}, voted)
    assert row(tmp_path, "s0_voted/records.jsonl")[3] == 14
    steps = ("step1.jsonl", "records.jsonl")
    improved = {"records": 10, "unchanged": 0.5, "mean_tokens": 14.0}
    better = init | {"data": "s0_samples/records.jsonl"}
    twice = {"asked": 20, "prompt_tokens": 200, "tokens": 140}
    stage("s0_better", better, twice, {"kind": "improve"}, improved, steps)
    assert (
        row(tmp_path, "s0_better/records.jsonl")[3] - row(tmp_path, "s0_better/step1.jsonl")[3] == 7
    )
    refined = {**ANSWERS, "refined": 9}
    long = {"asked": 20, "prompt_tokens": 200, "tokens": 600}
    stage("s0_refined", init, long, {"kind": "generate"}, refined)
    assert row(tmp_path, "s0_refined/records.jsonl")[3] == 60
    assert row(tmp_path, "s0_refined/records.jsonl", first=True)[3] == 7
