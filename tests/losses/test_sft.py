"""Maximum likelihood of one text or another, and the baselines that it is."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.plan import make_plan, rows_of
from lfjax.data.records import Candidate, Feedback, Message, Record, RecordError
from lfjax.data.rows import Segment, Unit
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.methods import METHODS, get_method

FLAWED = Record(
    "n",
    "test",
    (Message("user", "x"),),
    "bad",
    feedback=(Feedback("It is bad.", "negative"),),
    refinement="good",
)
PRAISED = replace(FLAWED, id="p", response="fine", refinement=None)
PRAISED = replace(PRAISED, feedback=(Feedback("", "positive"),))
COMPARED = replace(PRAISED, candidates=(Candidate("low", score=1.0), Candidate("high", score=2.0)))


def shown(name, record, **options):
    """(role, response) of every view."""
    method = get_method(name)
    views = method.views_of(method.checked(options))(record)
    return [(v.role, v.response) for v in views]


@pytest.mark.parametrize(
    "name, options, flawed, praised",
    [
        ("sft", {}, [(Role.PLAIN, "bad")], [(Role.PLAIN, "fine")]),
        ("sft", {"satisfactory_only": True}, [], [(Role.PLAIN, "fine")]),
        ("sft", {"target": "refine"}, [(Role.REFINED, "good")], []),
        ("ilf_mle", {}, [(Role.PLAIN, "good")], []),
        ("critique_sft", {}, [(Role.CRITIQUE, "It is bad.")], []),
        (
            "forward_prediction",
            {},
            [(Role.PLAIN, "bad"), (Role.CRITIQUE, "It is bad.")],
            [(Role.PLAIN, "fine")],
        ),
        ("hindsight", {}, [(Role.JUDGED, "bad")], [(Role.PLAIN, "fine")]),
        (
            "unlikelihood",
            {},
            [(Role.FLAWED, "bad"), (Role.JUDGED, "bad")],
            [(Role.PLAIN, "fine")],
        ),
        ("dpo", {}, [(Role.CHOSEN, "good"), (Role.REJECTED, "bad")], []),
    ],
)
def test_what_is_learned_of(name, options, flawed, praised):
    assert shown(name, FLAWED, **options) == flawed
    assert shown(name, PRAISED, **options) == praised


def test_the_best_candidate():
    assert shown("best_of_n", COMPARED) == [(Role.PLAIN, "high")]


@pytest.mark.parametrize("name", ["ilf_mle", "critique_sft", "dpo"])
def test_a_flawed_record_without_it(name):
    lacking = replace(FLAWED, refinement=None, feedback=(Feedback("", "negative"),))
    with pytest.raises(RecordError, match="record 'n' of test"):
        shown(name, lacking)


def test_unknown_target():
    with pytest.raises(UserError, match="'critique'"):
        get_method("sft").checked({"target": "critic"})


def test_forward_prediction_averages_each_text_over_its_own_tokens():
    """−1/N Σ log p(y) − 1/Q Σ log p(j), whatever the lengths."""
    response = Segment(np.arange(5, dtype=np.int32), 2, int(Role.PLAIN), 1.0, None)
    critique = Segment(np.arange(9, dtype=np.int32), 2, int(Role.CRITIQUE), 1.0, None)
    unit = Unit(0, (response, critique))
    plan = make_plan(np.array([unit.length]), row_tokens=20, seed=0, batch_examples=1)
    method = METHODS["forward_prediction"]
    rows = jax.tree.map(jnp.asarray, rows_of(plan, 0, [unit], method.normalize))
    logp = jnp.asarray(-np.random.default_rng(0).random((1, 20)), jnp.float32)
    total, metrics = method.loss(logp, rows, **method.options)
    expected = -logp[0, 1:4].mean() - logp[0, 6:13].mean()
    np.testing.assert_allclose(total.mean, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["nll_critique"].mean, -logp[0, 6:13].mean(), rtol=1e-6)
