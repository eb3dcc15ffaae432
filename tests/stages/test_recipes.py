"""Every recipe of configs/: it can be read, and each stage reads files or what stands before it."""

import runpy

import pytest

from lfjax.errors import UserError
from lfjax.stages.run import STAGES
from tests.conftest import ROOT

CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py"))


def variants():
    for path in CONFIGS:
        found = runpy.run_path(str(path))
        yield from ((path.stem, name, found["get_config"]) for name in found["VARIANTS"])


ALL = list(variants())


@pytest.mark.parametrize("name, variant, get_config", ALL, ids=[f"{n}:{v}" for n, v, _ in ALL])
def test_stages_follow_each_other(name, variant, get_config):
    config = get_config(variant)
    assert config.order and set(config.order) == set(config.stages)
    before = set()
    for stage in config.order:
        own = config.stages[stage]
        try:
            sources = STAGES[own.kind][1](own)
        except UserError:  # what is to be given on the command line is not there
            sources = {}
        for role, source in sources.items():
            first = source.partition("/")[0]
            assert first in before or first not in config.order, f"{stage}: {role} is {source}"
        before.add(stage)


def test_an_unknown_variant():
    for name in {n for n, _, _ in ALL}:
        get_config = next(g for n, _, g in ALL if n == name)
        with pytest.raises(UserError, match="unknown variant"):
            get_config("no such thing")
