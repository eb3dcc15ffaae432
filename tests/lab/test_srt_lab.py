"""The SRT recipe through the real door, at a size for tests: both stages, inference, controls."""

import json

import pytest

from lfjax.report.funnel import funnels
from lfjax.report.workdir import read_workdir
from tests.stages.conftest import run_main


def done(workdir, stage):
    return json.loads((workdir / stage / "done.json").read_text())["headline"]


@pytest.mark.slow
def test_smoke(tmp_path):
    run = run_main(tmp_path, config="configs/srt.py:lab_smoke", quick=False)
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "compared" / "results.json").read_text())
    assert set(results["systems"]) == {
        *("base", "reranked", "refinements_only"),
        *(f"{m}{f}" for m in ("stage1", "stage2", "no_feedback") for f in ("", "_first")),
    }
    # Start and reference of stage 2 are stage 1: before the first step nothing is preferred.
    first = json.loads((tmp_path / "stage2" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.69314718, abs=1e-6)
    prompts = {
        stage: {
            json.loads(line)["prompt"][0]["content"]
            for line in (tmp_path / stage / "records.jsonl").read_text().splitlines()
        }
        for stage in ("drafts", "own_drafts")
    }
    assert len(prompts["drafts"]) == 60 and not prompts["drafts"] & prompts["own_drafts"]
    assert done(tmp_path, "stage1_answers")["refined"] > 0
    assert {"agreement", "missing", "agreement_ties"} <= set(done(tmp_path, "agreement_stage2"))
    assert {"true_gain", "ties", "responses/entropy"} <= set(done(tmp_path, "self_bias"))
    assert isinstance(done(tmp_path, "gate")["gate"], float)
    names = [f.name for f in funnels(read_workdir(tmp_path))]
    assert {"kept", "pairs"} <= set(names)
