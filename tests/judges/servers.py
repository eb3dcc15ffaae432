"""HTTP servers for tests: a chat endpoint that answers at once, and a proxy that spoils some of
what passes through it. Both count what they do."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("429", "500", "timeout", "cut", "broken", "empty")
Reply = tuple[int, dict[str, str], bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(reply: Callable[[str, dict, Mapping[str, str]], Reply | None], port: int = 0):
    """Serve POSTs: `reply(path, body, headers)` gives what to send, None to cut the connection, and
    a reply whose Content-Length is more than its body to cut it halfway. Yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            given = reply(self.path, body, self.headers)
            self.close_connection = given is None
            if given is None:
                return
            status, headers, content = given
            self.send_response(status)
            headers = {"Content-Type": "application/json"} | headers
            headers.setdefault("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = int(headers["Content-Length"]) != len(content)

        def log_message(self, *_):
            pass

        def handle(self):
            with suppress(OSError, ValueError):  # the client is gone, perhaps in mid-sentence
                super().handle()

    server = _Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def completion(text: str | None, *, finish: str = "stop", usage=(7, 3)) -> Reply:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    content = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    if usage:
        content["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return 200, {}, json.dumps(content).encode()


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI words it."""
    error = {"message": message, "type": "x", "param": None, "code": code}
    return status, headers, json.dumps({"error": error}).encode()


class Chat:
    """A chat endpoint that answers with `say(text of the last message)`, after `seconds`.

    Attributes:
      asked: the last message of every request, in order.
      bodies, keys: the bodies and the Authorization headers.
      times: when they came.
      most: requests that were in flight at the same time, at most.
    """

    def __init__(self, say: Callable[[str], Reply] | None = None, seconds: float = 0.0):
        self.say = say or (lambda text: completion(f"said {text}"))
        self.seconds = seconds
        self.asked, self.bodies, self.keys, self.times = [], [], [], []
        self.flying = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, path: str, body: dict, headers: Mapping[str, str]) -> Reply | None:
        text = body["messages"][-1]["content"]
        with self.lock:
            self.asked.append(text)
            self.bodies.append(body)
            self.keys.append(headers.get("Authorization"))
            self.times.append(time.monotonic())
            self.flying += 1
            self.most = max(self.most, self.flying)
        try:
            time.sleep(self.seconds)
            return self.say(text)
        finally:
            with self.lock:
                self.flying -= 1


class FaultProxy:
    """Passes requests on to `target`, and spoils a share of them.

    Attributes:
      counts: requests by what became of them, `passed` among them.
      prompt_tokens, tokens: of the replies whose usage reached the client.
    """

    def __init__(self, target: str, *, share: float, timeout_s: float, seed: int = 0):
        self.target, self.share, self.timeout_s = urlsplit(target), share, timeout_s
        self.chance = random.Random(seed)
        self.counts, self.lock = Counter(), threading.Lock()
        self.prompt_tokens = self.tokens = 0

    def __call__(self, path: str, body: dict, headers: Mapping[str, str]) -> Reply | None:
        with self.lock:
            faulty = self.chance.random() < self.share
            what = self.chance.choice(FAULTS) if faulty else "passed"
            self.counts[what] += 1
        if what == "429":
            return refusal(429, "slow down", **{"Retry-After": "0.1"})
        if what == "500":
            return 500, {"Content-Type": "text/plain"}, b"Internal Server Error"
        if what == "timeout":
            time.sleep(2 * self.timeout_s)
            return None
        if what == "cut":
            return None
        content = self._forward(path, body, headers)
        if what == "broken":
            return 200, {}, content[: len(content) // 2]
        reply = json.loads(content)
        if what == "empty":
            reply["choices"][0]["message"]["content"] = ""
            reply["choices"][0]["finish_reason"] = "stop"
        with self.lock:
            self.prompt_tokens += reply["usage"]["prompt_tokens"]
            self.tokens += reply["usage"]["completion_tokens"]
        return 200, {}, json.dumps(reply).encode()

    def _forward(self, path: str, body: dict, headers: Mapping[str, str]) -> bytes:
        connection = http.client.HTTPConnection(self.target.netloc, timeout=60)
        content = json.dumps(body)
        connection.request("POST", path, content, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        given = reply.read()
        connection.close()
        assert reply.status == 200, given
        return given
