"""Requests in, completions out: continuous batching over an engine's slots.

A request takes a slot as soon as one is free and leaves it when it ends, while the others go on.
What is done next follows from the requests and from what the devices say, never from clocks, so
that all hosts of a pod do the same.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np

from lfjax.data.tokenize import Tokenizer
from lfjax.errors import UserError
from lfjax.generation.engine import CALL_TOKENS, STOP_IDS, Engine, Slots
from lfjax.generation.rules import FULL, Rules, Sampling

LOOK_TOKENS = 8  # of one call, where somebody wants to see the text between calls


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
      ids: of the prompt, BOS included (`encode_prompt`).
      max_new_tokens: at which the response is cut.
      seed: of its draws; with the prompt, the rules and the engine it determines the response.
      stop_ids: tokens after which the response ends.
      stop: texts before which the response is cut.
    """

    ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = FULL
    seed: int | tuple[int, ...] = 0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What a request was answered.

    Attributes:
      ids: drawn tokens, with the one that ended the response.
      logps: their log-probabilities under the model, before any sampling rule; float32.
      text: of the tokens, without what ended the response; empty without a tokenizer.
      finish: `stop`, `length`, or None while it goes on.
    """

    ids: list[int]
    logps: list[float]
    text: str
    finish: Literal["stop", "length"] | None


def samples(request: Request, n: int) -> list[Request]:
    """n requests that differ in their seeds only."""
    seed = request.seed if isinstance(request.seed, tuple) else (request.seed,)
    return [replace(request, seed=(*seed, i)) for i in range(n)]


def generate(
    engine: Engine,
    params: Any,
    requests: Sequence[Request],
    tokenizer: Tokenizer | None = None,
    *,
    partial: bool = False,
) -> Iterator[tuple[int, Completion]]:
    """(index of the request, its completion), as they end.

    Args:
      params: of `engine.place`.
      tokenizer: makes the text; needed for stop strings.
      partial: also yield what there is of a completion after every few tokens, `finish` None.

    Raises: UserError for a request that does not fit the engine.
    """
    queues: dict[int, list[int]] = {bucket: [] for bucket in engine.cache_buckets}
    for index, request in enumerate(requests):
        queues[_cache_bucket(engine, request, index, tokenizer)].append(index)
    for bucket, queue in queues.items():
        if queue:
            queue.sort(key=lambda i: _prompt_bucket(engine, requests[i]))
            run = _Run(engine, params, requests, tokenizer, partial, queue)
            yield from run.over(engine.empty(bucket))


def stream(
    engine: Engine, params: Any, request: Request, tokenizer: Tokenizer
) -> Iterator[tuple[str, Completion]]:
    """(new piece of the text, completion so far), as a reader would want to see them. What may
    still change is held back: the bytes of half a character, the beginning of a stop string."""
    shown = 0
    for _, completion in generate(engine, params, [request], tokenizer, partial=True):
        text = completion.text
        end = len(text) if completion.finish else _settled(text, request.stop)
        yield text[shown:end], completion
        shown = max(shown, end)


def _settled(text: str, stops: Sequence[str]) -> int:
    """How much of an unfinished text no further token changes."""
    end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for stop in stops:
        for n in range(1, len(stop)):
            if text.endswith(stop[:n]):
                end = min(end, len(text) - n)
    return end


def _cache_bucket(engine: Engine, request: Request, index: int, tokenizer) -> int:
    prompt, new = len(request.ids), request.max_new_tokens
    if not prompt or new < 1:
        raise UserError(
            f"request {index}: {prompt} tokens of prompt and max_new_tokens={new}; expected at "
            "least one of each."
        )
    if min(request.seed if isinstance(request.seed, tuple) else (request.seed,)) < 0:
        raise UserError(f"request {index}: seed={request.seed}; expected 0 or more.")
    if len(request.stop_ids) > STOP_IDS:
        raise UserError(
            f"request {index}: {len(request.stop_ids)} stop_ids; at most {STOP_IDS} can be given."
        )
    wrong = [i for i in request.ids if not 0 <= i < engine.config.vocab_size]
    if wrong:
        raise UserError(
            f"request {index}: token id {wrong[0]}; the model has ids 0 to "
            f"{engine.config.vocab_size - 1}. Is it this model's tokenizer?"
        )
    if request.stop and (tokenizer is None or not all(request.stop)):
        why = "stop strings need a tokenizer" if tokenizer is None else "a stop string is empty"
        raise UserError(f"request {index}: {why}.")
    largest = engine.cache_buckets[-1]
    fits = [bucket for bucket in engine.cache_buckets if prompt + new <= bucket]
    if not fits or prompt - 1 > engine.prompt_buckets[-1]:
        raise UserError(
            f"request {index}: a prompt of {prompt} tokens and max_new_tokens={new} do not fit the "
            f"cache of {largest} tokens; shorten the prompt, ask for fewer tokens, or raise "
            "max_tokens."
        )
    return fits[0]


def _prompt_bucket(engine: Engine, request: Request) -> int:
    """Of all tokens but the last, which the first step of decode reads."""
    return next(b for b in engine.prompt_buckets if len(request.ids) - 1 <= b)


@dataclass
class _Live:
    """A request that holds a slot."""

    index: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


@dataclass
class _Run:
    """Requests of one cache bucket going through the slots."""

    engine: Engine
    params: Any
    requests: Sequence[Request]
    tokenizer: Tokenizer | None
    partial: bool
    queue: list[int]  # indices of requests without a slot, by their prompts' buckets

    def over(self, state) -> Iterator[tuple[int, Completion]]:
        live: dict[int, _Live] = {}
        while self.queue or live:
            state = self.admit(state, live)
            alive = np.array([slot in live for slot in range(self.engine.slots)])
            look = self.partial or any(x.request.stop for x in live.values())
            steps = np.int32(LOOK_TOKENS if look else CALL_TOKENS)
            enough = np.int32(max(1, self.engine.slots // 8) if self.queue else self.engine.slots)
            told = self.engine.put((alive, steps, enough))
            state, drawn = self.engine.decode(self.params, state, *told)
            drawn = jax.device_get(drawn)
            for slot in list(live):
                x, count = live[slot], drawn.count[slot]
                x.ids += drawn.tokens[slot, :count].tolist()
                x.logps += drawn.logps[slot, :count].tolist()
                completion = self.completion(x, bool(drawn.active[slot]))
                if completion.finish:
                    del live[slot]
                if completion.finish or self.partial:
                    yield x.index, completion

    def admit(self, state, live: dict[int, _Live]):
        """Give free slots to waiting requests, those of one prompt bucket at a time."""
        free = [slot for slot in range(self.engine.slots) if slot not in live]
        while self.queue and free:
            bucket = _prompt_bucket(self.engine, self.requests[self.queue[0]])
            rows = self.engine.prefill_rows(bucket)
            taken = [
                i
                for i in self.queue[: min(rows, len(free))]
                if _prompt_bucket(self.engine, self.requests[i]) == bucket
            ]
            del self.queue[: len(taken)]
            slots, free = free[: len(taken)], free[len(taken) :]
            live.update({s: _Live(i, self.requests[i]) for s, i in zip(slots, taken)})
            new = [self.requests[i] for i in taken]
            state = self.insert(state, new, slots, rows, bucket)
        return state

    def insert(self, state, new: list[Request], slots: list[int], rows: int, bucket: int):
        tokens, lengths = np.zeros((rows, bucket), np.int32), np.zeros(rows, np.int32)
        where = np.full(rows, self.engine.slots, np.int32)  # beyond the last: nowhere
        where[: len(slots)] = slots
        for row, request in enumerate(new):
            lengths[row] = len(request.ids) - 1
            tokens[row, : lengths[row]] = request.ids[:-1]
        filled = new + new[:1] * (rows - len(new))
        stop_ids = np.full((rows, STOP_IDS), -1, np.int32)
        for row, request in enumerate(new):
            stop_ids[row, : len(request.stop_ids)] = request.stop_ids
        entering = Slots(
            token=np.array([r.ids[-1] for r in filled], np.int32),
            position=lengths,
            number=np.zeros(rows, np.int32),
            limit=np.array([r.max_new_tokens for r in filled], np.int32),
            active=np.ones(rows, bool),
            key=np.stack([np.random.SeedSequence(r.seed).generate_state(2) for r in filled]),
            stop_ids=stop_ids,
            rules=Rules.of([r.sampling for r in filled]),
        )
        tokens, lengths, told = self.engine.put((tokens, lengths, (where, entering)))
        prompts = self.engine.prefill(self.params, tokens, lengths)
        return self.engine.insert(state, prompts, tokens, lengths, *told)

    def completion(self, x: _Live, active: bool) -> Completion:
        """What there is of a completion."""
        by_id = x.ids[-1] in x.request.stop_ids
        finish = None if active else "stop" if by_id else "length"
        ids, logps = list(x.ids), list(x.logps)  # x may go on
        if self.tokenizer is None or not (x.request.stop or self.partial or finish):
            return Completion(ids, logps, "", finish)
        text = self.tokenizer.decode(ids[:-1] if by_id else ids)
        found = [at for stop in x.request.stop if (at := text.find(stop)) >= 0]
        if not found:
            return Completion(ids, logps, text, finish)

        def stopped(n):
            start = self.tokenizer.decode(ids[:n])
            return any(stop in start for stop in x.request.stop)

        n = bisect_left(range(len(ids)), True, key=stopped)  # the fewest tokens that hold a stop
        return Completion(ids[:n], logps[:n], text[: min(found)], "stop")
