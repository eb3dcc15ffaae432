"""Ask an OpenAI-compatible chat endpoint: a commercial one, or a server of one's own such as vLLM.

Requests run side by side under limits per minute. One that fails is tried again, after waits that
double, until it is answered or its deadline has passed. What cannot get better (a wrong key, an
unknown model, an endpoint that is down) ends the collection with one message.

The key is read from the environment when asking begins. It is in no message, answer or file.
"""

import asyncio
import os
import random
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lfjax.errors import UserError
from lfjax.judges.asking import Answer, Asker, Asking, Question
from lfjax.judges.replies import EMPTY, Failed, Usage, read_completion, retry_after, tokens_of

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
EMPTY_ATTEMPTS = 3  # an empty answer is paid for, and tends to come again
UNREACHED_ATTEMPTS = 3  # of one request, at an endpoint that has never replied
REFUSED_REQUESTS = 20  # malformed ones, before any was answered: a setting is wrong
MAY_GET_BETTER = (408, 409, 425, 429)  # besides all from 500 on
HOPELESS = {
    401: "refuses the key, which is read from the environment variable that key_env='{key}' names",
    403: "does not allow the use of model '{model}'",
    404: "knows no model '{model}', or this is not the URL of a chat endpoint",
}
OWN_FIELDS = ("model", "messages", "stream", "n")  # of a request; not for `parameters`


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and within what limits.

    Attributes:
      url: up to and without `/chat/completions`.
      model: as the endpoint calls it.
      key_env: name of the environment variable with the key; empty for a server that wants none.
      parameters: of the request, sent as they are: temperature, max_tokens, … Those that are None
        are left out. With a `seed`, sample n is asked with seed + n.
      concurrency: requests in flight.
      requests_per_minute, tokens_per_minute: limits, kept by spacing requests evenly; 0 for none.
      timeout_s: of one attempt.
      deadline_s: of a request with all its attempts and waits.
      prompt_price, price: of a million tokens read, and written.
    """

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 16
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    timeout_s: float = 120.0
    deadline_s: float = 600.0
    prompt_price: float = 0.0
    price: float = 0.0

    def __post_init__(self):
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"url='{self.url}': expected http://… or https://….")
        if parts.username or parts.query:
            raise UserError("url: has a user or a query in it; a key is given by `key_env` alone.")
        if not self.model:
            raise UserError("model: is empty; expected the name by which the endpoint knows it.")
        for name in ("concurrency", "timeout_s", "deadline_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: expected more than 0.")
        for name in ("requests_per_minute", "tokens_per_minute", "prompt_price", "price"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)}: expected 0 or more.")
        for name in OWN_FIELDS:
            if name in self.parameters:
                raise UserError(f"parameters: '{name}' is set by the program itself.")

    @property
    def sent(self) -> dict[str, Any]:
        """The parameters that are set."""
        return {k: v for k, v in self.parameters.items() if v is not None}

    @property
    def asker(self) -> Asker:
        identity = {
            "kind": "endpoint",
            "url": self.url.rstrip("/"),
            "model": self.model,
            "parameters": self.sent,
        }
        return Asker(self.model, identity, lambda questions: _ask(self, questions))


class Pace:
    """Spaces amounts evenly, so many a minute; 0 for no limit. Times are seconds of one clock."""

    def __init__(self, per_minute: float):
        self.seconds = 60.0 / per_minute if per_minute else 0.0
        self.free_at = 0.0

    def take(self, amount: int, now: float) -> None:
        self.free_at = max(self.free_at, now) + amount * self.seconds

    def hold(self, until: float) -> None:
        self.free_at = max(self.free_at, until)


def _ask(endpoint: Endpoint, questions: Iterable[Question]) -> Asking:
    """The event loop turns only while an answer is waited for, in a thread of its own, since the
    caller's may have a loop already (a notebook). Between two answers nothing runs: questions are
    taken, and answers given, in the caller's thread."""
    talk = _Talk(endpoint)
    loop, thread = asyncio.new_event_loop(), ThreadPoolExecutor(1)
    flying: dict[asyncio.Task, int] = {}
    coming = enumerate(questions)
    more = True

    def turn(coroutine):
        return thread.submit(loop.run_until_complete, coroutine).result()

    try:
        while more or flying:
            room = endpoint.concurrency - len(flying) if more else 0
            if room and not (wait := talk.wait()):
                position, question = next(coming, (0, None))
                if more := question is not None:
                    talk.take(question)
                    flying[loop.create_task(talk.answer(question))] = position
                continue
            for task in turn(_first(flying, wait if room else None)):
                yield flying.pop(task), task.result()
            more = more and not talk.over
        talk.conclude()
        if talk.over:
            raise talk.over
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in flying])
        turn(talk.end(flying))
        thread.shutdown()
        loop.close()


async def _first(tasks: Collection[asyncio.Task], timeout: float | None) -> set[asyncio.Task]:
    """The tasks that are done, as soon as there are any or the time is over."""
    if not tasks:
        await asyncio.sleep(timeout)
        return set()
    return (await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED))[0]


class _Talk:
    """What the requests of one collection share: the client, the limits, and whether it is over."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint
        self.key = _key(endpoint)
        self.client = _client(endpoint, self.key)
        self.requests = Pace(endpoint.requests_per_minute)
        self.tokens = Pace(endpoint.tokens_per_minute)
        self.over: UserError | None = None
        self.ended = asyncio.Event()
        self.heard = 0.0  # when the server last replied, whatever it said
        self.answered = self.refused = 0
        self.refusal = ""

    def wait(self) -> float:
        """Seconds until the limits allow a request."""
        return max(0.0, max(self.requests.free_at, self.tokens.free_at) - time.monotonic())

    def take(self, question: Question) -> None:
        """Count a request against the limits. What it has too many tokens is given back when it is
        answered."""
        now = time.monotonic()
        self.requests.take(1, now)
        self.tokens.take(self._most(question), now)

    def _most(self, question: Question) -> int:
        """Tokens that a request may become."""
        asked = self.endpoint.sent
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or 0
        return _guess(question) + limit

    async def answer(self, question: Question) -> Answer:
        """Attempts until there is an answer or none can be expected. The first attempt is taken
        already."""
        begun = time.monotonic()
        deadline = begun + self.endpoint.deadline_s
        usage, failures, said = Usage(), [], {}
        while True:
            try:
                text, finish = await self._attempt(question, deadline, usage)
                self.answered += 1
                return self._answer(text, None, finish, usage, failures)
            except Failed as error:
                failed = error
            failures.append(failed.reason)
            said[failed.reason] = str(failed)
            wait = max(failed.wait_s, _backoff(len(failures)))
            late = time.monotonic() + wait >= deadline
            self._consider(failed, failures, unheard=late and self.heard < begun)
            hopeless = failed.final or failures.count(EMPTY) >= EMPTY_ATTEMPTS
            while wait and not (hopeless or late or self.over):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.ended.wait(), wait)
                wait, late = self.wait(), time.monotonic() >= deadline
            if hopeless or late or self.over:
                most = max(said, key=failures.count)  # the last may just have come too late
                return self._answer(None, said[most], None, usage, failures)
            self.take(question)

    async def _attempt(
        self, question: Question, deadline: float, usage: Usage
    ) -> tuple[str, str | None]:
        """(text, how it ended) of one request. Raises: Failed."""
        import openai

        sent = self.endpoint.sent
        if "seed" in sent:
            sent["seed"] += question.sample
        seconds = min(self.endpoint.timeout_s, max(0.0, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                reply = await self.client.chat.completions.with_raw_response.create(
                    model=self.endpoint.model,
                    messages=[{"role": m.role, "content": m.content} for m in question.messages],
                    extra_body=sent,
                )
        except TimeoutError:
            raise Failed("timed out") from None
        except openai.APIStatusError as error:
            self.heard = time.monotonic()
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            why = self._shown(str(error.__cause__ or error))
            raise Failed("connection failed", why) from None
        except UnicodeEncodeError:
            raise Failed("not sent", "the prompt is not valid text", final=True) from None
        self.heard = time.monotonic()
        before = usage.total
        answer = read_completion(self._without_key(reply.text), usage, _guess(question))
        self.tokens.take(usage.total - before - self._most(question), self.heard)
        return answer

    def _refusal(self, error) -> Failed:
        """What an HTTP error means."""
        status, wait_s = error.status_code, retry_after(error.response.headers, time.time())
        reason, detail = f"HTTP {status}", self._shown(_message(error))
        if status == 429:
            self.requests.hold(time.monotonic() + wait_s)
        if error.code == "insufficient_quota":
            self._end(f"the account has no credit left ({reason}: {detail}).")
        elif wait_s > self.endpoint.deadline_s:
            self._end(f"asks to be left alone for {wait_s:.0f} s ({reason}: {detail}).")
        elif status in HOPELESS:
            why = HOPELESS[status].format(key=self.endpoint.key_env, model=self.endpoint.model)
            self._end(f"{why} ({reason}: {detail}).")
        final = status < 500 and status not in MAY_GET_BETTER
        return Failed(reason, detail, final=final, wait_s=wait_s)

    def _consider(self, failed: Failed, failures: list[str], *, unheard: bool) -> None:
        """End the collection where one request's failure means that all will fail."""
        unreached = failed.reason == "connection failed" and not self.heard
        if unreached and len(failures) >= UNREACHED_ATTEMPTS:
            self._end(f"cannot be reached ({failed}). Is the server running, and the URL right?")
        elif unheard:
            self._end(f"has not replied for {self.endpoint.deadline_s:g} s ({failed}).")
        if failed.final:
            self.refused, self.refusal = self.refused + 1, str(failed)
        if self.refused >= REFUSED_REQUESTS:
            self.conclude()

    def conclude(self) -> None:
        """All is asked. Where everything was refused, that is not for the questions' sake."""
        if self.refused and not self.answered:
            self._end(f"answered none of the requests and refused {self.refused} ({self.refusal}).")

    def _end(self, why: str) -> None:
        if not self.over:
            self.over = UserError(f"{self.endpoint.url}: {why}")
            self.ended.set()

    def _answer(self, text, reason, finish, usage: Usage, failures: list[str]) -> Answer:
        endpoint = self.endpoint
        cost = usage.prompt_tokens * endpoint.prompt_price + usage.tokens * endpoint.price
        counts = (usage.prompt_tokens, usage.tokens, cost / 1e6)
        return Answer(text, reason, finish, *counts, tuple(failures))

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text

    def _shown(self, message: str) -> str:
        """A message of the server's, fit for a terminal."""
        from lfjax.data.load import safe  # which needs JAX: not worth its time before

        return safe(self._without_key(message).strip())[:200]

    async def end(self, flying: Iterable[asyncio.Task]) -> None:
        await asyncio.gather(*flying, return_exceptions=True)
        await self.client.close()


def _message(error) -> str:
    """What a server says of its refusal, which may be JSON of several shapes."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or body.get("detail") or error.message)


def _guess(question: Question) -> int:
    """Tokens of a question, roughly."""
    return sum(tokens_of(m.content) for m in question.messages)


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures, of which half is chance: those who failed together
    should not come back together."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


def _key(endpoint: Endpoint) -> str:
    """The key, empty where none is wanted. Raises: UserError if the environment has none."""
    if not endpoint.key_env:
        return ""
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise UserError(
            f"{endpoint.url}: its key is read from the environment variable {endpoint.key_env}, "
            "which is not set (key_env='' where the server wants no key)."
        )
    return key


def _client(endpoint: Endpoint, key: str):
    """The client, without retries of its own: ours are counted. Raises: UserError without the
    package."""
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise UserError(
            'asking an endpoint needs the package openai: pip install "lfjax[judge]"'
        ) from None
    return AsyncOpenAI(api_key=key or "none", base_url=endpoint.url, max_retries=0, timeout=None)
