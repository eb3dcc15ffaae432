"""Model FLOPs: what the arithmetic of a step needs, whatever an implementation adds
(rematerialisation, padding)."""

from collections import Counter
from collections.abc import Iterable

from lfjax.models.config import ModelConfig


def matmul_params(config: ModelConfig) -> int:
    """Parameters that every token is multiplied with: projections and the output head, not the
    lookup."""
    c = config
    attention = c.d_model * c.head_dim * (2 * c.n_heads + 2 * c.n_kv_heads)
    return c.n_layers * (attention + 3 * c.d_model * c.d_mlp) + c.d_model * c.vocab_size


def train_flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """FLOPs of forward and backward over segments of these lengths (a multiply-add counts 2).

    Per token 6 per parameter; causal attention per segment of n tokens and layer: 2 products of
    2·pairs·heads·head size, three times. Pairs of query and key are n²/2, and those of them that
    lie within a window of w < n keys n·w - w²/2.
    """
    windows = Counter(config.windows or (0,) * config.n_layers)
    tokens = doubled_pairs = 0
    for n in lengths:
        tokens += n
        for window, layers in windows.items():
            w = min(window or n, n)
            doubled_pairs += layers * (2 * n * w - w * w)
    attention = 6 * config.n_heads * config.head_dim * doubled_pairs
    return 6.0 * matmul_params(config) * tokens + attention
