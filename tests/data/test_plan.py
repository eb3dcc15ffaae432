"""The plan: every record once an epoch, nothing overlaps, few shapes, full rows."""

import itertools

import numpy as np
import pytest

from lfjax.data.plan import density, few_shapes, first_fit_decreasing, make_plan, rows_of
from lfjax.data.rows import encode_records
from lfjax.data.sources import load
from lfjax.data.templates import template_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.data.views import Role
from lfjax.errors import UserError
from lfjax.methods.cut import METHOD

SIZES = [
    {"batch_examples": 8},
    {"batch_examples": 7, "multiple": 4},
    {"batch_examples": 1},
    {"batch_examples": 500},
    {"batch_rows": 4},
    {"batch_rows": 8, "multiple": 4},
    {"batch_rows": 1},
    {"batch_rows": 200},
]
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: "-".join(map(str, s.values())))


def lengths_of(count=101, longest=100, seed=0):
    return np.random.default_rng(seed).integers(1, longest + 1, count)


def planned(size, lengths, *, row_tokens=128, seed=3, **settings):
    return make_plan(lengths, row_tokens=row_tokens, seed=seed, **size, **settings)


def naive_first_fit(lengths, capacity):
    """The same, looked up row by row."""
    used, rows, offsets = [], np.zeros(len(lengths), int), np.zeros(len(lengths), int)
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, u in enumerate(used) if u + lengths[item] <= capacity), len(used))
        if row == len(used):
            used.append(0)
        rows[item], offsets[item] = row, used[row]
        used[row] += lengths[item]
    return rows, offsets


def entries(plan, step):
    part = slice(plan.first[step], plan.first[step + 1])
    return plan.unit[part], plan.row[part], plan.offset[part]


@each_size
def test_every_unit_once_an_epoch(size):
    """Without it some records are never learned and others twice."""
    lengths = lengths_of()
    epoch = planned(size, lengths).epoch_steps
    plan = planned(size, lengths, steps=3 * epoch)
    assert (plan.steps, plan.epoch_steps, plan.epoch_examples) == (3 * epoch, epoch, 101)
    orders = []
    for n in range(3):
        taken = [plan.units_of(s).tolist() for s in range(n * epoch, (n + 1) * epoch)]
        orders.append(taken)
        assert sorted(itertools.chain(*taken)) == list(range(101))
        if "batch_examples" in size:
            full, rest = divmod(101, size["batch_examples"])
            assert [len(t) for t in taken] == [size["batch_examples"]] * full + [rest] * (rest > 0)
    assert orders[0] != orders[1] != orders[2] != orders[0]  # each epoch has an order of its own


@each_size
def test_nothing_overlaps_and_rows_hold_their_tokens(size):
    """Without it one text overwrites the end of another."""
    lengths = lengths_of()
    plan = planned(size, lengths, steps=2 * planned(size, lengths).epoch_steps)
    assert len(plan.rows) == plan.steps and plan.first[-1] == len(plan.unit)
    for step in range(plan.steps):
        unit, row, offset = entries(plan, step)
        assert len(unit) and row.min() >= 0 and row.max() < plan.rows[step]
        used = np.zeros((plan.rows[step], 128), int)
        for u, r, o in zip(unit, row, offset):
            assert 0 <= o <= o + lengths[u] <= 128
            used[r, o : o + lengths[u]] += 1
        assert used.max() == 1 and used.sum() == lengths[unit].sum()
    held = lengths[plan.unit].sum() / (plan.rows.sum() * 128)
    assert density(plan, lengths) == pytest.approx(held)


@each_size
def test_at_most_three_shapes_all_multiples(size):
    """Without it every step compiles anew, or rows do not divide over the devices."""
    lengths = lengths_of(400)
    plan = planned(size, lengths, steps=200)
    assert plan.steps == 200
    assert 1 <= len(plan.shapes) <= 3
    assert all(shape % size.get("multiple", 1) == 0 for shape in plan.shapes)
    if "batch_rows" in size:
        assert plan.shapes == [size["batch_rows"]]


@each_size
def test_same_seed_same_plan(size):
    """Without it a resumed run, or another process, takes other records."""
    lengths = lengths_of()
    one, same, other = (planned(size, lengths, seed=s, steps=9) for s in (3, 3, 4))
    for name in ("unit", "row", "offset", "first", "rows"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.unit, other.unit)
    # A longer plan begins with the shorter one: step n does not depend on how many follow.
    longer = planned(size, lengths, steps=31)
    for step in range(9):
        assert all(map(np.array_equal, entries(one, step), entries(longer, step)))


def test_seed_varies_who_shares_a_row():
    """Without it the same records meet in every epoch."""
    lengths = np.full(64, 30)
    plan = planned({"batch_rows": 1}, lengths, steps=32)
    rows = [frozenset(plan.units_of(s).tolist()) for s in range(plan.steps)]
    assert len(set(rows[:16]) & set(rows[16:])) < 4


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 64, 65, 300])
@pytest.mark.parametrize("longest", [1, 9, 64])
def test_first_fit_decreasing_is_what_it_says(count, longest):
    """Without it rows are left half empty, or filled beyond their end."""
    lengths = lengths_of(count, longest, seed=count)
    rows, offsets = first_fit_decreasing(lengths, 64)
    expected_rows, expected_offsets = naive_first_fit(lengths.tolist(), 64)
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(offsets, expected_offsets)


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("highest", [1, 2, 4, 9, 15])
def test_few_shapes_has_the_least_filler(multiple, highest):
    """Without it steps carry more padding than they must."""
    for seed in range(5):
        needed = lengths_of(40, highest, seed)
        got = few_shapes(needed, multiple)
        assert (got >= needed).all() and (got % multiple == 0).all()
        assert len(set(got.tolist())) <= 3
        choices = range(multiple, needed.max() + multiple, multiple)
        best = min(
            sum(min((c for c in chosen if c >= n), default=10**9) for n in needed.tolist())
            for chosen in itertools.combinations_with_replacement(choices, 3)
        )
        assert got.sum() == best


@pytest.mark.parametrize(
    "lengths, size, said",
    [
        ([3], {}, "batch_examples=0, batch_rows=0: set one of them"),
        ([3], {"batch_examples": 2, "batch_rows": 2}, "set one of them to a positive number"),
        ([3], {"batch_examples": -1}, "set one of them to a positive number"),
        ([3], {"batch_rows": 6, "multiple": 4}, "batch_rows=6 must be a multiple of 4"),
        ([3, 129], {"batch_rows": 4}, "2 units, the longest 129 tokens; rows have 128"),
        ([], {"batch_examples": 4}, "0 units, the longest 0 tokens"),
    ],
)
def test_plans_that_cannot_be(lengths, size, said):
    """Without it a wrong batch size ends in an index error, or in an endless loop."""
    with pytest.raises(UserError) as error:
        planned(size, np.array(lengths, int))
    assert said in str(error.value)


@pytest.fixture(scope="module")
def authors(iter1, stories):
    """The first iteration's records as units of CUT."""
    records = load(iter1, "cut", downsample=0.25).records
    out = encode_records(
        records,
        METHOD.views_of(METHOD.options),
        load_tokenizer(stories),
        template_text("alpaca"),
        max_tokens=2048,
        row_tokens=4096,
    )
    return records, out


def test_density_on_the_authors_data(authors):
    """Without it most of the computation is on padding, or much of the data is dropped unseen."""
    records, out = authors
    used = {u.record for u in out.units}
    flawed = [i for i, r in enumerate(records) if not r.satisfactory]
    dropped = [i for i in flawed if i not in used]
    assert (len(records), len(flawed), len(used)) == (300, 240, 296)
    assert len(dropped) == 4 <= 0.02 * len(flawed)
    assert +out.counts == {"response too long": 4, "prompt trimmed": 2}
    plan = make_plan(out.lengths, row_tokens=4096, seed=42, batch_rows=4)
    assert plan.steps == 20
    assert density(plan, out.lengths) == pytest.approx(0.987, abs=5e-4)


def test_rows_of_the_authors_data(authors):
    """Without it the plan and the rows disagree about where a text lies."""
    _, out = authors
    plan = make_plan(out.lengths, row_tokens=4096, seed=42, batch_examples=8)
    for step in range(2):
        rows = rows_of(plan, step, out.units, "example")
        units = [out.units[u] for u in plan.units_of(step)]
        assert rows.tokens.shape == (plan.rows[step], 4096)
        assert (rows.segment > 0).sum() == sum(u.length for u in units)
        of_row = [
            [u for u, r in zip(units, entries(plan, step)[1]) if r == n]
            for n in range(len(rows.mass))
        ]
        assert rows.segment.max(axis=1).tolist() == [
            sum(len(u.segments) for u in us) for us in of_row
        ]
        assert rows.mass.sum() == len(units) == 8
        assert rows.weight.sum() == pytest.approx(8, rel=1e-5)  # ½ + ½, or 1
        for unit, row, offset in zip(units, *entries(plan, step)[1:]):
            ids = np.concatenate([s.ids for s in unit.segments])
            assert np.array_equal(rows.tokens[row, offset : offset + len(ids)], ids)
        there = np.nonzero(rows.twin >= 0)
        twin = (there[0], rows.twin[there])
        assert np.array_equal(rows.targets[there], rows.targets[twin])
        assert np.array_equal(rows.twin[twin], there[1])
        assert set(rows.role[there]) == {Role.FLAWED, Role.JUDGED}
        again = rows_of(plan, step, out.units, "example")
        assert all(np.array_equal(a, b) for a, b in zip(vars(rows).values(), vars(again).values()))
