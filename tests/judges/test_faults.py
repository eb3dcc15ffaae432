"""The endpoint against a real server, `transformers serve`, with and without a proxy that spoils
three in ten requests."""

import pytest

from lfjax.data.records import Message, Record
from lfjax.errors import UserError
from lfjax.judges import apply, get_judge, questions_of
from lfjax.judges import endpoint as endpoint_module
from lfjax.judges.asking import Question, collect
from lfjax.judges.endpoint import Endpoint
from lfjax.judges.store import Store
from tests.judges.servers import FAULTS, FaultProxy, serving

TIMEOUT_S = 5.0  # the server has the machine for itself, or it does not
FAILURES = {  # what the proxy did -> what the client saw
    "429": "HTTP 429",
    "500": "HTTP 500",
    "timeout": "timed out",
    "cut": "connection failed",
    "broken": "broken reply",
    "empty": "empty answer",
}


def prompts(n):
    return [Question((Message("user", f"Once upon a time, {i} dogs"),)) for i in range(n)]


def endpoint(url, model, **settings):
    how = dict(key_env="", parameters={"temperature": 0.0, "max_tokens": 8}, concurrency=4)
    return Endpoint(url=url, model=model, **{**how, **settings}).asker


def test_a_served_model_answers(served_stories, tmp_path):
    """Greedy answers do not depend on when they were asked for."""
    url, model = served_stories
    with Store(tmp_path / "a") as a, Store(tmp_path / "b") as b:
        one = collect(prompts(6), endpoint(url, model), a)
        two = collect(prompts(6), endpoint(url, model, concurrency=1), b)
    assert one.counts["answered"] == 6 and one.counts["tokens"] == 6 * 8
    assert [x.text for x in one.answers] == [x.text for x in two.answers]
    assert all(x.finish == "length" and x.prompt_tokens > 0 for x in one.answers)


def test_a_served_model_judges(served_stories, tmp_path):
    """A model of 260 thousand parameters judges badly, but by the same way as any other."""
    url, model = served_stories
    records = [
        Record(str(i), "test", (Message("user", "Tell me"),), response=f"Story {i}")
        for i in range(3)
    ]
    asker = endpoint(url, model, parameters={"temperature": 0.0, "max_tokens": 400})
    judge = get_judge("cut")
    with Store(tmp_path) as store:
        got = collect([q for r in records for q in questions_of(r, judge)], asker, store)
    assert got.counts["answered"] == 3
    for record, answer in zip(records, got.answers):
        judged, missing = apply(record, judge, [answer], asker.name)
        if missing is None:
            (said,) = judged.feedback
            assert said.author == model and said.text == answer.text.strip()
        else:
            assert judged.meta["not_judged"] == {"reason": missing, "answers": [answer.text]}


def test_an_unknown_model(served_stories, tmp_path):
    url, _ = served_stories
    with (
        Store(tmp_path) as store,
        pytest.raises(UserError, match=r"refused 3 .*requested 'nosuch'") as caught,
    ):
        collect(prompts(3), endpoint(url, "nosuch"), store)
    assert "\n" not in str(caught.value)


def test_three_in_ten_requests_fail(served_stories, tmp_path, monkeypatch, key, capfd):
    """Every question ends answered or missing, and the ledger is the proxy's own count."""
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.05)
    url, model = served_stories
    proxy = FaultProxy(url, share=0.3, timeout_s=TIMEOUT_S)
    prices = dict(prompt_price=2e6, price=3e6)
    with serving(proxy) as spoiled:
        how = dict(key_env="LFJAX_TEST_KEY", timeout_s=TIMEOUT_S, deadline_s=90.0, concurrency=4)
        asker = endpoint(spoiled, model, **how, **prices)
        with Store(tmp_path) as store:
            got = collect(prompts(100), asker, store)
    counts = got.counts
    assert counts["answered"] + sum(got.missing.values()) == 100 and got.left == 0
    assert counts["answered"] >= 98
    assert counts["attempts"] == proxy.counts.total()
    seen = [f for a in got.asked for f in a.failures]
    assert {what: seen.count(FAILURES[what]) for what in FAULTS} == {
        what: proxy.counts[what] for what in FAULTS
    }
    assert all(proxy.counts[what] for what in FAULTS)
    assert (counts["prompt_tokens"], counts["tokens"]) == (proxy.prompt_tokens, proxy.tokens)
    assert counts["cost"] == pytest.approx(2 * proxy.prompt_tokens + 3 * proxy.tokens)
    with Store(tmp_path) as store:
        assert sum(e.get("cost", 0) for e in store.entries) == pytest.approx(counts["cost"])
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    shown = "".join(capfd.readouterr())
    assert key.encode() not in written and key not in shown
