"""docs/evaluate.md says what the program does."""

import inspect
import re

import pytest

from lfjax.recipe import base, evaluate, judge
from lfjax.stages.evaluate import MODES
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")


def rows(title: str) -> dict[str, str]:
    """Names of a section's first table -> its second column."""
    table = re.search(r"\n\| .*?\n\n", PAGE.split(f"## {title}\n")[1], re.DOTALL)[0]
    out = {}
    for line in table.strip().splitlines()[2:]:
        names, value = line.split("|")[1:3]
        out |= dict.fromkeys(re.findall(r"`([\w.]+)`", names), value.strip(" `"))
    return out


def test_every_mode_is_named():
    assert set(rows("Modes")) == set(MODES)


def test_every_setting_is_named_with_its_default():
    """Without it the page tells of another default than the one that holds."""
    data = base(source="records").data
    config = evaluate("truth", systems={}, data=data)
    told = rows("Settings")
    answering = set(judge("cut", data=data)) - {"rule", "rule_options", "question", "field"}
    own = set(config) - answering - {"mode", "systems"}
    assert set(told) - {"systems.NAME.path"} == own
    for name, value in told.items():
        if value and name in config:
            assert str(config[name]).lower() == value


def test_every_argument_of_the_backend_is_named():
    pytest.importorskip("lm_eval")
    from lfjax.lm_eval_backend import LfjaxLM

    signature = inspect.signature(LfjaxLM.__init__).parameters
    for name, value in rows("lm_eval").items():
        assert str(signature[name].default) == value
