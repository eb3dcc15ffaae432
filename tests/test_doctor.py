"""The doctor tells the truth about what will be learned, refuses what training would refuse, and
never lets a text command the terminal."""

import json
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest

from lfjax.data.load import eos_share, safe
from lfjax.data.rows import Encoded, Segment, Unit
from lfjax.data.templates import template_text
from lfjax.data.tokenize import load_tokenizer
from lfjax.doctor import Paint, colourful, histogram
from tests.conftest import ROOT, write_jsonl
from tests.stages.conftest import environment, finished  # noqa: F401 (a fixture)


def doctor(*args: str, config: str = "configs/cut.py:tiny", **env) -> subprocess.CompletedProcess:
    """Run it to the end; stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-m", "lfjax.doctor", "--config", config, *args],
        cwd=ROOT,
        env=environment() | env,
        capture_output=True,
        text=True,
        check=False,
    )


def told(*args: str, **how) -> str:
    done = doctor(*args, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*args: str, **how) -> str:
    done = doctor(*args, **how)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_demonstration():
    """The numbers of the shipped recipe, both stages, and a text in full."""
    text = told("--rows=1")
    assert "\x1b" not in text  # no terminal, no colour
    base, cut = text.split("\ncut: cut\n")
    assert base.startswith("base: sft\n")
    for part in (base, cut):
        assert "responses whose end is learned: 100%" in part
        assert re.search(r"lfjax.lab.demo +280 +123 +157 +280 +0 +none", part)
        assert "prompts, with their template: 280, from 34 to 39" in part
        assert "model: 127,296 parameters, all trained" in part
    assert "judgments: 157, from 10 to 27" in cut and "judgments:" not in base
    assert "whole segments (max_tokens=128): 437, from 48 to 90" in cut
    assert "batch_examples=8: 35 steps an epoch, 8.0 examples a step" in cut
    assert "instead, batch_rows=3: " in cut
    for rows in (1, 2, 3):  # seven arrays of four bytes a token, and one number a row
        size = rows * 512 * 7 * 4 + rows * 4
        assert f"compiled: train step for {rows} × 512 tokens; a batch is {size:,} bytes" in cut
    pairs = re.findall(r"record (\S+), FLAWED, .*, twins in segment (\d+)", cut)
    assert pairs
    for record, segment in pairs:
        assert f"segment {segment}: record {record}, JUDGED, " in cut
    assert "### Response:\n      ⟦The bear is yellow, eats leaves and sleeps in a barn.</s>⟧" in cut
    assert "DIFFER" not in cut


def test_numbers_are_those_of_the_batches():
    """Without it the doctor describes another run than the one that follows."""
    text = told(
        "--stage=cut",
        "--rows=0",
        "--cpu_devices=4",
        "--config.mesh.fsdp=2",
        "--config.mesh.data=2",
        "--config.stages.cut.micro_batches=2",
    )
    assert "first batch" not in text and "base: sft" not in text
    (rows,) = re.findall(r"rows of 512 tokens, (\d+) a step", text)
    assert int(rows) % 8 == 0
    size = int(rows) * (512 * 28 + 4)
    assert f"a batch is {size:,} bytes, {size // 4:,} a device" in text


def test_batch_rows_is_compared_with_batch_examples():
    text = told(
        "--stage=cut",
        "--rows=0",
        "--config.stages.cut.batch_examples=0",
        "--config.stages.cut.batch_rows=4",
    )
    assert "as set, batch_rows=4: " in text and "instead, batch_examples=2" in text


ESCAPES = "\x1b]0;title\x07\x9b31m\x1b[2J \u202e \u2028 \t"


@pytest.fixture
def hostile(tmp_path):
    """Records that try to command the terminal; one is flawed and trimmed, one too long."""
    records = [
        {
            "id": "evil" + ESCAPES,
            "source": "s" + ESCAPES,
            "prompt": [{"role": "user", "content": "start " + "word " * 60 + ESCAPES}],
            "response": "Hello\n" + ESCAPES + " wörld 😀.",
            "feedback": [{"text": "Bad " + ESCAPES, "polarity": "negative"}],
        },
        {
            "id": "long",
            "source": "b",
            "prompt": [{"role": "user", "content": "Hi"}],
            "response": "word " * 200,
            "feedback": [{"text": "", "polarity": "positive"}],
        },
        {
            "id": "no response" + ESCAPES,
            "source": "b",
            "prompt": [{"role": "user", "content": "x"}],
        },
    ]
    return [
        "--config.data.path=" + write_jsonl(tmp_path / "hostile.jsonl", records),
        "--config.data.heldout_examples=0",
        "--config.data.on_error=skip",
        "--config.stages.cut.eval_epochs=0",
        "--stage=cut",
    ]


def test_texts_do_not_command_the_terminal(hostile):
    """Without it a response clears the screen, or worse."""
    text = told(*hostile)
    assert not set(text) & set("\x1b\x07\x9b\x00\t\u202e\u2028\r")
    assert r"record evil\x1b]0;title\x07\x9b31m\x1b[2J \u202e \u2028 \t, FLAWED" in text
    assert r"⟦Hello" in text and r"\x1b[2J \u202e \u2028 \t wörld 😀.</s>⟧" in text
    trimmed = re.findall(r"\[(\d+) tokens trimmed\]", text)
    assert len(trimmed) == 2 and "prompts trimmed: 1" in text
    assert re.search(r"\nb? +b +2 +1 +1 +0 +0 +1 response too long, 1 malformed", "\n" + text)


def test_colours_on_a_terminal(hostile):
    """On a terminal the roles are coloured, and NO_COLOR is respected; nothing else escapes."""

    def on_terminal(**env):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "lfjax.doctor", "--config", "configs/cut.py:tiny", *hostile],
            cwd=ROOT,
            env=environment() | {"TERM": "xterm"} | env,
            stdout=theirs,
        )
        os.close(theirs)
        out = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # what Linux says when the other side is closed
                break
            if not block:
                break
            out += block
        os.close(ours)
        assert process.wait() == 0
        return out.decode()

    styles = set(re.findall(r"\x1b([^m]*m)", on_terminal(NO_COLOR="")))
    assert (
        {"[33;4m", "[36;4m", "[2m", "[31;9m", "[0m"}
        <= styles
        <= {"[33;4m", "[36;4m", "[2m", "[31;9m", "[0m", "[1m"}
    )
    assert "\x1b" not in on_terminal(NO_COLOR="1")


def test_bad_input(tmp_path):
    """As at the door of training: one message, status 2."""
    assert "no file 'configs/cat.py'" in refused(config="configs/cat.py")
    assert "Did you mean 'tiny'?" in refused(config="configs/cut.py:tinny")
    assert "Did you mean 'path'?" in refused("--config.data.pth=x")
    assert "no training stage 'cat'. Did you mean 'cut'?" in refused("--stage=cat")
    assert "rows" in refused("--rows=-1")
    assert "--rerun: the doctor runs nothing" in refused("--rerun=cut")
    assert "unexpected argument 'stray'" in refused("stray")
    assert "missing: no such file" in refused("--config.data.path=missing")
    assert "data.path is not set" in refused(config="configs/cut.py:stories260k")
    assert "does not fit the 1 device(s)" in refused("--config.mesh.data=3")
    assert "row_tokens=64 is less than" in refused("--config.stages.cut.row_tokens=64")
    done = subprocess.run(
        [sys.executable, "-m", "lfjax.doctor"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Example: python -m lfjax.doctor --config configs/cut.py:tiny" in done.stderr


def test_adapters():
    """Rank 4 on the MLP of two layers: (64 + 160) · 4 numbers for each of three projections."""
    text = told("--stage=cut", "--rows=0", "--config.stages.cut.lora.rank=4")
    assert f"127,296 parameters, frozen, {2 * 3 * (64 + 160) * 4:,} of adapters trained" in text


def test_weights_are_not_read(tmp_path):
    """A model directory whose weights are still on their way can be looked at."""
    assert told("--stage=base", "--rows=0", "--config.model.weights=pretrained")


def test_model_of_a_finished_stage(finished):  # noqa: F811
    """With --workdir, a stage that starts from another one is looked at with that one's files."""
    done = json.loads((finished[0] / "base" / "done.json").read_text())
    assert done["outputs"]["model"]["path"] == "hf"
    assert told("--stage=cut", "--rows=0", f"--workdir={finished[0]}") == told(
        "--stage=cut", "--rows=0"
    )


# --- parts ------------------------------------------------------------------------------------


def test_histogram():
    lines = histogram("things", [1, 2, 2, 9, 30])
    assert lines[0] == "things: 5, from 1 to 30, median 2, 95 % up to 26"
    assert [line.split()[0] for line in lines[1:]] == [f"{a}–{a + 4}" for a in range(0, 35, 5)]
    assert [int(line.split()[-1]) for line in lines[1:]] == [3, 1, 0, 0, 0, 0, 1]
    assert lines[1].count("█") == 40 and lines[2].count("█") == 14 and "█" not in lines[3]
    assert histogram("nothing", []) == []
    assert len(histogram("one", [7])) == 2
    rng = np.random.default_rng(0)
    for high in (3, 50, 1234, 10**6):
        values = rng.integers(0, high, 200).tolist()
        bars = histogram("x", values)[1:]
        assert len(bars) <= 10 and sum(int(b.split()[-1]) for b in bars) == 200


def test_eos_share():
    """Without it a run whose responses have no end looks like any other."""
    tokenizer, template = load_tokenizer(str(ROOT / "lfjax/lab/demo")), template_text("alpaca")

    def unit(last, weight):
        return Unit(0, (Segment(np.array([1, 5, 6, last]), 2, 1, weight, None),))

    def share(*units):
        return eos_share(Encoded(list(units)), tokenizer, template)

    assert share(unit(tokenizer.eos, 1.0), unit(7, 1.0)) == 0.5
    assert share(unit(tokenizer.eos, 1.0), unit(7, 0.0)) == 1.0  # scored, not learned
    assert share(unit(7, 0.0)) == 0.0


def test_safe():
    assert safe("a\nb") == "a\\nb" and safe("a\nb", lines=True) == "a\nb"
    assert safe("\x1b[0m\x7f\x85\ud800\u200f\ufeff") == r"\x1b[0m\x7f\x85\ud800\u200f\ufeff"
    assert safe("Ünï 日本 😀 e\u0301") == "Ünï 日本 😀 e\u0301"


def test_paint():
    assert Paint(False)("bold", "x") == "x" and Paint(True)("bold", "") == ""
    assert Paint(True)(["PLAIN", "twin"], "a\nb") == "\x1b[32;4ma\x1b[0m\n\x1b[32;4mb\x1b[0m"

    class Terminal:
        def isatty(self):
            return True

    assert colourful(Terminal(), {"TERM": "xterm", "NO_COLOR": ""})
    assert not colourful(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})
    assert not colourful(Terminal(), {"TERM": "dumb"})
