"""The report's contents: what it says equals what the stages wrote."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import pytest

from lfjax.data.records import Candidate, to_jsonl
from lfjax.errors import UserError
from lfjax.report import curves, responses, results
from lfjax.report.page import provenance, tiles, write_report
from lfjax.report.tables import Interval, Table, compact, duration, latex_text, shown
from lfjax.report.workdir import read_jsonl, read_workdir
from tests.conftest import ROOT
from tests.report.blame_tables import HOSTILE
from tests.report.pages import Page
from tests.report.run_of import a_run, a_stage, said


@pytest.fixture
def workdir(tmp_path):
    return a_run(tmp_path / "run")


# --- the workdir ------------------------------------------------------------------------------


def test_stages_of_a_workdir(workdir):
    found = read_workdir(workdir)
    assert not found.notices
    assert {s.name: s.state for s in found.stages} == {
        **dict.fromkeys(("base", "cut", "answers", "judged", "compared"), "finished"),
        "again": "unfinished",
        "later": "not begun",
    }
    assert [s.what for s in found.stages][:4] == [
        "train: sft",
        "train: cut",
        "generate",
        "judge: rule",
    ]
    assert found.stages[1].reads == {"init": "base"}
    assert found.stages[4].reads == {"systems/two": "judged"}


def test_inputs_from_elsewhere_are_no_stages(workdir):
    """A folder elsewhere may be called like a stage of this run."""
    path = workdir / "judged" / "done.json"
    done = json.loads(path.read_text())
    done["inputs"]["data"]["hash"] = "another"
    path.write_text(json.dumps(done))
    assert read_workdir(workdir).stages[3].reads == {}


def test_damaged_files_are_named_and_the_rest_is_shown(workdir):
    """Without it one torn file takes the whole report away."""
    (workdir / "config.json").write_text("{")
    (workdir / "base" / "done.json").write_text("[]")
    (workdir / "cut" / "blame" / "step-12.parquet").write_bytes(b"PAR1 torn")
    (workdir / "compared" / "results.json").write_text('{"systems": {"a": 3}}')
    (workdir / "claims.json").write_text('[1, {"claim": "kept"}]')
    (workdir / "cut" / "metrics.jsonl").write_bytes(
        b'{"step": 1, "loss": 1}\nnonsense\n{"step": 2, "lo'
    )
    (workdir / "answers" / "records.jsonl").write_text('{"id": 3}\n')
    with open(workdir / "compared" / "per_prompt.jsonl", "a") as stream:
        stream.write('{"id": "x", "seed": 0}\n')
    page = write_report(workdir).read_text()
    notices = re.search(r'role="note">(.*?)</div>', page, re.DOTALL)[1]
    for name in (
        *("config.json", "base/done.json", "step-12.parquet", "compared/results.json"),
        *("claims.json", "cut/metrics.jsonl", "compared/per_prompt.jsonl"),
    ):
        assert name in notices, name
    assert notices.count("<li>") == 7
    assert "line 2" in notices and "line 5" in notices
    assert "kept" in page and "three 1" in page
    (workdir / "judged" / "done.json").unlink()  # then the records below it are read
    (workdir / "compared" / "done.json").unlink()
    assert "answers/records.jsonl" in write_report(workdir).read_text()


def test_torn_last_line_of_a_run_under_way(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n\n{"st')
    notices = []
    assert read_jsonl(path, notices) == [(1, {"step": 1})] and not notices
    assert read_jsonl(tmp_path / "none", notices) == [] and not notices


@pytest.mark.parametrize("made", ["nothing", "file", "folder"])
def test_nothing_to_report(tmp_path, made):
    path = tmp_path / "w"
    if made == "file":
        path.write_text("")
    if made == "folder":
        (path / "some").mkdir(parents=True)
    wanted = "nothing to report" if made == "folder" else "no such directory"
    with pytest.raises(UserError, match=wanted):
        write_report(path)
    done = subprocess.run(
        [sys.executable, "-m", "lfjax.report", "--workdir", str(path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("lfjax: ") and wanted in done.stderr
    assert done.stderr.count("\n") == 1 and not (path / "report").exists()


def test_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.json").write_text('{"order": ["a"], "stages": {"a": {"kind": "train"}}}')
    page = write_report(tmp_path).read_text()
    assert "No stage is finished yet" in page and "not begun" in page


# --- tables -----------------------------------------------------------------------------------

TABLE = Table(
    "t",
    "T",
    ("name", "score", "tokens", "wall time (s)"),
    (('a,"b"\n', Interval(1 / 3, 0.25, 0.5), 1234567, 61.0), ("c_%", None, None, 3.25)),
)


def test_csv_has_all_digits():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["name", "score", "score low", "score high", "tokens", "wall time (s)"]
    assert rows[1] == ['a,"b"\n', repr(1 / 3), "0.25", "0.5", "1234567", "61.0"]
    assert rows[2] == ["c_%", "", "", "", "", "3.25"]


def test_latex_compiles_as_text():
    text = TABLE.latex()
    assert text.splitlines()[0] == r"\begin{tabular}{lrrr}"
    assert r"a,\"b\"" not in text and 'a,"b"  & 0.333 [0.25, 0.5] & 1.23 M & 1 min 1 s' in text
    assert r"c\_\% & -- & -- & 3.2 s \\" in text
    assert latex_text("\\^~{}<#") == (
        r"\textbackslash{}\textasciicircum{}\textasciitilde{}\{\}\textless{}\#"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (float("nan"), "–"), (float("inf"), "inf"), (True, "yes"), (12345, "12,345"),
        (0.123456, "0.1235"), (3.0, "3"), (1e-7, "1e-07"), ([1], "[1]"), ("x", "x"),
    ],
)  # fmt: skip
def test_shown(value, text):
    assert shown(value) == text


def test_units():
    assert [duration(s) for s in (0.5, 59.4, 60, 3599.6, 7300)] == [
        "0.5 s", "59 s", "1 min 0 s", "1 h 0 min", "2 h 1 min",
    ]  # fmt: skip
    assert [compact(x) for x in (12, 1234, 1.71e11, 2e12)] == ["12", "1.23 k", "171 G", "2 T"]


def test_tables_of_a_run(workdir):
    found = read_workdir(workdir)
    judged, *trained, _ = results.headline_tables(found)
    assert judged.columns == (
        "stage",
        "responses of",
        "judged",
        "satisfactory",
        "share satisfactory",
    )
    assert judged.rows == (("judged", "answers", 4, 2, 0.5),)
    assert [t.title for t in trained] == ["train: cut", "train: sft"]
    assert trained[0].rows == (("cut", 9, 0.5, 0.625),)
    run = results.run_table(found)
    assert dict(zip(run.columns, run.rows[1])) == {
        "stage": "cut", "what": "train: cut", "state": "finished", "reads": "base",
        "wall time (s)": 70.0, "tokens": 1000, "FLOPs": 2e12, "answers asked for": None,
        "price": None,
    }  # fmt: skip
    assert dict(tiles(found)) == {
        "stages finished": "5 of 7", "wall time": "2 min 20 s", "tokens": "2.04 k", "FLOPs": "4 T",
        "answers asked for": "4", "price of answers": "0.5",
    }  # fmt: skip
    facts = dict(provenance(found))
    assert facts["commit"] == "abc" and facts["versions"] == "jax 0.10.2" and facts["seed"] == "7"


def test_stages_that_ran_with_different_code(workdir):
    path = workdir / "cut" / "done.json"
    done = json.loads(path.read_text())
    done["provenance"]["commit"] = None
    path.write_text(json.dumps(done))
    facts = provenance(read_workdir(workdir))
    assert ("commit", "unknown (cut)") in facts
    assert ("commit", "abc (base, answers, judged, compared)") in facts


def test_tables_of_an_evaluation(workdir):
    """What the stage computed, with its intervals."""
    found = json.loads((workdir / "compared" / "results.json").read_text())
    systems, comparisons, strengths, groups = results.evaluation_tables(read_workdir(workdir))
    assert systems.columns == (
        "system",
        "satisfactory",
        "words",
        "characters",
        "answers",
        "missing",
    )
    score = found["systems"]["two"]["scores"]["satisfactory"]
    assert systems.rows[1][:2] == ("two", Interval(score["mean"], *score["interval"]))
    assert "mode rule" in systems.note and "prompts 4" in systems.note
    row = dict(zip(comparisons.columns, comparisons.rows[0]))
    first = found["comparisons"][0]
    assert row["win - lose"] == Interval(first["delta"], *first["interval"])
    assert (row["system"], row["against"], row["wins"]) == ("two", "one", first["wins"])
    assert strengths.columns == ("system", "strength") and len(strengths.rows) == 3
    assert groups.rows == (("seen/right", 0.5, 0.625, 0.75), ("unseen/right", 0.25, 0.25, 0.25))


def test_claims(workdir):
    table = results.claims_table(read_workdir(workdir))
    assert table.columns == ("claim", "margin", "estimate", "verdict")
    assert table.rows == (
        (HOSTILE, 0.3, Interval(0.8, 0.7, 0.9), "reproduced"),
        ("b", 0, None, "not testable"),
    )


# --- curves -----------------------------------------------------------------------------------


def test_series_are_means_of_all_steps():
    log = [{"step": i, "a": float(i), "b": float("nan")} for i in range(1, 1001)]
    x, y = curves._series(log, "a", 200)
    assert x == y and len(x) == 200 and x[0] == 3.0 and sum(x) / 200 == 500.5
    assert curves._series(log, "b", 200) == ([], [])
    assert curves._series(log[:3], "a", 200) == ([1, 2, 3], [1.0, 2.0, 3.0])


def test_curves_by_method(workdir):
    """The loss first; its copy, what never changes, and clocks are not."""
    cut, sft = curves.learning_curves(read_workdir(workdir))
    assert (cut.method, cut.stages, cut.heldout, cut.mean_of) == ("cut", ("cut",), True, 1)
    assert [p.name for p in sft.first] == ["loss"]
    assert [p.name for p in sft.others] == ["nll", "grad_norm"]


def test_plots_take_the_colours_of_the_page(workdir):
    svg = curves.learning_curves(read_workdir(workdir))[0].first[0].svg
    assert "currentColor" in svg and "var(--s0)" in svg and "var(--line)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b|<style|xmlns:|font-family", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', svg))
    assert used == set(re.findall(r' id="([^"]*)"', svg))


def test_names_in_plots_are_text():
    """`$` would begin a formula, `<` a tag."""
    name = "<script>$x$ & y_1"
    for svg in (
        curves.box_plot({name: [1, 2], "b": [3]}, "words"),
        curves.forest_plot([name], [Interval(None, 0.0, 1.0)], [None]),
    ):
        assert Page(str(svg)).tags.count("script") == 0 and name in Page(str(svg)).text


# --- responses --------------------------------------------------------------------------------


def test_board_of_an_evaluation(workdir):
    """Answers with their verdicts and, where the records are known, what was said of them."""
    (board,) = responses.boards(read_workdir(workdir))
    assert board.systems == ["one", "two", "three"] and len(board.prompts) == 4
    one, two, three = board.prompts[0].entries
    assert one.verdicts == ("satisfactory",) and two.verdicts == ("tie against one", "flawed")
    assert three.text == HOSTILE and three.verdicts == ("win against one", "flawed")
    assert three.scores == (("words", float(len(HOSTILE))),)
    assert two.notes == (f"Wrong: {HOSTILE}",) and one.notes == ()
    assert two.cut is False and one.cut is None
    assert responses.tone("win against flawed") == "good" and responses.tone("tie against a") == ""
    assert board.prompts[0].differ


def test_judgments_of_another_text_are_not_shown(workdir):
    """What was evaluated may be the refinement of the response that was judged."""
    path = workdir / "compared" / "per_prompt.jsonl"
    path.write_text(path.read_text().replace("two 0", "two, refined"))
    two = responses.boards(read_workdir(workdir))[0].prompts[0].entries[1]
    assert two.text == "two, refined" and two.notes == () and two.cut is None


@pytest.mark.parametrize("damage", ["response", "prompt", "answers", "id"])
def test_rows_of_another_form(workdir, damage):
    path = workdir / "compared" / "per_prompt.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    if damage == "response":
        row["answers"]["one"]["response"] = 3
    else:
        row[damage] = 3
    with open(path, "a") as stream:
        stream.write(json.dumps(row) + "\n")
    found = read_workdir(workdir)
    assert len(responses.boards(found)[0].prompts) == 4
    assert found.notices == [f"{path}: 1 rows cannot be read, first line 5."]


def test_boards_of_stages(workdir):
    """Without an evaluation: what was judged, once, beside other answers to the same prompts."""
    shutil.rmtree(workdir / "compared")
    other = [said(f"b {i}", "m", i, i == 0) for i in range(6)]
    more = [said("elsewhere", "m", i) for i in range(10, 12)]
    for name, records in (("again", other), ("elsewhere", more)):
        shutil.rmtree(workdir / name, ignore_errors=True)
        folder = a_stage(workdir, name, {"kind": "generate"}, headline={"answers": 1})
        (folder / "records.jsonl").write_text(to_jsonl(records))
    first, second = responses.boards(read_workdir(workdir))
    assert first.systems == ["answers (two)", "again (m)"] and len(first.prompts) == 6
    assert [len(p.entries) for p in first.prompts] == [2, 2, 2, 2, 1, 1]
    assert first.verdicts == {"flawed": 7, "satisfactory": 3}
    assert second.systems == ["elsewhere (m)"]
    assert {p.id for p in first.shown(4)} == {"p0", "p1", "p2", "p3"}
    assert len(first.shown(5)) == 5 and len(first.shown(99)) == 6


def test_entries_of_a_record():
    record = said(
        "r", "m", 1, refinement="better", meta={"finish": "length"},
        candidates=(Candidate("c", "x", 7.0, True), Candidate("d", preferred=False)),
    )  # fmt: skip
    found = responses.entries_of(record, "s", "refined")
    assert [(e.system, e.text, e.verdicts) for e in found] == [
        ("s (m)", "r", ("flawed",)),
        ("refined: refinement", "better", ()),
        ("x", "c", ("preferred",)),
        ("s: candidate 2", "d", ("not preferred",)),
    ]
    assert found[0].cut and found[2].scores == (("score", 7.0),)


def test_lengths():
    entries = [responses.Entry("a", "w " * n, cut=n == 5) for n in (1, 2, 3, 4, 5)]
    entries[0] = responses.Entry("a", "w ", cut=None)
    entries.append(responses.Entry("b", "one"))
    board = responses.Board("n", [responses.Prompt("p", "", (e,)) for e in entries])
    a, b = responses.length_table("l", board).rows
    assert a == ("a", 5, 3.0, 1.4, 3, 4.6, 6.0, 0.25)
    assert b == ("b", 1, 1.0, 1, 1, 1, 3.0, None)
