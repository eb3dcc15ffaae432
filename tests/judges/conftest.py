"""Shared by the tests of judges: records, questions, and a real server."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lfjax.data.records import Candidate, Message, Record
from lfjax.judges.asking import Question

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def record():
    return Record(
        "r1",
        "test",
        (Message("user", "Name a colour."),),
        response="Blue",
        candidates=(Candidate("Blue"), Candidate("Seven")),
    )


@pytest.fixture
def questions():
    """`questions(n)`: n that differ."""
    return lambda n: [Question((Message("user", f"question {i}"),)) for i in range(n)]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """The key that tests use, which must be found nowhere."""
    monkeypatch.setenv("LFJAX_TEST_KEY", "sk-very-secret-0123456789")
    return "sk-very-secret-0123456789"


@pytest.fixture(scope="session")
def served_stories(stories, tmp_path_factory):
    """(URL, model) of `transformers serve` with the pretrained stories model."""
    pytest.importorskip("fastapi", reason="transformers serve needs the extra 'serving'")
    model = tmp_path_factory.mktemp("served") / "stories"
    shutil.copytree(stories, model)
    (model / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = model.parent / "serve.log"
    with open(log, "wb") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")
