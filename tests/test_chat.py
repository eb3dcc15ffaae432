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
    assert "12 tokens" in one.stderr and "cut at refine_tokens" in one.stderr
    reason = "cut off at the limit of tokens"
    assert f"(not read as a refinement: {reason}; the answer stays, 1 of 1 so far)" in one.stderr


def test_refinement_within_the_default_limits(stories):
    """Without it `--self_refine` asks for all of max_tokens beside the conversation, which never
    fits."""
    one = chat(f"--model={stories}", "--template=bare", "--self_refine", "--prompt=Once upon a")
    assert one.returncode == 0, one.stderr
    assert "\n### Feedback\n" in one.stdout and one.stderr.count("tokens/s") == 2
    assert "(not read as a refinement: " in one.stderr and "1 of 1 so far" in one.stderr


def test_refinements_of_a_model_that_learned_no_feedback(stories, tmp_path):
    """Without it what such a model says is never read. It goes on after the heading that it was
    taught; where the conversation leaves no room for that, the answer stays, and is counted."""
    template = tmp_path / "stories.jinja"  # a story ends with <s>
    template.write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ bos_token }}{% endif %}{% endfor %}"
    )
    flags = (f"--model={stories}", f"--template={template}", "--temperature=0")
    flags += ("--max_new_tokens=8", "--self_refine", "--leave_out=feedback")
    one = chat(*flags, "--prompt=Once upon a time")
    assert one.returncode == 0, one.stderr
    assert "\n### Improved Response\n" in one.stdout and "### Feedback" not in one.stdout
    assert "cut at" not in one.stderr.splitlines()[-1] and "not read" not in one.stderr
    two = chat(*flags, "--max_tokens=16", said="Once upon a time\n/new\nA cat sat\n")
    assert two.returncode == 0, two.stderr
    kept = "max_tokens=16 leaves no room for it; the answer stays"
    assert f"{kept}, 1 of 1 so far" in two.stderr and f"{kept}, 2 of 2 so far" in two.stderr


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
        (("--model=MODEL", "--leave_out=score"), "set --self_refine"),
        (("--model=MODEL", "--self_refine", "--leave_out=scor"), "Did you mean 'score'"),
    ],
)
def test_mistakes(stories, flags, told):
    run = chat(*(f.replace("MODEL", stories) for f in flags))
    assert run.returncode == 2 and told in run.stderr and "Traceback" not in run.stderr
