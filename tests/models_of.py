"""Models for tests."""

import jax

from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import abstract_params
from lfjax.models.hf import load_params


def load_model(path: str):
    """(config, params) of a Hugging Face directory, on one device."""
    config = ModelConfig.from_hf(read_hf_config(path), path)
    abstract = abstract_params(config)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return config, load_params(path, config, abstract, jax.tree.map(lambda _: one, abstract))
