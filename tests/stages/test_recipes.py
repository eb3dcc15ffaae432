"""Every recipe of configs/: it can be read, and each stage reads files or what stands before it."""

import json
import runpy

import pytest

from lfjax.errors import UserError
from lfjax.evaluation.claims import read_claims
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


CLAIMED = {name: get_config for name, variant, get_config in ALL if variant == "claims"}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims_are_of_what_is_compared(name):
    """Also those that weigh several systems against each other; and what is compared is there ten
    times, none of it made from another repetition."""
    config = CLAIMED[name]("claims")
    found = read_claims(json.loads((ROOT / config.stages.claims.path).read_text()), name)
    for claim in found:
        evaluation = config.stages[claim.evaluation]
        assert claim.evaluation in config.stages.claims.evaluations
        assert set(claim.weights) <= set(evaluation.systems)
        read = [s.partition("/")[0] for s in STAGES["evaluate"][1](evaluation).values()]
        assert set(read) <= set(config.order)
        assert len(read) == 10 * len(evaluation.systems)
    for stage in config.order:
        before, _, rest = stage.partition("_")
        if before[1:].isdigit() and rest:
            sources = STAGES[config.stages[stage].kind][1](config.stages[stage]).values()
            assert all(source.startswith(f"{before}_") for source in sources), stage


def test_an_unknown_variant():
    for name in {n for n, _, _ in ALL}:
        get_config = next(g for n, _, g in ALL if n == name)
        with pytest.raises(UserError, match="unknown variant"):
            get_config("no such thing")
