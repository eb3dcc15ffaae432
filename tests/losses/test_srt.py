"""SRT's first stage: worked values of its loss under every mask and mean, and its schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.rows import Rows, Segment, Unit, place
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.methods import get_method
from lfjax.training.optimizer import make_schedule

IDS = [0, 1, 2, 3, 4, 2, 1, 4], [0, 3, 1, 4, 2, 4]
COUNTS = (2, 2, 2), (1, 1, 2)  # targets of response, feedback, refinement with EOS
ROLES = Role.DRAFT, Role.CRITIQUE, Role.REFINED

# weights of the three parts -> sums of each example, then Equation 1, token mean, mean of means
GOLDEN = [
    ((1, 1, 1), (12.374162, 7.695355), 10.034758, 2.006952, 1.993100),
    ((0, 1, 1), (5.765413, 6.478940), 6.122177, 1.749193, 1.800500),
    ((0, 0, 1), (2.956540, 3.631839), 3.294189, 1.647095, 1.647095),
]


def logprobs():
    """Of targets under logits[b, t, v] = ½ ((b+1)(t+1)(v+2) mod 7), in float64."""
    b, t, v = np.ogrid[0:2, 0:8, 0:5]
    logits = 0.5 * (((b + 1) * (t + 1) * (v + 2)) % 7)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def rows_of(weights, normalize):
    rows = Rows.empty(2, 8)
    for row, (ids, counts) in enumerate(zip(IDS, COUNTS)):
        spans = tuple((n, int(r), float(w)) for n, r, w in zip(counts, ROLES, weights))
        segment = Segment(np.array(ids, np.int32), 2, int(Role.REFINED), 1.0, None, spans=spans)
        place(rows, Unit(row, (segment,)), row, 0, 1, normalize)
    return jax.tree.map(jnp.asarray, rows)


def losses(weights, normalize, hole=0.0):
    """(the method's loss, its metrics). `hole` stands where nothing is a target."""
    rows = rows_of(weights, normalize)
    logp = np.take_along_axis(logprobs(), np.asarray(rows.targets)[..., None], -1)[..., 0]
    logp = np.where(np.asarray(rows.role) > 0, logp, hole)
    method = get_method("srt")
    return method.loss(jnp.asarray(logp, jnp.float32), rows, **method.options)


@pytest.mark.parametrize("weights, sums, summed, token, example", GOLDEN)
def test_golden(weights, sums, summed, token, example):
    """Without it Equation 1 learns other tokens than the paper's, or weighs them otherwise."""
    means = {"sum": summed, "token": token, "example": example}
    for normalize, expected in means.items():
        total, _ = losses(weights, normalize, hole=np.nan)
        np.testing.assert_allclose(total.mean, expected, rtol=1e-6, atol=1e-6)
    total, _ = losses(weights, "sum")
    np.testing.assert_allclose(total.sum, sum(sums), rtol=1e-6)


def test_metrics_tell_the_parts_apart():
    total, metrics = losses((0, 1, 1), "token")
    found = {name: (float(m.sum), float(m.weight)) for name, m in metrics.items()}
    np.testing.assert_allclose(found["nll_response"], (12.374162 - 5.765413 + 1.216415, 3), 1e-6)
    np.testing.assert_allclose(found["nll_refinement"], (2.956540 + 3.631839, 4), rtol=1e-6)
    np.testing.assert_allclose(metrics["nll"].mean, total.mean, rtol=1e-6)


@pytest.mark.parametrize(
    "peak, steps, warmup, at",
    [
        (1e-5, 3440, 344, {172: 5e-6, 344: 1e-5, 1720: 5.868241e-6, 3440: 0.0}),
        (5e-7, 1969, 197, {98: 2.487310e-7, 197: 5e-7, 984: 2.936545e-7, 1969: 0.0}),
    ],
)
def test_schedules(peak, steps, warmup, at):
    schedule = make_schedule(peak, steps, warmup_steps=warmup, decay="cosine")
    for step, expected in at.items():
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(leave_out="scores"), "leave_out='scores'"),
        (dict(leave_out="draft", loss_on_response=False), "shows no response"),
    ],
)
def test_options(options, said):
    with pytest.raises(UserError, match=said):
        get_method("srt").checked(options)
