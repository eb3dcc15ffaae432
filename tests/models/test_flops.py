"""Model FLOPs against a count by hand."""

from dataclasses import replace

from lfjax.models.flops import matmul_params, train_flops
from tests.models.small import small

CONFIG = small(vocab_size=10, d_model=6, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=3, d_mlp=5)


def test_matmul_params():
    q, k, v, o = 6 * 12, 6 * 6, 6 * 6, 12 * 6
    gate, up, down = 6 * 5, 6 * 5, 5 * 6
    head = 10 * 6
    assert matmul_params(CONFIG) == 2 * (q + k + v + o + gate + up + down) + head == 672
    assert matmul_params(CONFIG) == matmul_params(small(**{**vars(CONFIG), "tied": True}))


def test_train_flops():
    # Segments of 3 and 5 tokens: 8 tokens, 2 FLOPs a multiply-add, forward once and backward twice.
    products = 3 * 2 * 672 * 8
    # q·k and weights·v: a triangle of n²/2 pairs a head of 3, in 4 heads and 2 layers.
    pairs = 3 * 2 * (9 / 2 + 25 / 2) * 3 * 4 * 2 * 2
    assert products == 32256 and pairs == 4896
    assert train_flops(CONFIG, [3, 5]) == products + pairs
    assert train_flops(CONFIG, iter([])) == 0


def test_train_flops_with_windows():
    """A window of 2 in one of two layers: of 9/2 and 25/2 pairs a head, 2 · 3 - 4/2 and 2 · 5 - 4/2
    are left."""
    config = replace(CONFIG, windows=(0, 2))
    pairs = 3 * 2 * (9 / 2 + 25 / 2 + 4 + 8) * 3 * 4 * 2
    assert train_flops(config, [3, 5]) == 32256 + pairs
    assert train_flops(replace(CONFIG, windows=(7, 5)), [3, 5]) == train_flops(CONFIG, [3, 5])
