"""The chat door: answers as they come, several turns, and mistakes."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.stages.conftest import environment


def chat(*flags, said=""):
    return subprocess.run(
        [sys.executable, "-m", "lfjax.chat", *flags],
        cwd=ROOT,
        env=environment(),
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_question(stories):
    flags = (f"--model={stories}", "--template=bare", "--temperature=0", "--max_new_tokens=20")
    one = chat(*flags, "--prompt=Once upon a time", "--max_tokens=128")
    assert one.returncode == 0, one.stderr
    assert one.stdout.startswith(", there was a little girl named") and one.stdout.endswith("\n")
    assert "20 tokens," in one.stderr and "tokens/s, cut at max_new_tokens" in one.stderr


def test_a_refinement_that_cannot_be_read(stories):
    """The heading is written for the model; the first answer stays."""
    flags = (f"--model={stories}", "--template=bare", "--temperature=0", "--max_new_tokens=8")
    flags += ("--self_refine", "--refine_tokens=12", "--max_tokens=128")
    one = chat(*flags, "--prompt=Once upon a time")
    assert one.returncode == 0, one.stderr
    assert "\n### Feedback\n" in one.stdout and one.stderr.count("tokens/s") == 2
    assert (
        "(not read as a refinement: cut off at the limit of tokens; the answer stays)" in one.stderr
    )


def test_a_conversation(stories):
    """Later turns see the earlier ones; a conversation that became too long is told so."""
    flags = (f"--model={stories}", "--template=bare", "--max_new_tokens=24", "--max_tokens=80")
    said = "Once upon a time\nThe dog\n/new\nA cat\nwas in the garden and saw a bird\nand a fox\n"
    run = chat(*flags, said=said)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("tokens/s") >= 3
    assert "/new begins another conversation" in run.stderr


@pytest.mark.parametrize(
    "flags, told",
    [
        ((), "--model DIRECTORY_OR_HUB_ID is needed"),
        (("--model=/nowhere",), "/nowhere"),
        (("--model=MODEL",), "the model has no chat template"),
        (("--model=MODEL", "--template=bare", "--prompt=x", "--top_p=0"), "top_p=0.0"),
        (
            ("--model=MODEL", "--template=bare", "--prompt=x", "--max_tokens=8"),
            "do not fit the cache",
        ),
    ],
)
def test_mistakes(stories, flags, told):
    run = chat(*(f.replace("MODEL", stories) for f in flags))
    assert run.returncode == 2 and told in run.stderr and "Traceback" not in run.stderr
