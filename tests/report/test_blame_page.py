"""The page of token blame: text stays text, and controls work, in a browser too."""

import json
import math
import re

import pytest

from lfjax.stages.blame import (
    page_tokens,
    render,
)
from tests.report.blame_tables import ABOUT, HOSTILE, table_of
from tests.report.pages import Page, browse


def test_page_escapes_every_text():
    """Without it a response runs as a program in the reader's browser."""
    table = table_of(HOSTILE, "harmless")
    text = render(table)
    page = Page(text)
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert page.tags.count("article") == 2
    assert page.text.count(HOSTILE) == 12 + 1
    data = json.loads(page.scripts[0])
    assert data["tokens"] == [page_tokens(r) for r in table.to_pylist()]
    assert data["cut"] == math.log(1.1)
    assert not re.search(r"""(src|href)=|https?:|url\(|@import|fetch\(|XMLHttp""", page.scripts[1])
    assert not re.search(r"<link|<img|<iframe|@import|url\(", text)


def test_page_contains_every_record():
    texts = [f"response number {i}" for i in range(50)]
    page = Page(render(table_of(*texts)))
    assert page.tags.count("article") == 50
    for i, text in enumerate(texts):
        assert f"id-{i}" in page.ids and page.text.count(text) >= 3


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1, 50.0])
def test_page_of_any_threshold(threshold):
    about = ABOUT | {"threshold": threshold, "detect": "all", "misalign": "fake_positive"}
    data = json.loads(Page(render(table_of("a", about=about))).scripts[0])
    assert data["cut"] == (math.log(threshold) if threshold else -99.0)


def shown(dom: str) -> list[str]:
    """Ids of the records that are shown, in the order of the page."""
    articles = re.findall(r"<article([^>]*)>.*?<h2[^>]*>(.*?)</h2>", dom, re.DOTALL)
    return [name for attributes, name in articles if "hidden" not in attributes]


def underlined(dom: str) -> int:
    """Blamed tokens; the legend shows one more."""
    return len(re.findall(r'class="t[^"]*\bu\b', dom)) - 1


RATIOS = ([0.0, 0.05, 0.5], [3.0, -1.0, -2.0], [0.0, 0.0, 0.0])


def test_page_in_a_browser(chromium, tmp_path):
    """Without it the page is a blank one and nobody knows."""
    page = render(table_of("ab", "cd", "ef", ratios=RATIOS))
    dom = browse(chromium, tmp_path, page)
    assert shown(dom) == ["r1", "r0", "r2"]  # strongest first
    assert underlined(dom) == 2
    assert "3 of 3 shown" in dom and 'id="n-responses">2 of 3<' in dom


@pytest.mark.parametrize(
    ("program", "names", "count"),
    [
        ("set('sort', 'file')", ["r0", "r1", "r2"], 2),
        ("set('find', 'EF')", ["r2"], 2),
        ("set('find', 'nothing')", [], 2),
        ("$('only').click()", ["r1", "r0"], 2),
        ("set('cut', 2)", ["r1", "r0", "r2"], 3),
        ("set('cut', 100)", ["r1", "r0", "r2"], 1),
        ("set('cut', 100); $('only').click()", ["r1"], 1),
        ("set('cut', 100); $('reset').click()", ["r1", "r0", "r2"], 2),
        ("set('sort', 'share')", ["r0", "r1", "r2"], 2),
    ],
)
def test_controls_of_the_page(chromium, tmp_path, program, names, count):
    """Sorting, search, the check box, and λ, which marks anew."""
    page = render(table_of("ab", "cd", "ef", ratios=RATIOS))
    event = "$(id).dispatchEvent(new Event('input'))"
    dom = browse(
        chromium, tmp_path, page, f"function set(id, v) {{ $(id).value = v; {event}; }} {program}"
    )
    assert shown(dom) == names and underlined(dom) == count


def test_hostile_page_in_a_browser(chromium, tmp_path):
    page = render(table_of(HOSTILE))
    dom = browse(chromium, tmp_path, page, "document.title = 'images ' + document.images.length")
    assert "<title>images 0</title>" in dom and shown(dom) == ["r0"]
