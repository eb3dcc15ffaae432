"""A workdir with every kind of stage, as `run_recipe` leaves it."""

import json

from lfjax.data.records import Feedback, Message, Record, to_jsonl
from lfjax.evaluation.results import Trial, per_prompt, summary, verdicts_by_score
from lfjax.evaluation.sides import align
from lfjax.stages.blame import write
from tests.conftest import write_jsonl
from tests.report.blame_tables import HOSTILE, table_of

FACTS = {"commit": "abc", "versions": {"jax": "0.10.2"}, "devices": {"cpu": 1}, "processes": 1}


def said(text, model, i, good=False, **more):
    """A judged response to the i-th prompt."""
    more.setdefault("meta", {"finish": "stop"})
    feedback = Feedback(
        "Perfect." if good else f"Wrong: {HOSTILE}", "positive" if good else "negative"
    )
    prompt = (Message("user", f"Question {i}? {HOSTILE}"),)
    return Record(f"p{i}", "test", prompt, text, model, (feedback,), **more)


def a_stage(workdir, name, config, *, headline=None, cost=None, inputs=None, outputs=None):
    """Write a stage as `run_recipe` does; without a headline it is unfinished."""
    folder = workdir / name
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"config": config, "seed": 1, "inputs": {}}))
    if headline is not None:
        done = {
            "fingerprint": name,
            "inputs": {
                role: {"path": f"/elsewhere/{stage}/{file}", "hash": f"{stage}/{file}"}
                for role, (stage, file) in (inputs or {}).items()
            },
            "outputs": {f: {"path": f, "hash": f"{name}/{f}"} for f in outputs or ()},
            "headline": headline,
            "cost": cost or {},
            "provenance": FACTS,
        }
        (folder / "done.json").write_text(json.dumps(done))
    return folder


def evaluation(systems):
    """Results and rows as an evaluate stage writes them, of systems that are scored by length."""
    sides = align(systems, "stop")
    scores = {
        name: [
            {"satisfactory": float(r.satisfactory), "words": float(len(r.response))} for r in all_
        ]
        for name, all_ in sides.answers.items()
    }
    first = next(iter(systems))
    trial = Trial(sides, scores, verdicts_by_score(scores, first, "words"))
    found = {"mode": "rule", "rule": "words", **summary([trial], resamples=20)}
    for i, name in enumerate(systems):
        found["systems"][name]["table"] = {"seen/right": 0.5 + i / 8, "unseen/right": 0.25}
    return found, per_prompt([trial])


def a_run(workdir):
    """Every kind of stage, by hand: fast, and with texts that attack."""
    order = ("base", "cut", "answers", "judged", "compared", "again", "later")
    stages = {"later": {"kind": "train", "method": "dpo"}}
    workdir.mkdir()
    config = {"order": order, "stages": stages, "seed": 7, "model": {"path": HOSTILE}}
    (workdir / "config.json").write_text(json.dumps(config))
    model = ("hf",)
    cost = {"tokens": 1000, "model_flops": 2e12, "seconds": 70.0}
    for name, method in (("base", "sft"), ("cut", "cut")):
        inputs = {"init": ("base", "hf")} if name == "cut" else {}
        headline = {"steps": 9, "loss": 0.5, "heldout/loss": 0.625}
        how = dict(headline=headline, cost=cost, inputs=inputs, outputs=model)
        folder = a_stage(workdir, name, {"kind": "train", "method": method}, **how)
        rows = [
            {
                "step": i,
                "loss": 1 / i,
                "grad_norm": 1.0,
                "examples": 8 * i,
                "nll": 1 / i,
                "odd": "?",
            }
            | ({"heldout/loss": 2 / i, "heldout/nll": 2 / i} if i % 3 == 0 else {})
            for i in range(1, 10)
        ]
        write_jsonl(folder / "metrics.jsonl", rows)
    write(workdir / "cut" / "blame" / "step-3", table_of("old"))
    write(workdir / "cut" / "blame" / "step-12", table_of(HOSTILE, "blamed"))

    good = {
        name: [said(f"{name} {i}", name, i, (i + k) % 2 == 0) for i in range(4)]
        for k, name in enumerate(("one", "two", "three"))
    }
    good["three"][0] = said(HOSTILE, "three", 0)
    folder = a_stage(
        workdir, "answers", {"kind": "generate"}, outputs=("records.jsonl",),
        headline={"answers": 4}, cost={"asked": 4, "tokens": 40, "cost": 0.5},
    )  # fmt: skip
    (folder / "records.jsonl").write_text(to_jsonl(good["two"]))
    folder = a_stage(
        workdir, "judged", {"kind": "judge", "judge": "rule"}, outputs=("records.jsonl",),
        headline={"judged": 4, "satisfactory": 2}, inputs={"data": ("answers", "records.jsonl")},
    )  # fmt: skip
    (folder / "records.jsonl").write_text(to_jsonl(good["two"]))
    folder = a_stage(
        workdir, "compared", {"kind": "evaluate", "mode": "rule"}, headline={"prompts": 4},
        inputs={"systems/two": ("judged", "records.jsonl")}, outputs=("results.json",),
    )  # fmt: skip
    found, rows = evaluation(good)
    (folder / "results.json").write_text(json.dumps(found))
    write_jsonl(folder / "per_prompt.jsonl", rows)
    a_stage(workdir, "again", {"kind": "generate"})
    a_stage(workdir, "cut.old1", {"kind": "train", "method": "cut"}, headline={"steps": 1})
    claims = [
        {
            "claim": HOSTILE,
            "margin": 0.3,
            "estimate": 0.8,
            "interval": [0.7, 0.9],
            "verdict": "reproduced",
        },
        {"claim": "b", "margin": 0, "estimate": None, "interval": None, "verdict": "not testable"},
    ]
    (workdir / "claims.json").write_text(json.dumps(claims))
    return workdir
