"""Ask a model directory through the sampler."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from lfjax.generation.rules import Sampling
from lfjax.generation.scheduler import generate
from lfjax.generation.speaker import Speaker
from lfjax.judges.asking import Answer, Asker, Asking, Question


def model_asker(
    speaker: Speaker,
    *,
    name: str,
    weights: str,
    dtype: str,
    seed: int,
    sampling: Mapping[str, Any],
    max_new_tokens: int,
    stop: tuple[str, ...] = (),
    judgment: str | None = None,
) -> Asker:
    """An asker that continues conversations with a local model.

    An answer depends on its question alone, not on what else is asked: the seed of its draws is
    made of `seed`, the conversation and the sample's number.

    Args:
      name: what records call the model.
      weights: a hash of the model directory; with the settings, the model's identity.
      sampling: fields of `Sampling`.
      judgment: shown to the model before it answers, as a judgment is in training.

    Raises: UserError for a sampling rule that makes no sense.
    """
    rules = Sampling(**sampling)
    settings = dict(max_new_tokens=max_new_tokens, stop=stop, judgment=judgment)
    identity = {
        "kind": "model",
        "weights": weights,
        "template": hashlib.sha256(speaker.template.encode()).hexdigest()[:16],
        "dtype": dtype,
        "seed": seed,
        "sampling": dict(sampling),
        **{k: v for k, v in settings.items() if v},
        "max_new_tokens": max_new_tokens,
    }

    def ask(questions: Iterable[Question]) -> Asking:
        largest = speaker.engine.cache_buckets[-1]
        requests, positions = [], []
        for position, question in enumerate(questions):
            own = (seed, conversation_seed(question), question.sample)
            told = dict(begin=question.begin, seed=own, sampling=rules)
            request = speaker.request(question.messages, **told, **settings)
            prompt = len(request.ids)
            if prompt + max_new_tokens > largest:
                why = f"the prompt of {prompt} tokens leaves no room for max_new_tokens"
                yield position, Answer(None, f"{why} in max_tokens={largest}", prompt_tokens=prompt)
                continue
            requests.append(request)
            positions.append(position)
        for index, done in generate(speaker.engine, speaker.params, requests, speaker.tokenizer):
            read, drawn = len(requests[index].ids), len(done.ids)
            if done.text.strip():
                answer = Answer(done.text, None, done.finish, read, drawn)
            else:
                answer = Answer(None, "empty", done.finish, read, drawn)
            yield positions[index], answer

    return Asker(name, identity, ask)


def conversation_seed(question: Question) -> int:
    """64 bits of the conversation."""
    said = "\0".join([*(f"{m.role}\0{m.content}" for m in question.messages), *question.begin])
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")
