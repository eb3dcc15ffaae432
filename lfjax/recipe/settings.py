"""What several kinds of stages have in common, and how settings find their places."""

from typing import Any

from ml_collections import ConfigDict

from lfjax.errors import UserError, nearest


def answering(*, temperature: float, max_new_tokens: int) -> dict[str, Any]:
    """Who answers, and how."""
    return {
        "max_new_tokens": max_new_tokens,
        "sampling": {
            "temperature": temperature,  # 0 takes the likeliest token
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        },
        "stop": (),  # texts before which an answer is cut
        # a local model
        "dtype": "float32",  # of weights and activations, or bfloat16
        "slots": 32,  # answers that are drawn at once
        "max_tokens": 2048,  # of prompt and answer
        "per_host": False,  # of several processes each has the model, or they have one together
        # or an OpenAI-compatible server, if it has a URL
        "endpoint": {
            "url": "",  # up to and without /chat/completions
            "model": "",
            "key_env": "OPENAI_API_KEY",  # variable that holds the key; empty for none
            "concurrency": 16,
            "requests_per_minute": 0.0,  # limits; 0 for none
            "tokens_per_minute": 0.0,
            "timeout_s": 120.0,  # of an attempt
            "deadline_s": 600.0,  # of a request with all its attempts
            "prompt_price": 0.0,  # of a million tokens read, and written
            "price": 0.0,
            "budget": -1.0,  # in the prices' currency, for all answers of the workdir; -1 for none
        },
    }


def with_settings(where: str, c: ConfigDict, settings: dict[str, Any]) -> ConfigDict:
    """Put each setting where its name is: in the stage's config, or in one of its groups.

    Raises: UserError for a name that is nowhere.
    """
    groups = [c[name] for name in ("options", "optimizer", "sampling", "endpoint") if name in c]
    for name, value in settings.items():
        place = next((p for p in (c, *groups) if name in p), None)
        if place is None:
            known = [key for p in (c, *groups) for key in p]
            raise UserError(f"{where}: unknown setting '{name}'. {nearest(name, known)}")
        if isinstance(place[name], ConfigDict) and not isinstance(value, ConfigDict):
            place[name].update(value)
        else:
            place[name] = value
    return c
