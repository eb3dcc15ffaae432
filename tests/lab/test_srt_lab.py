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
    """All arms of one repetition, and what the claims come to."""
    run = run_main(tmp_path, config="configs/claims_srt.py:smoke", quick=False)
    assert run.returncode == 0, run.stderr

    def records(stage):
        return [
            json.loads(s) for s in (tmp_path / stage / "records.jsonl").read_text().splitlines()
        ]

    results = json.loads((tmp_path / "compared" / "results.json").read_text())
    assert {
        "base",
        "reranked",
        "best_drafts",
        "shuffled",
        "stage1_paper",
        "stage2_few",
        "best_known",
    } | {f"{m}{f}" for m in ("stage1", "stage2", "no_feedback") for f in ("", "_first")} <= set(
        results["systems"]
    )
    claims = json.loads((tmp_path / "claims" / "claims.json").read_text())
    assert len(claims) == 36
    # Start and reference of stage 2 are stage 1: before the first step nothing is preferred.
    first = json.loads((tmp_path / "s0_stage2" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.69314718, abs=1e-6)
    prompts = [
        {r["prompt"][0]["content"] for r in records(stage)}
        for stage in ("s0_drafts", "s0_own_drafts")
    ]
    assert len(prompts[0]) == 60 and not prompts[0] & prompts[1]
    kept, exchanged = records("s0_kept"), records("s0_shuffled_kept")
    said = [[r["feedback"][-1]["text"] for r in each] for each in (kept, exchanged)]
    assert sorted(said[0]) == sorted(said[1]) and said[0] != said[1]
    assert [r["refinement"] for r in kept] == [r["refinement"] for r in exchanged]
    best = {r["id"]: r["feedback"][-1]["score"] for r in records("s0_best_drafts_kept")}
    tried = [
        (r["meta"]["prompt_id"], r["feedback"][-1]["score"])
        for r in records("s0_best_drafts_scored")
    ]
    assert len(tried) == 240 and all(best[prompt] >= score for prompt, score in tried)
    assert 0 < done(tmp_path, "s0_stage2_few_kept")["records"] <= 6
    assert done(tmp_path, "s0_stage1_answers")["refined"] > 0
    assert {"agreement", "missing", "agreement_ties"} <= set(done(tmp_path, "s0_agreement_stage2"))
    assert {"true_gain", "ties", "responses/entropy"} <= set(done(tmp_path, "s0_self_bias"))
    assert isinstance(done(tmp_path, "gate")["gate"], float)
    names = [f.name for f in funnels(read_workdir(tmp_path))]
    assert {"s0_kept", "s0_pairs"} <= set(names)
