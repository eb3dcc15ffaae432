"""The detect stage: what is known to be wrong, and blame against it."""

import json

import numpy as np
import pytest

from lfjax.data.records import Feedback, Message, Record, to_jsonl
from lfjax.errors import UserError
from lfjax.lab.making import phrasebook
from lfjax.lab.oracle import Oracle
from lfjax.lab.phrasebook import Phrasebook
from lfjax.lab.world import faults
from lfjax.recipe import base, detect, recipe
from lfjax.stages.detect import against_truth, wrong_tokens
from lfjax.stages.run import run_recipe

RESPONSE = "one two three"
STARTS, ENDS = (0, 4, 8), (3, 7, 13)


def record(spans=None, refinement=None, meta=None):
    said = Feedback("two is wrong", "negative", spans=spans)
    asked = (Message("user", "count"),)
    return Record("r", "test", asked, RESPONSE, None, (said,), refinement, meta=meta or {})


def test_marked_places_count_before_corrections():
    found = wrong_tokens(record(((4, 7),), "two three"), RESPONSE, STARTS, ENDS)
    assert found.tolist() == [False, True, False]
    found = wrong_tokens(record(None, "two three"), RESPONSE, STARTS, ENDS)
    assert found.tolist() == [True, False, False]
    assert wrong_tokens(record(), RESPONSE, STARTS, ENDS) is None


def test_space_before_the_first_token():
    found = wrong_tokens(record(((0, 3),)), " " + RESPONSE, (0, 4, 8), (4, 8, 14))
    assert found.tolist() == [True, False, False]


def test_a_placebo_marks_what_is_not_wrong():
    """In the lab only what is wrong indeed counts, whatever a judgment calls wrong."""
    world = Phrasebook(seed=1, lines=4)
    prompt = world.prompts("seen", "test", 1)[0]
    right = Oracle().improved(prompt, "", everything=True)
    text = "Yo " + right.partition(" ")[2]
    spans = [p.span for p in world.parts(prompt, text)]
    said = Feedback("wrong: 1 Yo 2 x", "negative", spans=tuple(spans[:2]))
    judged = Record("r", prompt.source, prompt.prompt, text, None, (said,), meta=prompt.meta)
    found = wrong_tokens(judged, text, [a for a, _ in spans], [b for _, b in spans])
    assert found.tolist() == [True, False, False, False]
    assert len(faults(world.parts(prompt, text))) == 1


def test_scores_by_hand():
    row = {
        "response": RESPONSE,
        "start": [*STARTS, 13],
        "end": [*ENDS, 13],
        "log_ratio": np.log([1.2, 1.05, 0.5, 9.0]).tolist(),  # the last one is EOS
        "logp_plain": np.log([0.3, 0.95, 0.2, 0.5]).tolist(),
    }
    scores = against_truth([record(((0, 7),))], [row], 1.1)
    assert scores == {
        "precision": 1.0,
        "recall": 0.5,
        "average_precision": 1.0,
        "blamed": pytest.approx(1 / 3),
        "out_of_reach": 0.5,
    }
    assert against_truth([record()], [row], 1.1) == {}


def test_through_a_recipe(tmp_path):
    phrasebook(tmp_path, seed=0, pretraining=1, feedback=6, evaluated=1)
    prompts = Phrasebook(seed=0).prompts("seen", "train", 6)
    oracle = Oracle("all")
    answers = (oracle.improved(p, "Yo open", everything=False) for p in prompts)
    judged = [
        oracle.judged(Record(p.id, p.source, p.prompt, f"Yo open\n{a}", meta=p.meta))
        for p, a in zip(prompts, answers)
    ]
    path = tmp_path / "judged.jsonl"
    path.write_text(to_jsonl(judged))
    c = base(source="records", path=str(path), model_path=str(tmp_path / "model"))
    c.model.weights = "random"
    c.data.template = "own"
    how = dict(row_tokens=288, max_tokens=144, batch_rows=2)
    run_recipe(recipe(c, blame=detect(data=c.data, init=c.model, **how)), str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "blame" / "results.json").read_text())
    assert results["responses"] == 6 and 0 <= results["scores"]["average_precision"] <= 1
    assert (tmp_path / "run" / "blame" / "blame" / "step-0.html").is_file()


def test_nothing_is_flawed(tmp_path):
    phrasebook(tmp_path, seed=0, pretraining=3, feedback=1, evaluated=1)
    c = base(
        source="records",
        path=str(tmp_path / "fine.jsonl"),
        model_path=str(tmp_path / "model"),
    )
    fine = Record("a", "t", (Message("user", "x"),), "y", None, (Feedback("", "positive"),))
    (tmp_path / "fine.jsonl").write_text(to_jsonl([fine]))
    c.data.template = "own"
    stage = detect(data=c.data, init=c.model)
    with pytest.raises(UserError, match="none of 1 responses is flawed"):
        run_recipe(recipe(c, blame=stage), str(tmp_path / "run"))
