"""The train step: the same numbers however a batch is cut, one compilation a shape, no large
collective in a loop, and no update from what is not finite.

Batches are dicts of the fields of Rows, whose types hold for arrays, not for what tree.map may put
there.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lfjax.data.plan import make_plan, rows_of
from lfjax.data.rows import Rows, Segment, Unit, place
from lfjax.data.views import Role
from lfjax.losses import Total
from lfjax.methods import cut
from lfjax.models.decoder import Decoder, abstract_params, logprob_fn
from lfjax.sharding import BATCH, put, tree_shardings
from lfjax.training.optimizer import make_optimizer
from lfjax.training.step import (
    abstract_state,
    batch_shardings,
    init_state,
    jit_train_step,
    make_train_step,
    new_state,
    sum_and_grad,
)
from tests.losses.meshes import difference, mesh_of
from tests.models.small import lively_params, small
from tests.training.hlo import collectives

P = jax.sharding.PartitionSpec
CONFIG = small()
RATE = jnp.float32(0.1)
ADAM = dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0, mu_dtype="float32")


def cut_loss(config, *, chunk=10):
    """(params, fields of rows) -> CUT's loss and metrics."""
    logprobs = logprob_fn(Decoder(config, remat="context"), chunk=chunk)

    def loss_fn(params, fields, *_):
        rows = Rows(**fields)
        return cut.METHOD.loss(logprobs(params, rows), rows, **cut.OPTIONS)

    return loss_fn


def examples(n: int, vocab_size: int = CONFIG.vocab_size) -> list[Unit]:
    """Ragged examples, flawed and satisfactory ones in turn."""
    rng = np.random.default_rng(3)

    def text(response, role, weight, twin):
        prompt = rng.integers(0, vocab_size, rng.integers(1, 12))
        ids = np.concatenate([prompt, response]).astype(np.int32)
        return Segment(ids, len(prompt), int(role), weight, twin)

    units = []
    for i in range(n):
        response = rng.integers(0, vocab_size, rng.integers(2, 14))
        if i % 2:
            segments = (text(response, Role.PLAIN, 1.0, None),)
        else:
            segments = (text(response, Role.FLAWED, 0.5, 1), text(response, Role.JUDGED, 0.5, 0))
        units.append(Unit(i, segments))
    return units


# --- however a batch is cut -------------------------------------------------------------------


def unpacked(units) -> Rows:
    """One example a row."""
    rows, number = Rows.empty(len(units), 48), 1
    for row, unit in enumerate(units):
        number = place(rows, unit, row, 0, number, "token")
    return rows


def packed(units, multiple: int) -> Rows:
    """As few rows as hold the examples, and filler to a multiple."""
    lengths = np.array([unit.length for unit in units])
    plan = make_plan(lengths, row_tokens=90, seed=0, batch_examples=len(units), multiple=multiple)
    return rows_of(plan, 0, units, "token")


def computed(rows: Rows, shape=(1, 1, 1), micro_batches=1):
    """(loss, metrics), gradients on a mesh, parameters and rows sharded as in training."""
    mesh = mesh_of(shape)
    fn = jax.jit(sum_and_grad(cut_loss(CONFIG), micro_batches))
    params = lively_params(CONFIG)
    params = jax.tree.map(jax.device_put, params, tree_shardings(params, mesh))
    with jax.set_mesh(mesh):
        return jax.device_get(fn(params, put(vars(rows), mesh, P(BATCH))))


@pytest.fixture(scope="module")
def expected():
    """One example a row, all at once, on one device."""
    rows = unpacked(examples(8))
    assert len(set(rows.mass.tolist())) > 4  # averaging means of micro-batches would show
    (loss, metrics), grads = computed(rows)
    assert loss.weight == rows.mass.sum() and 0.2 < metrics["blamed"].mean < 0.8
    return (loss, metrics), grads


def compare(found, expected):
    (loss, metrics), grads = found
    (expected_loss, expected_metrics), expected_grads = expected
    print(f"loss {difference(loss, expected_loss):.1e}, gradients", end=" ")
    print(f"{difference(grads, expected_grads):.1e}")
    assert difference(loss, expected_loss) < 1e-5
    assert difference(metrics, expected_metrics) < 1e-5
    assert difference(grads, expected_grads) < 1e-5


@pytest.mark.parametrize(
    "shape, micro_batches",
    [
        ((1, 1, 1), 2),
        ((1, 1, 1), 8),
        ((2, 1, 1), 1),
        ((1, 2, 1), 1),
        ((1, 1, 2), 1),
        ((2, 2, 1), 1),
        ((1, 2, 2), 4),
        ((8, 1, 1), 1),
        ((1, 8, 1), 1),
        ((1, 1, 8), 8),
        ((2, 2, 2), 1),
        ((2, 2, 2), 2),
        ((1, 2, 1, 4), 1),
        ((1, 1, 2, 2), 2),
    ],
    ids=str,
)
def test_devices_and_micro_batches(shape, micro_batches, expected):
    compare(computed(unpacked(examples(8)), shape, micro_batches), expected)


@pytest.mark.parametrize("shape, micro_batches", [((1, 1, 1), 1), ((2, 2, 2), 2)], ids=str)
def test_packing(shape, micro_batches, expected):
    rows = packed(examples(8), multiple=4 * micro_batches)
    assert (rows.mass == 0).any() and rows.segment.max(axis=1).max() > 2
    compare(computed(rows, shape, micro_batches), expected)


def test_rows_that_do_not_split():
    fn = sum_and_grad(cut_loss(CONFIG), micro_batches=3)
    with pytest.raises(ValueError, match="8 rows do not split into 3 micro-batches"):
        fn(abstract_params(CONFIG), vars(unpacked(examples(8))))


# --- compilation ------------------------------------------------------------------------------


def training(config, mesh, loss_fn, micro_batches=1):
    """The compiled-on-demand step and an abstract state, as the train stage makes them."""
    tx = make_optimizer(ConfigDict(ADAM))
    abstract = abstract_state(abstract_params(config), tx, mesh)
    shardings = jax.tree.map(lambda s: s.sharding, abstract)
    rows = batch_shardings(vars(Rows.empty(1, 1)), mesh)
    step = jit_train_step(make_train_step(loss_fn, tx, micro_batches), shardings, rows, mesh)
    return step, abstract, tx


def test_seq_splits_what_a_long_row_needs():
    """A row over four devices takes each less than a third of the temporaries; heads are exchanged
    for tokens around attention, and parameters stay as they are."""
    config, rows = small(d_model=64, d_mlp=256, n_layers=4, head_dim=8), vars(Rows.empty(2, 1024))
    taken = []
    for seq in (1, 4):
        mesh = mesh_of((1, 1, 1, seq))
        with jax.set_mesh(mesh):
            step, abstract, _ = training(config, mesh, cut_loss(config, chunk=64))
            compiled = step.lower(abstract, rows, np.float32(0), None, None).compile()
        taken.append(compiled.memory_analysis())
    assert 3 * taken[1].temp_size_in_bytes < taken[0].temp_size_in_bytes
    assert taken[1].argument_size_in_bytes == taken[0].argument_size_in_bytes
    assert "all-to-all" in compiled.as_text()


def test_compiles_once_a_shape():
    units = examples(30)
    lengths = np.array([unit.length for unit in units])
    plan = make_plan(lengths, row_tokens=48, seed=0, batch_examples=4, multiple=2, steps=12)
    assert len(plan.shapes) == 2
    mesh, loss_fn, traces = mesh_of((1, 2, 2)), cut_loss(CONFIG), []
    params = lively_params(CONFIG)

    def counted(params, fields, *_):
        traces.append(fields["tokens"].shape)
        return loss_fn(params, fields)

    with jax.set_mesh(mesh):
        step, abstract, tx = training(CONFIG, mesh, counted)
        shardings = jax.tree.map(lambda s: s.sharding, abstract)
        state = new_state(jax.tree.map(jax.device_put, params, shardings.params), tx, shardings)
        for n in range(plan.steps):
            rows = rows_of(plan, n, units, "example")
            state, metrics = step(
                state, put(vars(rows), mesh, P(BATCH)), np.float32(1e-2), None, None
            )
            assert metrics["finite"].mean == 1
            assert metrics["loss"].weight == len(plan.units_of(n))
    assert int(state.step) == plan.steps
    assert sorted(traces) == [(n, 48) for n in plan.shapes]
    assert step._cache_size() == len(plan.shapes)
    assert jax.tree.map(lambda x: x.sharding, state) == shardings


# --- what goes between devices ----------------------------------------------------------------

WORDS = 4096  # so that the head is far larger than a layer


def step_collectives(tied: bool, micro_batches: int):
    """Collectives of a compiled step on data 2 × fsdp 2 × tensor 2, and the bytes of the head that
    one device holds after gathering it over fsdp."""
    config, mesh = small(vocab_size=WORDS, tied=tied), mesh_of((2, 2, 2))
    rows = vars(Rows.empty(8 * micro_batches, 64))
    with jax.set_mesh(mesh):
        step, state, _ = training(config, mesh, cut_loss(config, chunk=16), micro_batches)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), rows)
        text = (
            step.lower(state, shapes, jax.ShapeDtypeStruct((), "float32"), None, None)
            .compile()
            .as_text()
        )
    return collectives(text), WORDS // 2 * config.d_model * 4


def large(found, head):
    """How often collectives of at least the head's size run: (in loops, outside), by operation."""
    counts = [
        Counter(c.operation for c in found if c.in_loop == where and c.bytes >= head)
        for where in (True, False)
    ]
    return tuple(map(dict, counts))


@pytest.mark.parametrize("tied", [False, True])
def test_no_large_collective_in_a_loop(tied):
    """Gathers of embedding and head, the head's gradient and the embedding's: once a step each."""
    found, head = step_collectives(tied, micro_batches=1)
    inside, outside = large(found, head)
    assert not inside
    assert outside == {"all-gather": 2, "reduce-scatter": 1, "all-reduce": 1}
    # Loops do hold collectives: of a layer's kernels, and of sums over the vocabulary's parts.
    assert {"all-gather", "all-reduce"} <= {c.operation for c in found if c.in_loop}


def test_micro_batches_gather_once():
    """Gradients are reduced once a micro-batch, but what is gathered is gathered once a step."""
    inside, outside = large(*step_collectives(tied=False, micro_batches=2))
    assert inside == {"reduce-scatter": 1, "all-reduce": 1}
    assert outside == {"all-gather": 2}


def test_a_plain_scan_would_be_found():
    """The search sees what `token_logprobs` is there to avoid."""
    mesh = mesh_of((2, 2, 2))
    head = jax.ShapeDtypeStruct(
        (WORDS, 32), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P("tensor", "fsdp"))
    )
    hidden = jax.ShapeDtypeStruct(
        (8, 64, 32), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P(BATCH))
    )

    def loss(hidden, head):
        @jax.checkpoint
        def body(total, x):
            return total + jax.nn.logsumexp(x @ head.T, axis=-1).sum(), None

        chunks = hidden.reshape(8, 4, 16, 32).swapaxes(0, 1)
        return jax.lax.scan(body, jnp.zeros(()), chunks)[0]

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss, 1)).lower(hidden, head).compile().as_text()
    inside, _ = large(collectives(text), WORDS // 2 * 32 * 4)
    assert inside


# --- the update -------------------------------------------------------------------------------


def linear(params, batch, *_):
    """A loss whose gradients are the batch's `gradient`, times what its weight then divides by."""
    weight = jnp.float32(4.0)
    total = sum(jax.tree.leaves(jax.tree.map(lambda p, g: (p * g).sum(), params, batch)))
    return Total(weight * total, weight), {}


SHAPES = {"layers/q": {"kernel": (2, 3, 4)}, "final_norm": {"scale": (5,)}}


def random_tree(rng, scale=1.0):
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_equals_adamw_of_torch(clip_norm, weight_decay):
    """Twenty updates with a changing rate, gradients of all sizes, and norms that do not decay.

    b2 is 0.95 because optax computes 1 - b2ⁿ in float32, which leaves five digits of 1 - 0.999².
    """
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    steps, params = 20, random_tree(rng, scale=0.1)
    rate = optax.linear_schedule(0.0, 0.1, steps)
    how = dict(b2=0.95, eps=1e-4, clip_norm=clip_norm, weight_decay=weight_decay)
    config = ConfigDict(ADAM | how)
    tx = make_optimizer(config)
    step, state = jax.jit(make_train_step(linear, tx)), init_state(params, tx)
    starts = [np.asarray(x) for x in jax.tree.leaves(params)]
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in starts]
    norm, kernel = theirs
    groups = [dict(params=[kernel], weight_decay=weight_decay), dict(params=[norm], weight_decay=0)]
    adamw = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-4)
    for n in range(steps):
        gradient = random_tree(rng, scale=10.0 ** rng.uniform(-3, 1))
        state, metrics = step(state, gradient, rate(n))
        for p, g in zip(theirs, jax.tree.leaves(gradient)):
            p.grad = torch.tensor(np.asarray(g))
        limit = clip_norm or float("inf")
        found = torch.nn.utils.clip_grad_norm_(theirs, limit).item()
        np.testing.assert_allclose(metrics["grad_norm"].mean, found, rtol=1e-5)
        for group in adamw.param_groups:
            group["lr"] = float(rate(n))
        adamw.step()
        moved = [x - start for x, start in zip(jax.tree.leaves(state.params), starts)]
        if n == 0:  # the first rate is 0
            assert not any(x.any() for x in moved)
        else:
            expected = [p.detach().numpy() - start for p, start in zip(theirs, starts)]
            assert difference(moved, expected) < 1e-5
    assert int(state.step) == steps


def test_norms_do_not_decay():
    """With gradients of 0, every kernel and table of a model shrinks and every norm stays."""
    params = lively_params(CONFIG)
    tx = make_optimizer(ConfigDict(ADAM | dict(weight_decay=0.5)))
    step = jax.jit(make_train_step(linear, tx))
    state, _ = step(init_state(params, tx), jax.tree.map(jnp.zeros_like, params), RATE)
    after = dict(jax.tree_util.tree_leaves_with_path(state.params))
    kept = 0
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        norm = "norm" in jax.tree_util.keystr(path)
        kept += norm
        np.testing.assert_allclose(after[path], x * (1.0 if norm else 0.95), rtol=1e-6)
    assert kept == 3


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_what_is_not_finite_is_not_learned(bad, micro_batches):
    """NaN or infinite loss, and a finite loss with an infinite gradient (of a root at 0)."""

    def loss_fn(params, batch, *_):
        value = jnp.sqrt(params["layers/q"]["kernel"].sum() * batch.sum())
        return Total(value, jnp.float32(1.0)), {"value": Total(value, jnp.float32(1.0))}

    tx = make_optimizer(ConfigDict(ADAM))
    step = jax.jit(make_train_step(loss_fn, tx, micro_batches))
    params = jax.tree.map(jnp.abs, random_tree(np.random.default_rng(0)))
    state, metrics = step(init_state(params, tx), jnp.ones((2, 1)), RATE)
    assert metrics["finite"].mean == 1 and int(state.step) == 1
    batch = jnp.ones((2, 1)).at[1].set(bad if micro_batches == 2 else bad - 1)
    after, metrics = step(state, batch, RATE)
    assert metrics["finite"].mean == 0
    assert np.isfinite(metrics["loss"].mean) == (bad == 0)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert np.array_equal(x, y)
    again, metrics = step(after, jnp.ones((2, 1)), RATE)
    assert metrics["finite"].mean == 1 and int(again.step) == 2


def test_a_batch_that_counts_nothing():
    """Filler only: loss 0 and finite, no division by 0."""
    tx = make_optimizer(ConfigDict(ADAM | dict(weight_decay=0.0)))
    state = init_state(lively_params(CONFIG), tx)
    rows = jax.tree.map(jnp.asarray, vars(Rows.empty(1, 8)))
    after, metrics = jax.jit(make_train_step(cut_loss(CONFIG), tx))(state, rows, RATE)
    assert metrics["loss"].mean == 0 and metrics["finite"].mean == 1
    assert metrics["grad_norm"].mean == 0
    for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params)):
        assert np.array_equal(x, y)
