"""Recipes with stages that collect answers: what several processes make is what one makes."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.judges.servers import Chat, completion, serving
from tests.processes.conftest import RECIPE, Group, run

pytestmark = pytest.mark.slow


def lines(workdir, stage, name="records"):
    return (workdir / stage / f"{name}.jsonl").read_text().splitlines()


def losses(workdir, stage):
    return [json.loads(line)["loss"] for line in lines(workdir, stage, "metrics")]


def parts(workdir):
    """Answers in the store, by the process that wrote them."""
    found = {}
    for part in (workdir / "store").glob("part-*.jsonl"):
        process = int(re.match(r"part-(\d+)", part.name)[1])
        found[process] = found.get(process, 0) + len(part.read_text().splitlines())
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "w"
    run(workdir, 1, 8, variant="together")
    return workdir


@pytest.mark.parametrize("variant, written", [("together", {0: 24}), ("host", {0: 12, 1: 12})])
def test_two_processes_are_one(alone, tmp_path, variant, written):
    """Answers, judgments, and the losses of what is learned from them; asked once each."""
    workdir = tmp_path / "w"
    group = run(workdir, 2, 4, variant=variant)
    for stage in ("answers", "judged"):
        assert lines(workdir, stage) == lines(alone, stage)
    for stage in ("start", "cut"):
        np.testing.assert_allclose(losses(workdir, stage), losses(alone, stage), rtol=1e-5)
    assert parts(workdir) == written
    done = json.loads((workdir / "answers" / "done.json").read_text())
    assert done["cost"]["asked"] == 24 and done["provenance"]["processes"] == 2
    assert "satisfactory" in group.told(0)


def test_one_process_asks_an_endpoint(tmp_path):
    """The others wait for it, and all read the same records."""
    chat = Chat(lambda text: completion(f"Yes: {text}"))
    with serving(chat) as url:
        flag = f"--config.stages.answers.endpoint.url={url}"
        run(tmp_path / "w", 2, 4, flag, variant="served")
    assert len(chat.asked) == 24 and parts(tmp_path / "w") == {0: 24}
    assert len(lines(tmp_path / "w", "judged")) == 24


@pytest.fixture(scope="module", params=["together", "host"])
def killed(request, tmp_path_factory):
    """Two processes of which the second was killed while they collect, and how they collect."""
    workdir = tmp_path_factory.mktemp("killed") / "w"
    group = Group(workdir, 2, 4, config=f"{RECIPE}:{request.param}")
    group.wait_for(workdir / "store" / "part-0-0.jsonl")
    group.processes[1].kill()
    assert group.wait(120)[0] != 0
    return workdir, request.param


@pytest.mark.parametrize("count", [1, 2, 4])
def test_killed_while_it_collects(alone, killed, tmp_path, count):
    """What was answered is not asked again, by however many processes the run goes on, and what is
    learned from it is the same."""
    workdir = tmp_path / "w"
    shutil.copytree(killed[0], workdir)
    before = sum(parts(workdir).values())
    run(workdir, count, 8 // count, variant=killed[1])
    for stage in ("answers", "judged"):
        assert lines(workdir, stage) == lines(alone, stage)
    np.testing.assert_allclose(losses(workdir, "cut"), losses(alone, "cut"), rtol=1e-5)
    assert before > 0 and sum(parts(workdir).values()) == 24
