"""Rollouts in rows: every token where it should be, few shapes, and columns there and back."""

import numpy as np
import pytest

from lfjax.data.rollouts import pack, padded, row_shapes


def random_rollouts(n=23, longest=12):
    rng = np.random.default_rng(0)
    draw = lambda low: rng.integers(3, 50, rng.integers(low, longest // 2 + 1)).tolist()  # noqa: E731
    return [draw(1) for _ in range(n)], [draw(1) for _ in range(n)]


def test_every_token_is_predicted_where_it_should_be():
    prompts, responses = random_rollouts()
    shapes = row_shapes(len(prompts), max_tokens=12, row_tokens=32, multiple=2)
    packed = pack(prompts, responses, row_tokens=32, shapes=shapes)
    rows = packed.rows
    assert rows.mass.sum() == len(prompts) and len(rows.mass) in shapes
    assert rows.weight.sum() == sum(map(len, responses))
    for i, (prompt, response) in enumerate(zip(prompts, responses)):
        row, start, n = packed.row[i], packed.start[i], packed.length[i]
        here = slice(start, start + n)
        assert rows.targets[row, here].tolist() == response
        assert (rows.weight[row, here] == 1).all()
        begin = start - len(prompt) + 1
        assert rows.tokens[row, begin : begin + len(prompt)].tolist() == prompt
        segment = rows.segment[row, begin : start + n + 1]
        assert len(set(segment)) == 1 and segment[0] > 0


def test_columns_there_and_back():
    prompts, responses = random_rollouts()
    packed = pack(prompts, responses, row_tokens=32, shapes=[99])
    values = padded([np.arange(1, len(r) + 1) + 100 * i for i, r in enumerate(responses)], 8)
    rows = packed.scatter(values)
    np.testing.assert_array_equal(packed.gather(rows, 8), values)
    assert ((rows != 0) == (packed.rows.weight > 0)).all()


@pytest.mark.parametrize("responses, multiple", [(1, 1), (7, 2), (64, 8), (256, 3)])
def test_the_longest_fit_the_largest_shape(responses, multiple):
    """Whatever the lengths, and no more than three shapes."""
    shapes = row_shapes(responses, max_tokens=10, row_tokens=35, multiple=multiple)
    assert shapes == sorted(shapes) and len(shapes) <= 3
    assert all(shape % multiple == 0 for shape in shapes)
    for n in (10, 9, 6, 5):  # tokens of a prompt and a response
        ones = [[1] * (n - 1)] * responses
        pack(ones, [[1]] * responses, row_tokens=35, shapes=shapes)
