"""What a chat endpoint's replies mean: pure functions over texts and headers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

EMPTY = "empty answer"
BROKEN = "broken reply"
# An answer that ends like this may be empty, and would be again.
ENDED_EARLY = ("length", "content_filter")


class Failed(Exception):
    """An attempt failed.

    Attributes:
      reason: in few words, for counting.
      detail: what was said of it.
      final: another attempt would fail too.
      wait_s: how long the server wants to be left alone.
    """

    def __init__(self, reason: str, detail: str = "", *, final: bool = False, wait_s: float = 0.0):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.final, self.wait_s = reason, final, wait_s


@dataclass
class Usage:
    """Tokens that the attempts of a request have read and written."""

    prompt_tokens: int = 0
    tokens: int = 0

    @property
    def total(self) -> int:
        return self.prompt_tokens + self.tokens


def tokens_of(text: str) -> int:
    """Tokens of a text, a guess: a tokenizer's own count is known only to the server."""
    return len(text) // 4 + 1


def read_completion(body: str, usage: Usage, guess: int) -> tuple[str, str | None]:
    """(text, how it ended) of a chat completion; its tokens are added to `usage`.

    Args:
      guess: tokens of the prompt, for a server that does not report them.

    Raises: Failed where the reply is not one, or empty.
    """
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        # Half a surrogate pair could not be written to a file.
        given = (choice["message"].get("content") or "").encode("utf-16", "surrogatepass")
        text, finish = given.decode("utf-16", "replace"), choice.get("finish_reason")
        told = {"prompt_tokens": guess, "completion_tokens": tokens_of(text)}
        told |= {k: v for k, v in (reply.get("usage") or {}).items() if v is not None}
        read, written = int(told["prompt_tokens"]), int(told["completion_tokens"])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise Failed(BROKEN) from None
    usage.prompt_tokens += read
    usage.tokens += written
    if not text.strip() and finish not in ENDED_EARLY:
        raise Failed(EMPTY)
    return text, finish


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that a reply's headers ask to wait, 0 if they do not.

    Args:
      now: seconds since 1970.
    """
    try:
        if "retry-after-ms" in headers:
            wait = float(headers["retry-after-ms"]) / 1000
        else:
            wait = float(headers.get("retry-after", 0))
    except ValueError:
        try:
            wait = parsedate_to_datetime(headers["retry-after"]).timestamp() - now
        except (ValueError, KeyError):
            return 0.0
    return max(0.0, wait) if wait < float("inf") else 0.0
