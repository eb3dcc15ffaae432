"""The evaluate stage: known answers, known verdicts, and inputs that do not fit together."""

import json
import re
import runpy
from dataclasses import replace

import numpy as np
import pytest

from lfjax.data.records import Feedback, Message, Record, to_jsonl
from lfjax.data.sources import load
from lfjax.errors import UserError
from lfjax.judges import NOT_JUDGED
from lfjax.lab.oracle import Oracle, parts_of
from lfjax.lab.phrasebook import Phrasebook
from lfjax.recipe import base, evaluate, recipe
from lfjax.report.results import evaluation_tables
from lfjax.report.workdir import read_workdir
from lfjax.stages.own_words import WEIGHTS
from lfjax.stages.run import run_recipe
from tests.judges.servers import Chat, completion, serving
from tests.stages.conftest import run_main

LINES = 4
PROMPTS = Phrasebook(lines=LINES).prompts("seen", "test", 12)


def write(path, records) -> str:
    path.write_text(to_jsonl(records), encoding="utf-8")
    return str(path)


def answered(texts, *, prompts=PROMPTS) -> list[Record]:
    given = zip(prompts, texts, strict=True)
    return [Record(p.id, p.source, p.prompt, text, "m", meta=p.meta) for p, text in given]


def lab_answers(wrong: list[int]) -> list[str]:
    """To each prompt an answer whose first lines are wrong, so many as given."""
    texts = []
    for prompt, n in zip(PROMPTS, wrong, strict=True):
        right = Oracle().improved(prompt, "", everything=True).split("\n")
        texts.append("\n".join(["wrong words"] * n + right[n:]))
        assert sum(not p.right for p in parts_of(prompt, texts[-1])) == n
    return texts


def run(tmp_path, mode, systems, *, path=None, source="records", url="", init=None, **settings):
    """Run the stage as a recipe does; its folder."""
    c = base(source=source, path=path)
    c.data.template = "bare"
    if url:
        settings["endpoint"] = dict(url=url, model="judge", key_env="")
    how = {"resamples": 200, **settings}
    stage = evaluate(mode, systems=systems, data=c.data, init=init, **how)
    run_recipe(recipe(c, compared=stage), str(tmp_path / "run"))
    return tmp_path / "run" / "compared"


def read(folder):
    results = json.loads((folder / "results.json").read_text())
    rows = (folder / "per_prompt.jsonl").read_text().splitlines()
    return results, [json.loads(row) for row in rows]


# --- truth ------------------------------------------------------------------------------------


def test_truth_of_two_seeds_through_main(tmp_path):
    """Shares, tiers, verdicts and lengths of answers whose faults are known, by the real door; one
    system has two seeds, the other one for both."""
    wrong = {"base": [2] * 12, "s0": [0] * 6 + [1] * 6, "s1": [2] * 6 + [3] * 6}
    files = {k: write(tmp_path / f"{k}.jsonl", answered(lab_answers(w))) for k, w in wrong.items()}
    config = tmp_path / "config.py"
    config.write_text(
        "from lfjax.recipe import base, evaluate, recipe\n"
        "def get_config(arg=''):\n"
        "    c = base(source='records')\n"
        f"    tuned = ({files['s0']!r}, {files['s1']!r})\n"
        f"    systems = dict(tuned=tuned, base={files['base']!r})\n"
        "    return recipe(c, compared=evaluate('truth', systems=systems, data=c.data,"
        " baseline='base', resamples=200, alpaca_eval=True))\n"
    )
    done = run_main(tmp_path / "run", config=str(config), quick=False)
    assert done.returncode == 0, done.stderr
    results, rows = read(tmp_path / "run" / "compared")
    right = [1 - w / LINES for w in wrong["s0"] + wrong["s1"]]
    tuned, other = results["systems"]["tuned"], results["systems"]["base"]
    assert results["seeds"] == 2 and results["prompts"] == 24 and len(rows) == 24
    assert tuned["scores"]["right"]["mean"] == pytest.approx(np.mean(right))
    assert tuned["scores"]["all_right"]["mean"] == pytest.approx(6 / 24)
    assert other["scores"]["right"] == {"mean": 0.5, "interval": [0.5, 0.5], "scored": 24}
    table = tuned["table"]
    assert table["seen/right"] == pytest.approx(np.mean(right))
    assert table["seen/all_right"] == 0.25 and table["seen/responses"] == 24
    assert set(table) > {f"seen/{tier}/right" for tier in ("habit55", "habit65", "habit80")}
    (found,) = results["comparisons"]
    assert (found["wins"], found["ties"], found["losses"], found["missing"]) == (12, 6, 6, 0)
    assert found["delta"] == pytest.approx(0.25)
    low, high = found["interval"]
    assert low == pytest.approx(-0.7, abs=0.15) and high == 1  # seed 0 always wins, seed 1 never
    texts = lab_answers(wrong["s0"]) + lab_answers(wrong["s1"])
    assert tuned["characters"] == pytest.approx(np.mean([len(t) for t in texts]))
    assert rows[0]["answers"]["tuned"]["response"] == texts[0]
    assert rows[0]["verdicts"] == [{"system": "tuned", "against": "base", "verdict": "win"}]
    assert [r["seed"] for r in rows] == [0] * 12 + [1] * 12
    assert rows[12]["prompt"][0]["content"] == PROMPTS[0].prompt[0].content
    finished = json.loads((tmp_path / "run" / "compared" / "done.json").read_text())
    assert finished["headline"]["tuned/right"] == pytest.approx(np.mean(right))
    assert finished["headline"]["tuned - base"] == pytest.approx(0.25)
    assert "12 wins, 6 ties, 6 losses" in done.stdout
    written = json.loads((tmp_path / "run/compared/alpaca_eval/tuned-1.json").read_text())
    assert [r["output"] for r in written] == texts[12:]
    assert {r["generator"] for r in written} == {"tuned-1"}
    assert set(finished["outputs"]) >= {"results", "per_prompt", "alpaca_eval/base-0"}


def test_three_systems_are_rated(tmp_path):
    """Against one baseline: it is the reference."""
    rng = np.random.default_rng(0)
    wrong = {name: rng.integers(0, most, 12) for name, most in (("a", 3), ("b", 4), ("c", 5))}
    systems = {
        name: write(tmp_path / f"{name}.jsonl", answered(lab_answers(n.tolist())))
        for name, n in wrong.items()
    }
    results, _ = read(run(tmp_path, "truth", systems, baseline="c"))
    assert [(c["system"], c["against"]) for c in results["comparisons"]] == [("a", "c"), ("b", "c")]
    ratings = results["bradley_terry"]
    assert ratings["reference"] == "c" and ratings["systems"]["c"]["strength"] == 0
    a = results["comparisons"][0]
    share = (a["wins"] + a["ties"] / 2) / 12
    assert ratings["systems"]["a"]["strength"] == pytest.approx(np.log(share / (1 - share)))


def test_answers_that_are_missing(tmp_path):
    """An error; or counted; or, in the lab, answers of no words, of which every line is wrong."""
    texts = lab_answers([0] * 12)
    systems = {
        "all": write(tmp_path / "all.jsonl", answered(texts)),
        "some": write(tmp_path / "some.jsonl", answered(texts)[:9]),
    }
    with pytest.raises(UserError, match=f"'some' has no answer to '{PROMPTS[9].id}'.*3 of 12"):
        run(tmp_path, "truth", systems)
    results, rows = read(run(tmp_path, "truth", systems, baseline="all", on_missing="count"))
    assert results["systems"]["some"]["missing"] == 3
    assert results["systems"]["some"]["scores"]["right"]["mean"] == 1
    (found,) = results["comparisons"]
    assert found["missing"] == 3 and found["ties"] == 9
    assert found["missing_because"] == {"not scored": 3}
    assert rows[11]["verdicts"][0]["verdict"] is None and "some" not in rows[11]["answers"]
    (tmp_path / "empty").mkdir()
    results, _ = read(run(tmp_path / "empty", "truth", systems, on_missing="empty"))
    assert results["systems"]["some"]["scores"]["right"]["mean"] == pytest.approx(9 / 12)
    with pytest.raises(UserError, match="only the lab"):
        run(tmp_path / "empty", "feedback", systems, on_missing="empty")


# --- judges -----------------------------------------------------------------------------------


def prefers_longer(text: str):
    """A judge without a bias of order: the longer answer, or the word `tie`."""
    a, b = re.findall(r"<(\w+)>", text)
    return completion(f"[[{'tie' if len(a) == len(b) else 'A' if len(a) > len(b) else 'B'}]]")


def chat_answers(texts) -> list[Record]:
    ask = [(Message("user", f"Question {i}?"),) for i in range(len(texts))]
    return [Record(str(i), "test", p, f"<{t}>") for i, (p, t) in enumerate(zip(ask, texts))]


@pytest.fixture
def two(tmp_path):
    """Six answers each: the second system's are longer, as long, equal, and shorter."""
    first = chat_answers(["aaa"] * 6)
    second = chat_answers(["bbbbb", "bbbb", "bbb", "aaa", "b", "bbbbbb"])
    return {
        "first": write(tmp_path / "first.jsonl", first),
        "second": write(tmp_path / "second.jsonl", second),
    }


def test_a_judge_in_both_orders(tmp_path, two):
    chat = Chat(prefers_longer)
    with serving(chat) as url:
        folder = run(tmp_path, "judge", two, url=url, baseline="first")
    results, rows = read(folder)
    (found,) = results["comparisons"]
    assert (found["wins"], found["ties"], found["losses"], found["missing"]) == (3, 2, 1, 0)
    assert found["delta"] == pytest.approx(1 / 3) and results["judge"] == "judge"
    told = [r["verdicts"][0]["verdict"] for r in rows]
    assert told == ["win", "win", "tie", "tie", "loss", "win"]
    assert len(chat.asked) == 10  # equal answers are not asked about, each other one twice
    assert found["length_correlation"] > 0.8
    cost = json.loads((folder / "done.json").read_text())["cost"]
    assert cost["asked"] == 10


def test_a_judge_of_the_first_place(tmp_path, two):
    """Orders that disagree are ties; that all are is said."""
    with serving(Chat(lambda text: completion("[[A]]"))) as url:
        results, _ = read(run(tmp_path, "judge", two, url=url))
    (found,) = results["comparisons"]
    assert (found["system"], found["against"]) == ("first", "second")
    assert found["ties"] == 6 and found["delta"] == 0 and found["interval"] == [0, 0]
    assert "all 6 judgments are ties" in found["notes"][0]


def test_some_judgments_are_missing(tmp_path, two):
    """An answer that cannot be read is no tie."""

    def say(text):
        return completion("Hm.") if "bbbbbb" in text else prefers_longer(text)

    with serving(Chat(say)) as url:
        results, rows = read(run(tmp_path, "judge", two, url=url, baseline="first"))
    (found,) = results["comparisons"]
    assert (found["wins"], found["missing"]) == (2, 1)
    assert sum(found["missing_because"].values()) == 1
    assert rows[5]["verdicts"][0]["verdict"] is None and rows[5]["verdicts"][0]["reason"]


def test_no_judgment_at_all(tmp_path, two):
    """A clear message, and what there is is kept."""
    two = {**two, "second": write(tmp_path / "x.jsonl", chat_answers(["bb"] * 6))}
    judged = serving(Chat(lambda text: completion("Hm.")))
    with judged as url, pytest.raises(UserError, match=r"nothing was judged \(6 .*What there is"):
        run(tmp_path, "judge", two, url=url)
    results, rows = read(tmp_path / "run" / "compared")
    assert results["comparisons"][0]["missing"] == 6 and len(rows) == 6
    assert results["systems"]["second"]["characters"] == 4
    assert not (tmp_path / "run" / "compared" / "done.json").exists()


def test_every_two_where_there_is_no_baseline(tmp_path, two):
    three = {**two, "third": write(tmp_path / "third.jsonl", chat_answers(["cccc"] * 6))}
    with serving(Chat(prefers_longer)) as url:
        results, _ = read(run(tmp_path, "judge", three, url=url))
    pairs = [(c["system"], c["against"]) for c in results["comparisons"]]
    assert pairs == [("first", "second"), ("first", "third"), ("second", "third")]
    assert set(results["bradley_terry"]["systems"]) == {"first", "second", "third"}


# --- feedback, rules, references --------------------------------------------------------------


def test_feedback_that_there_is(tmp_path):
    """Means of what an earlier judge said; answers that nobody judged are not scored."""
    good, bad = Feedback("Perfect.", "positive", 9.0), Feedback("Wrong.", "negative", 3.0)
    records = chat_answers(["a", "b", "c"])
    said = [(good,), (bad,), ()]
    judged = [Record(r.id, "t", r.prompt, r.response, feedback=f) for r, f in zip(records, said)]
    results, _ = read(run(tmp_path, "feedback", {"one": write(tmp_path / "j.jsonl", judged)}))
    scores = results["systems"]["one"]["scores"]
    assert scores["satisfactory"]["mean"] == 0.5 and scores["satisfactory"]["scored"] == 2
    assert scores["score"]["mean"] == 6
    with pytest.raises(UserError, match="no answer could be scored by feedback"):
        run(tmp_path / "none", "feedback", {"one": write(tmp_path / "r.jsonl", records)})


def test_a_rule_on_refinements(tmp_path):
    """A refinement where there is one, and the response where there is none."""
    records = chat_answers(["word", "word"])
    records[0] = replace(records[0], refinement="one two")
    systems = {"one": write(tmp_path / "r.jsonl", records)}
    how = dict(rule="lfjax.judges.rules:length", rule_options=dict(at_least=2))
    results, rows = read(run(tmp_path, "rule", systems, field="refinement", **how))
    assert results["systems"]["one"]["scores"]["satisfactory"]["mean"] == 0.5
    assert [r["answers"]["one"]["response"] for r in rows] == ["one two", "<word>"]


def test_first_answers_that_stand_for_refinements_are_counted(tmp_path, capsys):
    """Without it a model whose words cannot be read looks like one that refines, only not well."""
    records = chat_answers(["a", "b", "c"])
    unread = {NOT_JUDGED: {"reason": "no improved response", "answers": ["Hm."]}}
    given = [("a b", {WEIGHTS: "abc"}), (None, unread), (None, unread)]
    made = [replace(r, refinement=t, meta=m) for r, (t, m) in zip(records, given)]
    refined = write(tmp_path / "refined.jsonl", made)
    systems = {
        "plain": dict(path=write(tmp_path / "plain.jsonl", records), field="refinement"),
        "first": dict(path=refined),
        "refined": dict(path=refined, field="refinement"),
        "all_read": dict(path=write(tmp_path / "read.jsonl", made[:1]), field="refinement"),
    }
    how = dict(rule="lfjax.judges.rules:length", rule_options=dict(at_least=2))
    results, _ = read(run(tmp_path, "rule", systems, on_missing="count", **how))
    counts = {name: system.get("fallbacks") for name, system in results["systems"].items()}
    assert counts == {"plain": None, "first": None, "refined": 2, "all_read": 0}
    assert capsys.readouterr().out.count("2 first answers kept, whose refinements") == 1
    (table,) = evaluation_tables(read_workdir(tmp_path / "run"))
    assert {r[0]: r[table.columns.index("fallbacks")] for r in table.rows} == counts


def test_prompts_that_alpaca_evals_files_cannot_hold(tmp_path, two, capsys):
    """Without it the stage fails at its last step, after every judgment was paid. It is said
    before the first one is asked for."""
    for name, path in two.items():
        first, *rest = load(path, "records").records
        first = replace(first, prompt=(Message("system", "Be brief."), *first.prompt))
        write(tmp_path / f"{name}.jsonl", [first, *rest])
    told = []

    def judge(text):
        told.append(capsys.readouterr().out)
        return prefers_longer(text)

    with serving(Chat(judge)) as url:
        results, rows = read(run(tmp_path, "judge", two, url=url, alpaca_eval=True))
    assert "1 of 6 prompts have several messages" in told[0]
    assert "--config.stages.compared.alpaca_eval=false" in told[0]
    assert results["not_in_alpaca_eval"] == 1 and results["comparisons"][0]["missing"] == 0
    assert len(rows) == results["prompts"] == 6
    written = json.loads((tmp_path / "run/compared/alpaca_eval/second.json").read_text())
    assert [r["instruction"] for r in written] == [f"Question {i}?" for i in range(1, 6)]


def test_rouge_against_references_of_the_data(tmp_path):
    """References come from the recipe's data by id: of a flawed candidate its correction, of a good
    one itself; or from the answers' own meta."""
    pytest.importorskip("rouge_score")
    ask = [(Message("user", f"Summarise {i}."),) for i in range(2)]
    good, bad = Feedback("Fine.", "positive"), Feedback("Wrong.", "negative")
    data = [
        Record("0", "t", ask[0], "the cat sat", feedback=(bad,), refinement="the cat ran home"),
        Record("1", "t", ask[1], "dogs bark", feedback=(good,)),
    ]
    meta = [{"gold": "the cat sat"}, {}]
    texts = ["the cat sat", "dogs bark"]
    made = [Record(str(i), "t", ask[i], texts[i], meta=meta[i]) for i in range(2)]
    systems = {"one": write(tmp_path / "made.jsonl", made)}
    path = write(tmp_path / "data.jsonl", data)
    results, rows = read(run(tmp_path, "rouge", systems, path=path))
    scores = results["systems"]["one"]["scores"]
    assert scores["rouge1"]["mean"] == pytest.approx((4 / 7 + 1) / 2)
    assert rows[0]["answers"]["one"]["rouge2"] == pytest.approx(2 / 5)
    results, _ = read(run(tmp_path / "own", "rouge", systems, reference="meta.gold"))
    assert results["systems"]["one"]["scores"]["rougeL"] == {
        "mean": 1.0, "interval": [1.0, 1.0], "scored": 1
    }  # fmt: skip


# --- mistakes ---------------------------------------------------------------------------------


def test_different_prompts(tmp_path):
    one, other = chat_answers(["a", "b"]), chat_answers(["a", "b"])
    other[1] = Record("1", "t", (Message("user", "Something else?"),), "<b>")
    systems = {
        "one": write(tmp_path / "1.jsonl", one),
        "other": write(tmp_path / "2.jsonl", other),
    }
    with pytest.raises(UserError, match="different prompts: '1' is 'Question 1"):
        run(tmp_path, "feedback", systems)


@pytest.mark.parametrize(
    "mode, change, said",
    [
        ("truth", dict(baseline="secnd"), "Did you mean 'second'"),
        ("truth", dict(field="refinment"), "Did you mean 'refinement'"),
        ("truth", {}, "not of a world of the lab"),
        ("feedback", dict(field="refinement"), "set field=response"),
        ("rouge", dict(reference="gold"), "expected refinement, chosen, or meta.NAME"),
        ("rule", dict(rule="nowhere:f"), "cannot be imported"),
        ("judge", {}, "nobody to ask"),
        ("truth", dict(resamples=0), "resamples=0"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, two, mode, change, said):
    with pytest.raises(UserError, match=re.escape(said)):
        run(tmp_path, mode, two, **change)


@pytest.mark.parametrize(
    "systems, said",
    [
        ({"one": None}, "systems.one.path is not set"),
        ({"a b": "x.jsonl"}, "expected letters, digits"),
        ({"one": ("x", "y"), "two": ("x", "y", "z")}, "one 2, two 3"),
        ({}, "at least one system"),
        ({"one": "nowhere.jsonl"}, "no such file"),
    ],
)
def test_systems_that_there_are_not(tmp_path, systems, said):
    with pytest.raises(UserError, match=said):
        run(tmp_path, "feedback", systems)


def test_a_mode_that_there_is_not():
    with pytest.raises(UserError, match="Did you mean 'truth'"):
        evaluate("truths", systems={}, data=base(source="records").data)


@pytest.mark.parametrize("variant", ["judge", "model", "feedback", "rule", "rouge", "truth"])
def test_every_variant_says_what_is_missing(tmp_path, variant):
    """Without it a variant of the shipped recipe does not even start."""
    config = runpy.run_path("configs/evaluate.py")["get_config"](variant)
    with pytest.raises(UserError, match=r"systems\.baseline\.path is not set"):
        run_recipe(config, str(tmp_path))
