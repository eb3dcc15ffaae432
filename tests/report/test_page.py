"""The report's page: it shows everything safely, works in a browser, and fits a phone."""

import csv
import html
import io
import json
import re
from urllib.parse import unquote

import pytest

from lfjax.report import results
from lfjax.report.page import BLAME_BYTES, render, write_report
from lfjax.report.workdir import read_workdir
from lfjax.stages.blame import write
from tests.conftest import write_jsonl
from tests.report.blame_tables import HOSTILE, table_of
from tests.report.pages import Page, browse
from tests.report.run_of import a_run
from tests.stages.conftest import finished  # noqa: F401 (a fixture)


@pytest.fixture
def workdir(tmp_path):
    return a_run(tmp_path / "run")


def test_page_escapes_every_text(workdir):
    """Without it a response runs as a program in the reader's browser."""
    page = Page(text := render(read_workdir(workdir)))
    assert page.tags.count("script") == 1 and "img" not in page.tags and "base" not in page.tags
    assert page.text.count(HOSTILE) >= 9
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import|<link|<img", text.split("srcdoc")[0])
    assert page.tags.count("iframe") == 1
    frame = html.unescape(re.search(r'srcdoc="([^"]*)"', text)[1])
    assert "after step" in frame and Page(frame).tags.count("script") == 2
    for link in re.findall(r'href="([^"]*)"', text):
        assert link.startswith(("#", "data:text/csv", "data:application/x-tex"))


def test_pages_of_a_run_are_of_reasonable_size(finished):  # noqa: F811
    page = write_report(finished[0])
    assert page.stat().st_size < 5e6
    text = page.read_text()
    assert "2 of 2" in text and "iframe" in text and "p_blamed" in text


def test_large_blame_pages_are_shortened(workdir):
    write(workdir / "cut" / "blame" / "step-20", table_of(*["long text " * 150] * 8))
    text = render(read_workdir(workdir))
    (shown_, more) = re.search(
        r"step 20, (\d) responses.*?(\d) more are in", text, re.DOTALL
    ).groups()
    assert int(shown_) + int(more) == 8 and 1 <= int(shown_) < 8
    frame = html.unescape(re.search(r'srcdoc="([^"]*)"', text)[1])
    assert len(frame) <= BLAME_BYTES and frame.count("<article") == int(shown_)


def test_report_is_the_same_again(workdir):
    first = write_report(workdir).read_bytes()
    assert write_report(workdir).read_bytes() == first
    assert "report" not in [s.name for s in read_workdir(workdir).stages]


WATCH = """<script>window.wrong = [];
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  addEventListener(kind, e => wrong.push(kind + (e.message || e.violatedDirective || "")), true);
console.error = console.warn = (...a) => wrong.push(a.join(" "));</script>"""
TELL = "document.title = JSON.stringify({value}); "


def ask(chromium, tmp_path, page, value, program=""):
    """What an expression is in the page after a program; `wrong` are its complaints."""
    page = page.replace('<meta charset="utf-8">', '<meta charset="utf-8">' + WATCH, 1)
    program += TELL.format(value=f"[wrong, {value}]")
    dom = browse(chromium, tmp_path, page, program)
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]
    wrong, found = json.loads(html.unescape(title))
    assert wrong == []
    return found


@pytest.fixture
def page(workdir):
    return write_report(workdir).read_text()


def test_page_opens_without_complaint(chromium, tmp_path, page):
    """Nothing is fetched, nothing is refused, no response has become an element."""
    value = (
        "[document.images.length, document.querySelectorAll('article').length, "
        "performance.getEntriesByType('resource').filter(e => !e.name.startsWith('about:')).length,"
        "[...document.querySelectorAll('.text')].some(e => e.children.length)]"
    )
    assert ask(chromium, tmp_path, page, value) == [0, 4, 0, False]


STEPS = [
    ({}, ["p0", "p1", "p2", "p3"]),
    ({"find": "QUESTION 1?"}, ["p1"]),
    ({"find": "nowhere"}, []),
    ({"find": "", "verdict": "win against one"}, ["p0", "p1", "p2", "p3"]),
    ({"system": "two"}, []),
    ({"verdict": "satisfactory"}, ["p1", "p3"]),
    ({"find": "3?"}, ["p3"]),
    ({"find": "", "verdict": "", "system": ""}, ["p0", "p1", "p2", "p3"]),
]


def test_filters(chromium, tmp_path, page):
    """One after the other, each on top of those before."""
    program = """
      const find = q => document.querySelector(".board " + q), seen = [];
      for (const step of STEPS) {
        for (const [name, value] of Object.entries(step)) {
          find("." + name).value = value;
          find("." + name).dispatchEvent(new Event("input", {bubbles: true}));
        }
        const shown = [...document.querySelectorAll("article:not([hidden]) h3")];
        const names = shown.map(e => e.textContent);
        seen.push([names, find(".count").textContent, find(".none").hidden]);
      }
    """.replace("STEPS", json.dumps([step for step, _ in STEPS]))
    seen = ask(chromium, tmp_path, page, "seen", program)
    assert seen == [[p, f"{len(p)} of 4 shown", bool(p)] for _, p in STEPS]


def test_filter_of_verdicts_that_differ(chromium, tmp_path, workdir):
    path = workdir / "compared" / "per_prompt.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[2]["verdicts"]
    for answer in rows[2]["answers"].values():
        answer["satisfactory"] = 1.0
    write_jsonl(path, rows)
    page = write_report(workdir).read_text()
    value = "[...document.querySelectorAll('article:not([hidden]) h3')].map(e => e.textContent)"
    program = "document.querySelector('.differ').click();"
    assert ask(chromium, tmp_path, page, value, program) == ["p0", "p1", "p3"]


def test_exports_are_the_tables(chromium, tmp_path, page, workdir):
    """The links of the page give what the tables have, whatever signs are in it."""
    names = [t.name for t in results.evaluation_tables(read_workdir(workdir))]
    wanted = ["claims", "stages", "lengths-1", *names]
    value = (
        "Object.fromEntries([...document.querySelectorAll('a[download]')]"
        ".map(a => [a.download, a.href]))"
    )
    links = ask(chromium, tmp_path, page, value)
    assert {f"{n}.{kind}" for n in wanted for kind in ("csv", "tex")} <= links.keys()
    rows = list(csv.reader(io.StringIO(unquote(links["claims.csv"].partition(",")[2]))))
    assert rows == [
        ["claim", "margin", "estimate", "estimate low", "estimate high", "verdict"],
        [HOSTILE, "0.3", "0.8", "0.7", "0.9", "reproduced"],
        ["b", "0", "", "", "", "not testable"],
    ]
    assert r"\toprule" in unquote(links["claims.tex"])


COLOURS = (
    "[getComputedStyle(document.body).backgroundColor, "
    "getComputedStyle(document.querySelector('svg text')).fill]"
)


def framed(page, style, value, program=""):
    """A page that shows another in a frame, and whose title is an expression in that one."""
    return (
        f'<html><head><meta charset="utf-8"><title></title></head><body>'
        f'<iframe style="border:0;{style}" srcdoc="{html.escape(page)}"></iframe><script>'
        f"const frame = document.querySelector('iframe'); frame.onload = () => {{"
        f"const window = frame.contentWindow, {{document, getComputedStyle}} = window;"
        f"{program}; parent.document.title = JSON.stringify({value}); }};</script></body></html>"
    )


def in_frame(chromium, tmp_path, *args):
    dom = browse(chromium, tmp_path, framed(*args))
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))


def test_light_and_dark(chromium, tmp_path, page):
    """The scheme of the system, and the button: letters of plots change with the page."""
    light, dark = (
        ["rgb(246, 245, 242)", "rgb(29, 28, 26)"],
        ["rgb(20, 20, 22)", "rgb(236, 235, 232)"],
    )
    assert in_frame(chromium, tmp_path, page, "color-scheme: light", COLOURS) == light
    assert in_frame(chromium, tmp_path, page, "color-scheme: dark", COLOURS) == dark
    click = "document.getElementById('theme').click();"
    assert in_frame(chromium, tmp_path, page, "color-scheme: dark", COLOURS, click) == light
    # The choice is remembered.
    assert in_frame(chromium, tmp_path, page, "color-scheme: dark", COLOURS) == light
    assert in_frame(chromium, tmp_path, page, "color-scheme: light", COLOURS, click) == dark


@pytest.mark.parametrize("width", [360, 1200])
def test_no_sideways_scrolling(chromium, tmp_path, page, width):
    """On a phone, too; only tables scroll, inside of their frames."""
    value = (
        "[document.documentElement.scrollWidth, "
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, svg, pre')"
        f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))]"
    )
    opened = "document.querySelectorAll('details').forEach(d => d.open = true)"
    style = f"width: {width}px; height: 700px"
    scroll, outside = in_frame(chromium, tmp_path, page, style, value, opened)
    assert outside == [] and scroll <= width
