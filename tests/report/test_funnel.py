"""Funnels: every record that a chain of stages read is kept, or has a reason."""

import json

import pytest

from lfjax.report.funnel import counts_of, funnels, score_plots
from lfjax.report.page import render
from lfjax.report.workdir import read_workdir
from tests.conftest import write_jsonl
from tests.report.blame_tables import HOSTILE
from tests.report.run_of import a_stage


@pytest.fixture
def workdir(tmp_path):
    """Answers, critiques of them, and a filter; reasons that attack the page."""
    out = ("records.jsonl",)
    a_stage(
        tmp_path, "drafts", {"kind": "generate"}, outputs=out,
        headline={"records": 9, "answers": 9, "missing": 1, "mean_tokens": 3.5},
    )  # fmt: skip
    folder = a_stage(
        tmp_path, "critiques", {"kind": "judge", "judge": "critique"}, outputs=out,
        headline={"judged": 6, "missing": 3, "satisfactory": 0, "mean_score": 5.5},
        inputs={"data": ("drafts", "records.jsonl")},
    )  # fmt: skip
    reasons = ["no score", "no score", HOSTILE]
    rows = [{"id": str(i), "meta": {"not_judged": {"reason": r}}} for i, r in enumerate(reasons)]
    write_jsonl(folder / "missing.jsonl", rows)
    a_stage(
        tmp_path, "kept", {"kind": "filter", "filter": "refined"}, outputs=out,
        headline={"records": 4, "refinement scores lower": 2},
        inputs={"data": ("critiques", "records.jsonl")},
    )  # fmt: skip
    folder = a_stage(tmp_path, "bias", {"kind": "self_bias"}, headline={"ties": 0.5})
    histogram = {"responses": {"histogram": [0] * 9 + [4]}}
    (folder / "self_bias.json").write_text(json.dumps({"scores": histogram}))
    return read_workdir(tmp_path)


def test_every_record_is_accounted_for(workdir):
    (funnel,) = funnels(workdir)
    assert funnel.name == "kept"
    rows = [dict(zip(funnel.table.columns, row)) for row in funnel.table.rows]
    counts = {(r["stage"], r["what"]): r["records"] for r in rows}
    assert counts == {
        ("drafts", "kept"): 9,
        ("drafts", "no answer"): 1,
        ("critiques", "kept"): 6,
        ("critiques", "no score"): 2,
        ("critiques", HOSTILE): 1,
        ("kept", "kept"): 4,
        ("kept", "refinement scores lower"): 2,
    }
    by_stage = {s.name: sum(counts_of(s, []).values()) for s in workdir.of_kind("judge", "filter")}
    assert by_stage == {"critiques": 9, "kept": 6}  # what the stage before kept
    assert "svg" in funnel.plot and "kept" in funnel.plot


def test_on_the_page(workdir):
    ((stage, plot),) = score_plots(workdir)
    assert stage == "bias" and "responses" in plot
    page = render(workdir)
    assert "What became of the records" in page and "refinement scores lower" in page
    assert HOSTILE not in page
