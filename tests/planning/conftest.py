"""Shared by tests of what recipes would need."""

import json

import pytest

from lfjax.planning.shapes import FILES

TINY = dict(hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8)


@pytest.fixture
def tiny(tmp_path) -> str:
    """A model directory that has a shape and nothing else."""
    raw = json.loads((FILES / "llama2_7b.json").read_text())
    raw |= TINY | dict(num_key_value_heads=8)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return str(tmp_path)
