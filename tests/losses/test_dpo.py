"""DPO and its relatives: worked numbers, a float64 oracle, limits, and the loss on rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.plan import make_plan, rows_of
from lfjax.data.rows import Rows, Segment, Unit
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.losses import at_pair, segment_sum
from lfjax.losses.dpo import margin, preference_loss
from lfjax.methods import dpo, get_method

LOGP = np.array([-12.0, -30.0]), np.array([-15.0, -28.0])
REF = np.array([-13.0, -29.0]), np.array([-14.0, -29.5])
SIZE = np.array([6, 10]), np.array([5, 7])

# options, β, loss of each pair, mean
GOLDEN = [
    ({}, 0.01, (0.683197, 0.705725), 0.694461),
    ({}, 0.1, (0.598139, 0.825939), 0.712039),
    ({"label_smoothing": 0.1}, 0.01, (0.685197, 0.703225), 0.694211),
    ({"label_smoothing": 0.1}, 0.1, (0.618139, 0.800939), 0.709539),
    ({"kind": "robust", "label_smoothing": 0.1}, 0.01, (0.680697, 0.708850), 0.694774),
    ({"kind": "robust", "label_smoothing": 0.1}, 0.1, (0.573139, 0.857189), 0.715164),
    ({"kind": "hinge"}, 0.01, (0.98, 1.025), 1.0025),
    ({"kind": "hinge"}, 0.1, (0.8, 1.25), 1.025),
    ({"kind": "ipo", "ipo_average": False}, 0.01, (2304, 2756.25), 2530.125),
    ({"kind": "ipo", "ipo_average": False}, 0.1, (9, 56.25), 32.625),
    ({"kind": "ipo"}, 0.01, (2463.467778, 2531.527347), 2497.497562),
    ({"kind": "ipo"}, 0.1, (21.467778, 28.241633), 24.854705),
    ({"per_token": True}, 0.01, (0.691316, 0.694720), 0.693018),
    ({"per_token": True}, 0.1, (0.674982, 0.708985), 0.691983),
    ({"reference_free": True}, 0.01, (0.678260, 0.703197), 0.690728),
    ({"reference_free": True}, 0.1, (0.554355, 0.798139), 0.676247),
    ({"nll": 1.0}, 0.01, None, 3.319461),
    ({"nll": 1.0}, 0.1, None, 3.337039),
    ({"nll": 1.0, "nll_mean": "sequence"}, 0.1, None, 0.712039 + 2.5),
]


def arrays(both):
    """(chosen, rejected) on the device."""
    return tuple(jnp.asarray(x, jnp.float32) for x in both)


def units(ref=REF, size=SIZE):
    """Two pairs as units of two segments each, after prompts of different lengths."""
    out = []
    for i in range(len(size[0])):
        parts = [
            Segment(
                np.arange(i + 2 + size[side][i], dtype=np.int32),
                i + 2,
                int((Role.CHOSEN, Role.REJECTED)[side]),
                1.0,
                None,
                pair=1 - side,
                ref_logp=float(ref[side][i]),
            )
            for side in (0, 1)
        ]
        out.append(Unit(i, tuple(parts)))
    return out


def rows_and_logp(row_tokens=40, multiple=1, given=None):
    """The pairs in rows, and log-probabilities that add up to `LOGP`: ragged within a response."""
    given = given or units()
    lengths = np.array([u.length for u in given])
    plan = make_plan(
        lengths, row_tokens=row_tokens, seed=0, batch_examples=len(given), multiple=multiple
    )
    rows = rows_of(plan, 0, given, "pair", 2)
    logp = np.full(rows.tokens.shape, -3.0, np.float32)  # what is not learned must not count
    for u, row, offset in zip(plan.unit, plan.row, plan.offset):
        for side, segment in enumerate(given[u].segments):
            n = len(segment.ids) - segment.first
            share = np.arange(1, n + 1) / (n * (n + 1) / 2)
            start = offset + segment.first - 1
            logp[row, start : start + n] = LOGP[side][u] * share
            offset += len(segment.ids)
    return jax.tree.map(jnp.asarray, rows), jnp.asarray(logp)


def loss_of(logp, rows: Rows, **options):
    return dpo.loss(logp, rows, **dpo.METHOD.checked(options))


@pytest.mark.parametrize("options, beta, each, mean", GOLDEN)
def test_golden(options, beta, each, mean):
    """Values of the losses on arrays and of the method on packed rows."""
    rows, logp = rows_and_logp()
    total, _ = loss_of(logp, rows, beta=beta, **options)
    np.testing.assert_allclose(total.mean, mean, rtol=1e-6, atol=2e-6)
    if each is not None:
        full = dpo.OPTIONS | options
        divided = full["per_token"] or (full["kind"] == "ipo" and full["ipo_average"])
        free = full["reference_free"]
        h = margin(*map(arrays, (LOGP, REF, SIZE)), per_token=divided, reference_free=free)
        how = dict(kind=full["kind"], label_smoothing=full["label_smoothing"])
        found = preference_loss(h, beta=beta, **how)
        np.testing.assert_allclose(found, each, rtol=1e-6, atol=1e-6)


def test_metrics_of_the_example():
    rows, logp = rows_and_logp()
    _, metrics = loss_of(logp, rows, beta=0.1)
    expected = {
        "accuracy": 0.5,
        "margin": -0.025,
        "reward_chosen": 0.0,
        "reward_rejected": 0.025,
        "logp_chosen": -21,
        "logp_rejected": -21.5,
        "nll_chosen": 2.625,
        "length_chosen": 8,
        "length_rejected": 6,
        "length_gap": 2,
    }
    found = {name: float(total.mean) for name, total in metrics.items()}
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "beta, expected", [(0.01, (-0.002475, -0.002531)), (0.1, (-0.022508, -0.028109))]
)
def test_golden_gradients(beta, expected):
    """Every token of a response has its response's slope; the sides have opposite ones."""
    rows, logp = rows_and_logp()
    slope = jax.grad(lambda x: loss_of(x, rows, beta=beta)[0].mean)(logp)
    for role, sign in ((Role.CHOSEN, 1), (Role.REJECTED, -1)):
        found = np.asarray(slope)[np.asarray(rows.role) == role]
        assert set(np.round(sign * found, 6)) == set(np.float32(expected).round(6))
    assert (np.asarray(slope)[np.asarray(rows.weight) == 0] == 0).all()


def test_from_logits():
    """A chosen and a rejected completion through softmax to the loss."""
    b, t, v = np.ogrid[:2, :8, :5]
    logits = 0.5 * (((b + 1) * (t + 1) * (v + 2)) % 7)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def total(model, ids):  # position p is predicted by p - 1; the first two ids are the prompt
        return sum(logp[model, p - 1, ids[p]] for p in range(2, len(ids)))

    texts = [0, 1, 2, 3], [0, 1, 4]
    own, ref = ([np.array([total(m, ids)]) for ids in texts] for m in (0, 1))
    np.testing.assert_allclose(
        np.ravel(own + ref), (-6.608748, -1.324011, -5.063517, -2.216415), atol=1e-6
    )
    h = margin(*map(arrays, (own, ref, ([2], [1]))))
    np.testing.assert_allclose(h, -2.437635, atol=1e-6)
    for beta, expected in ((0.01, 0.705410), (0.1, 0.822438)):
        np.testing.assert_allclose(preference_loss(h, beta=beta), expected, atol=1e-6)


@pytest.mark.parametrize("options", [o for o, *_ in GOLDEN])
def test_policy_equal_to_reference(options):
    """Before the first step the margin is zero: ln 2 of the sigmoid, whatever the pair."""
    if options.get("reference_free") or options.get("nll"):
        pytest.skip("the reference does not stand alone in this loss")
    rows, logp = rows_and_logp(given=units(ref=LOGP))
    total, metrics = loss_of(logp, rows, beta=0.1, **options)
    h0 = {"hinge": 1.0, "ipo": 25.0}.get(options.get("kind"), np.log(2))
    np.testing.assert_allclose(total.mean, h0, rtol=1e-6)
    assert metrics["accuracy"].mean == 0  # ties are no wins


def test_length_penalty_discounts_longer_choices():
    rows, logp = rows_and_logp()
    total, _ = loss_of(logp, rows, beta=0.1, length_penalty=0.05)
    x = 0.1 * np.array([2, -2.5]) + 0.05 * np.array([1, 3])
    np.testing.assert_allclose(total.mean, np.log1p(np.exp(-x)).mean(), rtol=1e-5)


@pytest.mark.parametrize("nll", [0.0, 0.7])
def test_rows_do_not_matter(nll):
    """One row, two rows, and filler rows give the same loss and the same slopes."""
    found = []
    for row_tokens, multiple in ((40, 1), (24, 1), (24, 4)):
        rows, logp = rows_and_logp(row_tokens, multiple)
        value, slope = jax.value_and_grad(
            lambda x, r=rows: loss_of(x, r, beta=0.3, nll=nll)[0].mean
        )(logp)
        found.append((float(value), np.sort(np.asarray(slope)[np.asarray(rows.weight) > 0])))
    for value, slopes in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-6)
        np.testing.assert_allclose(slopes, found[0][1], rtol=1e-5)


def test_sums_of_segments():
    values = jnp.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    segment = jnp.array([[1, 1, 2, 0], [1, 2, 3, 3]])
    found = segment_sum(values, segment, 3)
    assert found.tolist() == [[3, 4, 0], [16, 32, 192]]
    pair = jnp.array([[1, 0, -1], [-1, 2, 1]])
    assert at_pair(found, pair).tolist() == [[4, 3, 0], [0, 192, 32]]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"kind": "sigmoud"}, "sigmoid"),
        ({"beta": 0}, "more than 0"),
        ({"label_smoothing": 0.5}, "under 0.5"),
        ({"nll_mean": "batch"}, "token or sequence"),
        ({"bata": 1}, "beta"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        get_method("dpo").checked(options)


def test_normalisation_is_by_pairs():
    with pytest.raises(UserError, match="expected pair"):
        get_method("dpo").checked_normalize("token")
    with pytest.raises(UserError, match="example or token"):
        get_method("cut").checked_normalize("pair")
