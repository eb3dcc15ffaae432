"""A collection that is killed again and again asks for nothing twice that it has stored."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

from tests.conftest import ROOT
from tests.judges.servers import Chat, serving

QUESTIONS, KILLS, CONCURRENCY = 500, 10, 8
COLLECT = f"""
import sys
from lfjax.data.records import Message
from lfjax.judges.asking import Question, collect
from lfjax.judges.endpoint import Endpoint
from lfjax.judges.store import Store

url, folder = sys.argv[1:]
questions = [Question((Message("user", str(i)),)) for i in range({QUESTIONS})]
asker = Endpoint(url, "m", key_env="", concurrency={CONCURRENCY}).asker
with Store(folder) as store:
    got = collect(questions, asker, store)
assert [a.text for a in got.answers] == [f"said {{i}}" for i in range({QUESTIONS})]
"""


def stored(folder):
    """What was asked in the lines that are whole."""
    parts = (part.read_bytes().split(b"\n")[:-1] for part in folder.glob("part-*"))
    return [json.loads(line)["text"].removeprefix("said ") for part in parts for line in part]


def test_killed_ten_times(tmp_path):
    chat = Chat(seconds=0.02)
    chance, repeats, kept = random.Random(0), [], set()
    with serving(chat) as url:
        command = [sys.executable, "-c", COLLECT, url, str(tmp_path / "store")]

        def start():
            return subprocess.Popen(
                command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL
            )

        for _ in range(KILLS):
            before = len(chat.asked)
            run, until = start(), before + chance.randint(10, 55)
            while len(chat.asked) < until and run.poll() is None:
                time.sleep(0.001)
            assert run.poll() is None, "the collection ended before it was killed"
            run.send_signal(signal.SIGKILL)
            run.wait()
            while chat.flying:  # the server finishes what it was asked
                time.sleep(0.01)
            assert not kept & set(chat.asked[before:])  # nothing that had been stored
            kept = set(stored(tmp_path / "store"))
            repeats.append(len(set(chat.asked) - kept))
        run = start()
        assert run.wait(timeout=120) == 0
    times = Counter(chat.asked)
    again = sum(times.values()) - QUESTIONS
    print("repeats per kill:", repeats, "requests:", len(chat.asked), "for", QUESTIONS)
    assert set(times) == set(map(str, range(QUESTIONS)))
    assert sorted(stored(tmp_path / "store")) == sorted(times)  # each once
    assert max(repeats) <= CONCURRENCY and again == sum(repeats) <= KILLS * CONCURRENCY
