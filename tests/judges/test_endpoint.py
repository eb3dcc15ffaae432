"""The endpoint against an HTTP server: limits, retries, fatal errors, costs."""

import asyncio
import builtins
import itertools
import logging
import time
from contextlib import contextmanager

import pytest

from lfjax.data.records import Message
from lfjax.errors import UserError
from lfjax.judges import endpoint as endpoint_module
from lfjax.judges.asking import Question, collect
from lfjax.judges.endpoint import Endpoint, Pace
from lfjax.judges.replies import Failed, Usage, read_completion, retry_after
from lfjax.judges.store import Store
from tests.judges.servers import Chat, completion, refusal, serving


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Waits between attempts are as short as a test wants them."""
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(endpoint_module, "LONGEST_WAIT_S", 0.1)


def endpoint(url, **settings):
    how = dict(model="m", key_env="LFJAX_TEST_KEY", timeout_s=2.0, deadline_s=10.0)
    return Endpoint(**{"url": url, **how, **settings})


@contextmanager
def asked(tmp_path, chat, questions, *, budget=None, stopped=lambda: False, **settings):
    """What a collection from a server gives."""
    with serving(chat) as url, Store(tmp_path / "store") as store:
        asker = endpoint(url, **settings).asker
        yield collect(questions, asker, store, budget=budget, stopped=stopped)


def test_what_is_sent_and_what_comes_back(tmp_path, key):
    chat = Chat()
    conversation = (Message("system", "Be brief."), Message("user", "Hi ☺"))
    questions = [Question(conversation, sample=s) for s in range(3)]
    parameters = {"temperature": 0.5, "seed": 10, "max_tokens": None, "odd": [1]}
    prices = dict(prompt_price=100.0, price=1000.0)
    with asked(tmp_path, chat, questions, parameters=parameters, **prices) as got:
        pass
    assert [a.text for a in got.answers] == ["said Hi ☺"] * 3
    assert sorted(b["seed"] for b in chat.bodies) == [10, 11, 12]
    for body in chat.bodies:
        messages = [{"role": m.role, "content": m.content} for m in conversation]
        assert body["messages"] == messages and body["model"] == "m"
        assert body["temperature"] == 0.5 and body["odd"] == [1] and "max_tokens" not in body
    assert chat.keys == [f"Bearer {key}"] * 3
    assert got.counts["prompt_tokens"] == 21 and got.counts["tokens"] == 9
    assert got.spent == pytest.approx((21 * 100 + 9 * 1000) / 1e6)


def test_answers_keep_their_order_while_many_fly(tmp_path, questions):
    chat = Chat(seconds=0.05)
    with asked(tmp_path, chat, questions(40), concurrency=8) as got:
        assert [a.text for a in got.answers] == [f"said question {i}" for i in range(40)]
    assert chat.most == 8 and len(chat.asked) == 40


def test_requests_per_minute_are_spaced(tmp_path, questions):
    chat = Chat()
    with asked(tmp_path, chat, questions(12), requests_per_minute=600.0):
        pass
    gaps = [b - a for a, b in itertools.pairwise(chat.times)]
    assert chat.times[-1] - chat.times[0] >= 1.0 and sorted(gaps)[len(gaps) // 2] > 0.05


def test_tokens_per_minute_count_what_was_used(tmp_path, questions):
    """Answers of 10 tokens at 1,200 a minute: half a second each, whatever max_tokens says."""
    chat = Chat()
    begun = time.monotonic()
    how = dict(tokens_per_minute=1200.0, concurrency=1, parameters={"max_tokens": 90})
    with asked(tmp_path, chat, questions(5), **how) as got:
        assert got.counts["answered"] == 5
    assert 2.0 <= time.monotonic() - begun < 10.0


def test_pace_is_a_rate_without_bursts():
    pace = Pace(60.0)
    pace.take(1, now=100.0)
    pace.take(2, now=100.0)
    assert pace.free_at == 103.0
    pace.take(1, now=200.0)
    assert pace.free_at == 201.0
    pace.hold(300.0)
    assert pace.free_at == 300.0
    free = Pace(0.0)
    free.take(1000, now=5.0)
    assert free.free_at == 5.0


def test_failures_are_retried_and_counted(tmp_path, questions):
    seen = {}

    def say(text):
        seen[text] = seen.get(text, 0) + 1
        return [refusal(500, "oops"), None, completion(""), completion("yes")][seen[text] - 1]

    with asked(tmp_path, Chat(say), questions(6)) as got:
        pass
    assert {a.failures for a in got.answers} == {("HTTP 500", "connection failed", "empty answer")}
    assert got.counts["attempts"] == 24 and got.counts["answered"] == 6
    assert got.counts["tokens"] == 6 * (3 + 3)  # an empty answer is paid for


def test_retry_after_holds_everybody_back(tmp_path, questions):
    """After the 429, nothing is sent for as long as the server says."""
    first = iter([refusal(429, "slow down", **{"Retry-After": "1"})])
    chat = Chat(lambda text: next(first, completion("yes")))
    with asked(tmp_path, chat, questions(5), concurrency=1) as got:
        assert got.counts["answered"] == 5 and got.counts["attempts"] == 6
    assert chat.times[1] - chat.times[0] >= 1.0


def test_a_request_ends_at_its_deadline(tmp_path, questions):
    def say(text):
        return refusal(503, "busy") if text == "question 3" else completion("yes")

    begun = time.monotonic()
    with asked(tmp_path, Chat(say), questions(5), deadline_s=1.0) as got:
        assert [a.text for a in got.answers] == ["yes", "yes", "yes", None, "yes"]
        assert got.answers[3].reason == "HTTP 503: busy"
        assert got.answers[3].attempts == len(got.answers[3].failures) > 1
    assert time.monotonic() - begun < 4.0


def test_empty_answers_are_not_paid_for_without_end(tmp_path, questions):
    chat = Chat(lambda text: completion(""))
    with asked(tmp_path, chat, questions(2)) as got:
        assert got.missing == {"empty answer": 2}
    assert len(chat.asked) == 2 * endpoint_module.EMPTY_ATTEMPTS


def test_an_answer_cut_off_before_it_began_is_an_answer(tmp_path, questions):
    """Asked again it would end the same way, at the same price."""
    chat = Chat(lambda text: completion(None, finish="length"))
    with asked(tmp_path, chat, questions(2)) as got:
        assert [(a.text, a.finish) for a in got.answers] == [("", "length")] * 2
    assert len(chat.asked) == 2


def test_one_refused_prompt_does_not_stop_the_others(tmp_path, questions):
    def say(text):
        return refusal(400, "too long") if text == "question 1" else completion("yes")

    with asked(tmp_path, Chat(say), questions(3)) as got:
        assert got.missing == {"HTTP 400: too long": 1} and got.counts["attempts"] == 3


def test_budget_stops_cleanly_and_a_larger_one_goes_on(tmp_path, questions):
    """Each answer costs 1; those in flight when the budget is reached are stored too."""
    chat = Chat(lambda text: completion("yes", usage=(0, 1)), seconds=0.02)
    how = dict(price=1e6, concurrency=4)
    with asked(tmp_path, chat, questions(40), budget=10.0, **how) as got:
        assert 10 <= got.counts["answered"] <= 13 and got.spent == got.counts["answered"]
        assert got.left == 40 - got.counts["answered"] == got.missing["not asked: budget spent"]
    before = len(chat.asked)
    port = {}
    with serving(chat) as url, Store(tmp_path / "other") as store:
        asker = endpoint(url, **how).asker
        for budget in (5.0, 5.0, 100.0):
            port[budget] = collect(questions(40), asker, store, budget=budget)
        assert port[5.0].counts["asked"] == 0  # the second time: what was spent stays spent
        assert port[100.0].counts["answered"] == 40
    assert len(chat.asked) - before == 40


def test_a_stop_waits_for_what_flies(tmp_path, questions):
    chat = Chat(seconds=0.05)
    how = dict(concurrency=4, stopped=lambda: len(chat.asked) >= 8)
    with asked(tmp_path, chat, questions(40), **how) as got:
        assert got.counts["answered"] == len(chat.asked) < 14
        assert got.missing == {"not asked: stopped": 40 - len(chat.asked)}


FATAL = {
    "wrong key": (refusal(401, "Incorrect API key provided: sk-very-secret-0123456789"), "LFJAX"),
    "forbidden": (refusal(403, "no"), "does not allow the use of model 'm'"),
    "unknown model": (refusal(404, "The model `m` does not exist"), "knows no model 'm'"),
    "no credit": (refusal(429, "pay first", "insufficient_quota"), "no credit left"),
    "an hour": (refusal(429, "wait", **{"Retry-After": "3600"}), "for 3600 s"),
    "all malformed": (refusal(400, "unknown parameter"), "answered none of the requests"),
}


@pytest.mark.parametrize("case", FATAL)
def test_what_cannot_get_better_stops_at_once(tmp_path, questions, key, case):
    """One line, the answers before it stay, and nobody asks on."""
    reply, message = FATAL[case]
    chat = Chat()
    few, all_of_them = questions(4), questions(200)
    with serving(chat) as url, Store(tmp_path / "store") as store:
        asker = endpoint(url, concurrency=4).asker
        collect(few, asker, store)
        chat.say = lambda text: reply
        begun = time.monotonic()
        with pytest.raises(UserError, match=message) as caught:
            collect(all_of_them, asker, store)
        assert time.monotonic() - begun < 5
        assert collect(few, asker, store).counts["asked"] == 0
    assert len(chat.asked) < 40
    told = str(caught.value)
    assert "\n" not in told and key not in told and "4 of 200 answers are stored" in told


def test_few_malformed_requests_are_told_at_the_end(tmp_path, questions):
    chat = Chat(lambda text: refusal(400, "unknown parameter 'odd'"))
    with (
        pytest.raises(UserError, match=r"refused 2 .HTTP 400: unknown parameter 'odd'"),
        asked(tmp_path, chat, questions(2)),
    ):
        pass


def test_an_endpoint_that_is_down(tmp_path, questions):
    with serving(Chat()) as url:
        pass
    begun = time.monotonic()
    with Store(tmp_path / "store") as store, pytest.raises(UserError, match="cannot be reached"):
        collect(questions(50), endpoint(url).asker, store)
    assert time.monotonic() - begun < 5


def test_an_endpoint_that_hangs_is_given_up_after_one_deadline(tmp_path, questions):
    begun = time.monotonic()
    how = dict(timeout_s=0.4, deadline_s=1.0, concurrency=4)
    with (
        pytest.raises(UserError, match=r"has not replied for 1 s .timed out"),
        asked(tmp_path, Chat(seconds=3.0), questions(50), **how),
    ):
        pass
    assert time.monotonic() - begun < 6


def test_key_comes_from_the_environment(tmp_path, questions, monkeypatch):
    monkeypatch.delenv("LFJAX_TEST_KEY")
    chat = Chat()
    with (
        pytest.raises(UserError, match="LFJAX_TEST_KEY, which is not set"),
        asked(tmp_path, chat, questions(1)),
    ):
        pass
    assert not chat.asked
    with asked(tmp_path, chat, questions(1), key_env="") as got:
        assert got.counts["answered"] == 1


def test_an_endpoint_that_tells_the_key(tmp_path, questions, key, capfd, caplog):
    """Neither answers nor errors hold it, nor does the client's own log."""
    caplog.set_level(logging.DEBUG)
    replies = iter([refusal(500, f"bad {key}"), completion(f"your key is {key}")])
    with asked(tmp_path, Chat(lambda text: next(replies)), questions(1)) as got:
        assert [a.text for a in got.answers] == ["your key is [key]"]
    chat = Chat(lambda text: refusal(503, f"bad {key}"))
    with asked(tmp_path / "late", chat, questions(1), deadline_s=1.0) as got:
        assert got.missing == {"HTTP 503: bad [key]": 1}
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    shown = "".join(capfd.readouterr()) + caplog.text
    assert key.encode() not in written and key not in shown and "HTTP Response" in shown


def test_in_a_notebook(tmp_path, questions):
    """Where an event loop runs already."""

    async def cell():
        with asked(tmp_path, Chat(), questions(3)) as got:
            return got.counts["answered"]

    assert asyncio.run(cell()) == 3


def test_an_interruption_ends_it(tmp_path, questions):
    """What came before is stored; what flies is given up."""
    chat = Chat(seconds=0.1)

    def interrupt():
        if len(chat.asked) >= 8:
            raise KeyboardInterrupt
        return False

    how = dict(concurrency=4, stopped=interrupt)
    with pytest.raises(KeyboardInterrupt), asked(tmp_path, chat, questions(40), **how):
        pass
    with Store(tmp_path / "store") as store:
        assert 4 <= len(store.entries) <= len(chat.asked) < 16


def test_without_the_package(tmp_path, questions, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "openai":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(UserError, match=r'pip install "lfjax\[judge\]"'),
        asked(tmp_path, Chat(), questions(1)),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(url="localhost:8000"), "expected http"),
        (dict(url="http://me:secret@host/v1"), "key_env"),
        (dict(url="http://host/v1?api-key=secret"), "key_env"),
        (dict(model=""), "model: is empty"),
        (dict(concurrency=0), "concurrency=0"),
        (dict(deadline_s=-1.0), "deadline_s=-1"),
        (dict(price=-1.0), "price=-1"),
        (dict(parameters={"n": 2}), "'n' is set by the program"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        endpoint(**{"url": "http://host/v1", **settings})
    assert "secret" not in str(caught.value)


def test_identity_is_what_the_answer_depends_on():
    one = endpoint("http://host/v1/", parameters={"temperature": 0.0, "top_p": None})
    two = endpoint("http://host/v1", parameters={"temperature": 0.0}, concurrency=2, price=3.0)
    assert one.asker.identity == two.asker.identity
    assert one.asker.identity != endpoint("http://host/v1", model="other").asker.identity


def test_replies_are_read():
    usage = Usage()
    text, finish = read_completion(completion("A \ud83d b")[2].decode(), usage, 99)
    assert (text, finish) == ("A � b", "stop") and (usage.prompt_tokens, usage.tokens) == (7, 3)
    read_completion(completion("x" * 40, usage=None)[2].decode(), usage, 99)
    assert (usage.prompt_tokens, usage.tokens) == (7 + 99, 3 + 11)
    for broken in ("", "{", "[]", "null", "<html>", '{"choices": []}', '{"choices": [{}]}'):
        with pytest.raises(Failed, match="broken reply"):
            read_completion(broken, usage, 99)
    assert usage.total == 7 + 99 + 3 + 11


def test_retry_after_is_read_in_all_its_forms():
    date = "Thu, 01 Jan 1970 00:01:40 GMT"
    assert retry_after({"retry-after": "2"}, 0.0) == 2.0
    assert retry_after({"retry-after": date}, 40.0) == 60.0
    assert retry_after({"retry-after": date}, 400.0) == 0.0
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}, 0.0) == 0.25
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "-3"}, {"retry-after": "nan"}):
        assert retry_after(nothing, 0.0) == 0.0
