"""docs/data.md says what the program does."""

import json
import re

import pytest

from lfjax.data.mixture import read_mixture
from lfjax.data.records import Record
from lfjax.data.sources import SOURCES, load
from lfjax.data.templates import JUDGMENT
from tests.conftest import ROOT, write_jsonl

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "records"])
def test_sample_rows_are_read(source, tmp_path):
    """Without it a user copies a row from the page and is told that it is malformed."""
    rows = list(map(json.loads, re.findall(r"```json\n(.*?)```", SECTIONS[source], re.DOTALL)))
    assert rows
    loaded = load(write_jsonl(tmp_path / "a.jsonl", rows), source)
    assert loaded.records and not loaded.dropped


def test_sample_record_is_one():
    """Without it the page shows a Record that is refused."""
    row = re.search(r"## The Record\n\n```json\n(.*?)```", PAGE, re.DOTALL)[1]
    Record.from_json(json.loads(row))


def test_sample_mixture_is_one(tmp_path):
    """Without it the page shows a mixture that is refused."""
    text = re.search(r"## Several files at once\n.*?```json\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "mix.json").write_text(text)
    blocks = read_mixture(str(tmp_path / "mix.json"))
    assert {block["source"] for block in blocks.values()} <= set(SOURCES)
    assert all(set(b.get("options", {})) <= set(SOURCES[b["source"]][1]) for b in blocks.values())


def test_options_and_wording_are_the_program_s():
    """Without it an option is documented that is none, or one is not documented."""
    table = PAGE.split("## Options")[1].split("## A row")[0]
    known = {option for _, options in SOURCES.values() for option in options}
    for option in known:
        assert f"`{option}`" in table, option
    assert all(f"| `{source}` |" in PAGE for source in SOURCES)
    assert JUDGMENT.strip() in PAGE
