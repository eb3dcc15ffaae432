"""Pages as a reader's browser takes them."""

import subprocess
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, and the text of everything by tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.scripts, self.text, self.inside = [], set(), [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids.add(dict(attrs).get("id"))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def browse(chromium, tmp_path, page: str, program: str = "") -> str:
    """The document after its own program and `program` have run."""
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", f"<script>{program}</script></body>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    own = (f"--user-data-dir={tmp_path / 'profile'}", f"file://{file}")
    done = subprocess.run(
        [chromium, *flags.split(), *quiet.split(), *own],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
