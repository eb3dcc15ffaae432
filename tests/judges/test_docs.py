"""docs/judges.md says what the program does."""

import inspect
import re
from dataclasses import fields

import pytest

from lfjax.data.records import Feedback, Message
from lfjax.judges import JUDGES, get_judge, questions_of, rules
from lfjax.judges.endpoint import Endpoint
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")


def test_every_kind_and_its_fields_are_named(record):
    """Without it a user writes a template with a field that there is not."""
    table = PAGE.split("## Templates")[1].split("## The endpoint")[0]
    for kind, judge in JUDGES.items():
        assert f"| `{kind}` |" in PAGE
        if judge.template is None:
            continue
        row = next(
            line for line in table.splitlines() if line.startswith("|") and f"`{kind}`" in line
        )
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(judge.shown(record)[0])


def test_every_option_is_named_with_its_default():
    """Without it the page tells of another limit than the one that holds."""
    table = PAGE.split("## The endpoint")[1].split("\n\n")[1]
    told = {}
    for line in table.splitlines()[2:]:
        names, defaults = line.split("|")[1:3]
        values = [d.strip(" `") for d in defaults.split(",")]
        told |= dict(zip(re.findall(r"`(\w+)`", names), values, strict=True))
    assert list(told) == [f.name for f in fields(Endpoint)]
    for option in fields(Endpoint):
        if isinstance(option.default, int | float):
            assert float(told[option.name]) == option.default
        elif isinstance(option.default, str):
            assert told[option.name] == option.default


def test_the_sample_template_is_one(record, tmp_path):
    """Without it a user copies a template that is refused."""
    path = tmp_path / "sample.jinja"
    path.write_text(re.search(r"```jinja\n(.*?)```", PAGE, re.DOTALL)[1], encoding="utf-8")
    (question,) = questions_of(record, get_judge("cut", str(path)))
    assert question.messages[0] == Message("system", "You judge letters to customers.")
    assert question.messages[1].content.startswith("Letter: Blue\nIt was to answer: Name a colour.")


def test_the_sample_rule_is_one(record):
    """Without it a user copies a rule that fails."""
    found = {"Feedback": Feedback}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], found)
    assert found["polite"](record).polarity == "negative"
    assert found["polite"](record, word="blue").polarity == "positive"


@pytest.mark.parametrize("name", ["story", "length", "last_number"])
def test_rules_have_the_options_that_are_told(name):
    """Without it an option is refused as unexpected."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    options = [*inspect.signature(getattr(rules, name)).parameters][1:]
    assert re.findall(r"`(\w+)`", row.split("|")[3]) == options
