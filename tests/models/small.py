"""Small models and rows of random tokens."""

from collections.abc import Sequence
from functools import cache

import jax
import numpy as np

from lfjax.data.rows import Rows, Segment, Unit, place
from lfjax.models.config import ModelConfig
from lfjax.models.decoder import init_params
from lfjax.sharding import path_str


def small(**changed) -> ModelConfig:
    """A decoder of 2 layers whose heads eight devices divide."""
    sizes = dict(vocab_size=96, d_model=32, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=4)
    rest = dict(d_mlp=48, rope_theta=1e4, norm_eps=1e-5, tied=False, max_positions=512)
    return ModelConfig(**(sizes | rest | changed))


@cache
def lively_params(config: ModelConfig, seed: int = 0):
    """Random parameters, larger than fresh ones, so that attention and predictions are far from
    uniform; norms and biases differ from what they are at first."""
    key = jax.random.key(seed)
    params = jax.tree.map(lambda x: 8 * x, jax.jit(init_params, static_argnums=0)(config, key))
    noise = np.random.default_rng(seed)
    low = -0.5 if config.norm_plus_one else 0.5

    def one(path, x):
        name = path_str(path)
        if name.endswith("scale"):
            return noise.uniform(low, low + 1, x.shape).astype(np.float32)
        return noise.normal(size=x.shape).astype(np.float32) if name.endswith("bias") else x

    return jax.tree_util.tree_map_with_path(one, params)


def laid(texts: Sequence[np.ndarray], places: Sequence[tuple[int, int]], b: int, t: int) -> Rows:
    """Texts as segments at (row, offset), every token but the first supervised."""
    rows = Rows.empty(b, t)
    for number, (ids, (row, offset)) in enumerate(zip(texts, places, strict=True), 1):
        place(rows, Unit(0, (Segment(ids, 1, 1, 1.0, None),)), row, offset, number, "token")
    return jax.tree.map(jax.numpy.asarray, rows)
