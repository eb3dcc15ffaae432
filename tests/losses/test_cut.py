"""CUT's loss: worked numbers, the authors' batch example, limits, and a float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.data.records import Feedback, Message, Record
from lfjax.data.rows import Rows
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.losses.cut import blamed, log1m_exp, misalign_loss
from lfjax.methods import cut

Y = np.array([2, 3, 1])
JUDGED = np.log([[0.2, 0.2, 0.5, 0.1], [0.1, 0.11, 0.1, 0.69], [0.3, 0.2, 0.4, 0.1]])
PLAIN = np.log([[0.25, 0.3, 0.25, 0.2], [0.15, 0.15, 0.1, 0.6], [0.3, 0.3, 0.25, 0.15]])
Y_GOOD = np.array([0, 2])
GOOD = np.log([[0.65, 0.15, 0.1, 0.1], [0.05, 0.05, 0.85, 0.05]])

L2 = 0.8912162581
# threshold, alpha, gamma, L1, code's (L1 + L2) / 2, paper's L1 + L2
GOLDEN = [
    (1.1, 1.0, 0.0, 0.8026485362, 0.8469323972, 1.6938647943),
    (1.2, 0.5, 0.0, 0.6195464881, 0.7553813731, 1.5107627462),
    (1.1, 0.5, 0.0, 0.6019864022, 0.7466013301, 1.4932026603),
    (1.1, 1.0, 1.0, 0.6600181485, None, 1.5512344066),
    (1.1, 0.5, 1.0, 0.5306712083, None, 1.4218874664),
    (1.1, 1.0, 2.0, 0.5707131133, None, 1.4619293714),
    (1.1, 0.5, 0.5, 0.5620826331, None, 1.4532988913),
    (1.2, 1.0, 0.0, 0.6674935002, 0.7793548792, 1.5587097583),
    (1e9, 1.0, 0.0, 1.0336975964, None, None),  # nothing is blamed: negative log-likelihood
    (0.0, 1.0, 0.0, 0.5202159161, None, None),  # everything is
]
CODE_PLAIN = [
    [-0.0138888889, -0.0166666667, 0.0416666667, -0.0111111111],
    [-0.0375, -0.0375, -0.025, 0.1],
    [0.05, -0.1166666667, 0.0416666667, 0.025],
]
CODE_JUDGED = [
    [0.0333333333, 0.0333333333, -0.0833333333, 0.0166666667],
    [0.0166666667, 0.0183333333, 0.0166666667, -0.0516666667],
    [0.05, -0.1333333333, 0.0666666667, 0.0166666667],
]
PAPER_PLAIN = [
    [-0.0069444444, -0.0083333333, 0.0208333333, -0.0055555556],
    [-0.025875, -0.025875, -0.01725, 0.069],
    [0.1, -0.2333333333, 0.0833333333, 0.05],
]

near = dict(rtol=0, atol=1e-6)

FLAWED = Record(
    "n",
    "test",
    (Message("user", "x"),),
    "y",
    feedback=(Feedback("bad", "negative"),),
)
SATISFACTORY = Record(
    "p",
    "test",
    (Message("user", "x"),),
    "y",
    feedback=(Feedback("good", "positive"),),
)


def logp_of(logits, targets):
    """Log-probabilities of the targets, in float32."""
    logp = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    return jnp.take_along_axis(logp, jnp.asarray(targets)[:, None], axis=1)[:, 0]


def options(**changed):
    return cut.OPTIONS | changed


def loss_of(logp, rows, **changed):
    rows = jax.tree.map(jnp.asarray, rows)
    return cut.METHOD.loss(jnp.asarray(logp), rows, **options(**changed))


class Batch:
    """Rows filled by hand, and where each response's log-probabilities go."""

    def __init__(self, b=2, t=24):
        self.rows, self.at = Rows.empty(b, t), []

    def add(self, record, row, starts, length, **changed):
        """A record's views at the given positions, weighted as the method says."""
        views = cut.METHOD.views(record, **options(**changed))
        here = [np.arange(start, start + length) for start in starts]
        for view, at in zip(views, here, strict=True):
            self.rows.role[row, at] = view.role
            self.rows.weight[row, at] = view.weight / length
            if view.twin is not None:
                self.rows.twin[row, at] = here[view.twin]
        self.rows.mass[row] += 1
        self.at += [(row, at) for at in here]
        return self

    def fill(self, *parts, junk=0):
        """[b, t] log-probabilities: the parts in the order in which they were added, junk
        elsewhere."""
        rng = np.random.default_rng(junk)
        logp = jnp.asarray(-5 * rng.random(self.rows.tokens.shape), jnp.float32)
        for (row, at), part in zip(self.at, parts, strict=True):
            logp = logp.at[row, at].set(part)
        return logp


N_PARTS = logp_of(PLAIN, Y), logp_of(JUDGED, Y)
P_PARTS = (logp_of(GOOD, Y_GOOD),)


def n_alone(**changed):
    """The flawed example: the plain response predicted at 0-2, the judged one at 10-12."""
    return Batch().add(FLAWED, 0, (0, 10), 3, **changed)


@pytest.mark.parametrize("threshold, alpha, gamma, l1, code, paper", GOLDEN)
def test_golden(threshold, alpha, gamma, l1, code, paper):
    plain, judged = N_PARTS
    in_u = blamed(judged, plain, threshold)
    found = misalign_loss(judged, plain, in_u, alpha=alpha, gamma=gamma).mean()
    np.testing.assert_allclose(found, l1, **near)
    np.testing.assert_allclose(-judged.mean(), L2, **near)
    for mode, expected in (("code", code), ("paper", paper)):
        if expected is not None:
            batch = n_alone(mode=mode)
            chosen = dict(threshold=threshold, alpha=alpha, gamma=gamma)
            total, metrics = loss_of(batch.fill(*N_PARTS), batch.rows, mode=mode, **chosen)
            np.testing.assert_allclose(total.mean, expected, **near)
            np.testing.assert_allclose(metrics["misalign"].mean, l1, **near)
            np.testing.assert_allclose(metrics["nll_judged"].mean, L2, **near)


def test_blamed_of_the_example():
    plain, judged = N_PARTS
    assert blamed(judged, plain, 1.1).tolist() == [True, True, False]
    assert blamed(judged, plain, 1.2).tolist() == [True, False, False]
    assert not blamed(plain, plain, 1.0).any()  # strictly more than


@pytest.mark.parametrize(
    "mode, alpha, gamma, plain, judged",
    [
        ("code", 1.0, 0.0, CODE_PLAIN, CODE_JUDGED),
        ("paper", 0.5, 1.0, PAPER_PLAIN, 2 * np.array(CODE_JUDGED)),
    ],
)
def test_golden_gradients(mode, alpha, gamma, plain, judged):
    batch = n_alone(mode=mode)

    def loss(plain_logits, judged_logits):
        logp = batch.fill(logp_of(plain_logits, Y), logp_of(judged_logits, Y))
        return loss_of(logp, batch.rows, mode=mode, alpha=alpha, gamma=gamma)[0].mean

    found = jax.grad(loss, (0, 1))(jnp.float32(PLAIN), jnp.float32(JUDGED))
    np.testing.assert_allclose(found[0], plain, **near)
    np.testing.assert_allclose(found[1], judged, **near)
    np.testing.assert_allclose(np.sum(found, axis=-1), 0, **near)
    assert found[0][0, 2] > 0 and found[0][1, 3] > 0  # descent lowers blamed targets


# --- the packed batch -------------------------------------------------------------------------


def both(mode, n_at=(0, 0, 10), p_at=(1, 1)):
    """Flawed and satisfactory example at (row, start, …)."""
    batch = Batch().add(FLAWED, n_at[0], n_at[1:], 3, mode=mode)
    return batch.add(SATISFACTORY, p_at[0], p_at[1:], 2, mode=mode)


@pytest.mark.parametrize("junk", [0, 1])
@pytest.mark.parametrize("layout", [{}, dict(n_at=(1, 2, 7), p_at=(0, 0)), dict(p_at=(0, 20))])
def test_packed_batch(layout, junk):
    """Where examples stand, and what is in between, changes nothing."""
    for mode, expected in (("code", 0.5717916600), ("paper", 0.9952578586)):
        batch = both(mode, **layout)
        total, metrics = loss_of(batch.fill(*N_PARTS, *P_PARTS, junk=junk), batch.rows, mode=mode)
        np.testing.assert_allclose(total.mean, expected, **near)
        np.testing.assert_allclose(total.weight, 2)
        np.testing.assert_allclose(metrics["blamed"], (2, 3))
        np.testing.assert_allclose(metrics["nll_satisfactory"].mean, 0.2966509228, **near)
        np.testing.assert_allclose(metrics["misalign"].mean, 0.8026485362, **near)


@pytest.mark.parametrize("junk", [np.nan, -np.inf, 0.0])
def test_what_is_not_supervised_is_not_read(junk):
    batch = both("code")

    def loss(logp):
        total, metrics = loss_of(logp, batch.rows)
        return total.mean, metrics

    supervised = batch.rows.role > 0
    logp = jnp.where(supervised, batch.fill(*N_PARTS, *P_PARTS), junk)
    (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(logp)
    np.testing.assert_allclose(value, 0.5717916600, **near)
    assert all(np.isfinite(m.mean) for m in metrics.values())
    if not np.isnan(junk):
        assert not np.asarray(grad)[~supervised].any() and np.asarray(grad)[supervised].all()


def test_one_micro_batch_of_the_released_code():
    """NLL is a mean over the 5 tokens of both examples there, and any flawed one halves it."""
    batch = both("code")
    role = batch.rows.role
    batch.rows.weight[role == Role.FLAWED] = 0.5 / 3
    batch.rows.weight[(role == Role.JUDGED) | (role == Role.PLAIN)] = 0.5 / 5
    batch.rows.mass[:] = [1, 0]
    total, metrics = loss_of(batch.fill(*N_PARTS, *P_PARTS), batch.rows)
    np.testing.assert_allclose(total.mean, 0.7280193301, **near)
    nll = metrics["nll_judged"] + metrics["nll_satisfactory"]
    np.testing.assert_allclose(nll.mean, 0.6533901240, **near)


def test_satisfactory_only():
    batch = Batch().add(SATISFACTORY, 0, (3,), 2).add(SATISFACTORY, 1, (5,), 2)
    logp = batch.fill(*P_PARTS, *P_PARTS)
    value, grad = jax.value_and_grad(lambda x: loss_of(x, batch.rows)[0].mean)(logp)
    np.testing.assert_allclose(value, 0.2966509228, **near)
    np.testing.assert_allclose(grad, np.where(batch.rows.role > 0, -0.25, 0.0), **near)
    metrics = loss_of(logp, batch.rows)[1]
    for name in ("blamed", "misalign", "log_ratio", "p_blamed", "nll_judged"):
        assert metrics[name].mean == 0 and metrics[name].weight == 0


def test_filler_rows_weigh_nothing():
    rows = Rows.empty(2, 4)
    value, grad = jax.value_and_grad(lambda x: loss_of(x, rows)[0].mean)(jnp.full((2, 4), -1.0))
    assert value == 0 and not grad.any()


# --- numerics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, gamma", [("code", 0.0), ("paper", 1.0), ("paper", 0.25)])
@pytest.mark.parametrize("detect", ["ratio", "all"])
@pytest.mark.parametrize("which", ["plain", "judged", "both"])
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_probabilities(mode, gamma, detect, which, logit):
    """A target's probability is 0 or exactly 1 in float32: value and gradient stay finite."""
    batch = n_alone(mode=mode)

    def loss(plain, judged):
        logp = batch.fill(logp_of(plain, Y), logp_of(judged, Y))
        return loss_of(logp, batch.rows, mode=mode, gamma=gamma, detect=detect)[0].mean

    sure = np.zeros_like(PLAIN)
    sure[np.arange(3), Y] = logit
    plain = sure if which in ("plain", "both") else PLAIN
    judged = sure if which in ("judged", "both") else JUDGED
    if logit > 0:
        assert (logp_of(sure, Y) == 0.0).all()
    value, grad = jax.value_and_grad(loss, (0, 1))(jnp.float32(plain), jnp.float32(judged))
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grad)


def test_log1m_exp():
    logp = np.float32([-1e-6, -1e-4, -0.1, -0.5, -0.6931, -0.7, -1, -5, -20, -80, -200])
    wide = logp.astype(np.float64)
    exact = np.where(wide > -0.5, np.log(-np.expm1(wide)), np.log1p(-np.exp(wide)))
    np.testing.assert_allclose(log1m_exp(jnp.array(logp)), exact, rtol=1e-6, atol=1e-37)
    slope = np.exp(wide) / np.expm1(wide)
    found = jax.vmap(jax.grad(log1m_exp))(jnp.array(logp[1:]))
    np.testing.assert_allclose(found, slope[1:], rtol=1e-6, atol=1e-37)
    assert jax.grad(log1m_exp)(0.0) == 0 and log1m_exp(jnp.zeros(())) == log1m_exp(jnp.array(-1e-6))


def test_bounds_that_follow_from_the_rule():
    """With λ > 1 a blamed token costs at most log(λ / (λ - 1)); a sure one is never blamed."""
    rng = np.random.default_rng(0)
    judged, plain = jnp.log(jnp.asarray(rng.random((2, 20_000)), jnp.float32))
    for threshold, bound in ((1.1, 2.398), (1.2, 1.792)):
        in_u = blamed(judged, plain, threshold)
        cost = misalign_loss(judged, plain, in_u, alpha=1.0, gamma=0.0)
        assert 0.9 * bound < cost[in_u].max() < bound
        assert jnp.exp(plain[in_u]).max() < 1 / threshold


# --- a float64 oracle -------------------------------------------------------------------------


def oracle(plain, judged, praised, *, threshold, alpha, gamma, detect, misalign, mode, **_):
    """Loss of one flawed response and its gradients by the log-probabilities of its three views."""
    compared = praised if misalign == "fake_positive" else plain
    in_u = judged - compared > np.log(threshold)
    in_u |= detect == "all"
    w = alpha * np.exp(gamma * judged)
    n, half = len(plain), 0.5 if mode == "code" else 1.0
    l1 = np.where(in_u, -w * np.log1p(-np.exp(plain)), -plain).mean()
    d_plain = np.where(in_u, w * np.exp(plain) / -np.expm1(plain), -1.0) / n
    gradients = half * d_plain, np.full(n, -half / n), np.zeros(n)
    return half * (l1 - judged.mean()), gradients, in_u.mean()


@pytest.mark.parametrize("threshold", [0.8, 1.1, 2.0])
@pytest.mark.parametrize("mode, alpha, gamma", [("code", 0.7, 0.0), ("paper", 1.3, 0.6)])
@pytest.mark.parametrize("detect", ["ratio", "all"])
@pytest.mark.parametrize("misalign", ["none", "fake_positive"])
def test_oracle(threshold, mode, alpha, gamma, detect, misalign):
    chosen = dict(threshold=threshold, mode=mode, alpha=alpha, gamma=gamma)
    chosen |= dict(detect=detect, misalign=misalign)
    n = 40
    rng = np.random.default_rng(7)
    parts = np.log(rng.uniform(0.01, 0.95, (3, n))).astype(np.float32)
    value, gradients, share = oracle(*parts.astype(np.float64), **options(**chosen))
    views = 3 if misalign == "fake_positive" else 2
    batch = Batch(1, 3 * n).add(FLAWED, 0, range(0, views * n, n), n, **chosen)

    def loss(parts):
        total, metrics = loss_of(batch.fill(*parts), batch.rows, **chosen)
        return total.mean, metrics

    (found, metrics), grad = jax.value_and_grad(loss, has_aux=True)(jnp.array(parts[:views]))
    np.testing.assert_allclose(found, value, **near)
    for part, expected in zip(grad, gradients):
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics["blamed"].mean, share, rtol=1e-6)
    # no gradient through the criterion and the weight: exact, not merely small
    assert np.ptp(grad[1]) == 0 and (views == 2 or not grad[2].any())


def test_judged_probabilities_are_constants():
    """Criterion and weight: no gradient reaches them from the array loss either."""
    plain, judged = N_PARTS

    def loss(judged):
        in_u = blamed(judged, plain, 1.1)
        return misalign_loss(judged, plain, in_u, alpha=1.0, gamma=2.0).sum()

    assert not jax.grad(loss)(judged).any()


def test_fake_positive_differs_from_none():
    """The oracle's inputs would not notice if both compared with the same view."""
    rng = np.random.default_rng(7)
    plain, judged, praised = jnp.log(rng.uniform(0.01, 0.95, (3, 40)))
    assert (blamed(judged, plain, 1.1) != blamed(judged, praised, 1.1)).sum() > 5


def test_toy_figure_of_the_paper():
    judged = jnp.log(jnp.array([0.82, 0.94, 0.76, 0.99, 0.02, 0.89]))
    plain = jnp.log(jnp.array([0.03, 0.94, 0.93, 0.99, 0.03, 0.85]))
    in_u = blamed(judged, plain, 1.1)
    assert in_u.tolist() == [True] + [False] * 5
    for gamma, l1 in ((0.0, 0.6406720778), (1.0, 0.6397583016)):
        found = misalign_loss(judged, plain, in_u, alpha=1.0, gamma=gamma).mean()
        np.testing.assert_allclose(found, l1, **near)
    np.testing.assert_allclose(-judged.mean(), 0.7622283909, **near)


# --- ablations and options --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_without_l1(mode):
    """Hindsight: the judged view alone, its L2 in full."""
    batch = Batch().add(FLAWED, 0, (10,), 3, mode=mode, use_l1=False)
    total, metrics = loss_of(batch.fill(N_PARTS[1]), batch.rows, mode=mode, use_l1=False)
    np.testing.assert_allclose(total.mean, L2, **near)
    assert metrics["blamed"].weight == 0


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_without_align_n(mode):
    """L1 in full; the judged view serves detection only."""
    batch = n_alone(mode=mode, use_align_n=False)

    def loss(logp):
        total, metrics = loss_of(logp, batch.rows, mode=mode, use_align_n=False)
        return total.mean, metrics

    logp = batch.fill(*N_PARTS)
    (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(logp)
    np.testing.assert_allclose(value, 0.8026485362, **near)
    np.testing.assert_allclose(metrics["blamed"].mean, 2 / 3, **near)
    assert not np.asarray(grad)[batch.rows.role == Role.JUDGED].any()


def test_what_is_left_out():
    assert cut.METHOD.views(SATISFACTORY, **options(use_align_p=False)) == []
    assert cut.METHOD.views(FLAWED, **options(use_l1=False, use_align_n=False)) == []
    assert len(cut.METHOD.views(FLAWED, **options(use_align_p=False))) == 2


@pytest.mark.parametrize("name", ["mode", "detect", "misalign"])
def test_unknown_choice(name):
    with pytest.raises(UserError, match=f"{name}='odd': expected .* or "):
        cut.METHOD.check(**options(**{name: "odd"}))
