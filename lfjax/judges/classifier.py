"""A judge from outside: a sequence-classification model of Hugging Face with one output, on torch.

    evaluate("score", rule="lfjax.judges.classifier:reward", rule_options={"model": "org/name"}, …)

The PIT paper judges with such a model, a DeBERTa that public preferences trained. Nothing is
learned from it here. It needs torch: `pip install "lfjax[torch]"`.
"""

from functools import lru_cache

from lfjax.data.records import Feedback, Record
from lfjax.data.views import need_response
from lfjax.errors import UserError


def reward(
    record: Record, *, model: str, device: str = "cpu", max_tokens: int = 1024
) -> Feedback | None:
    """What the model gives the response as its score; positive where that is above 0. None for a
    text that is too long: cut, it would be another one.

    Args:
      model: a directory, or an id on the hub. Its weights are read from safetensors.
      max_tokens: of prompt and response.
    """
    import torch

    tokenizer, network = _opened(model, device)
    inputs = _shown(tokenizer, record)
    if inputs["input_ids"].shape[1] > max_tokens:
        return None
    with torch.no_grad():
        logits = network(**inputs.to(device)).logits.float()
    score = float(logits[0, 0])
    return Feedback("", "positive" if score > 0 else "negative", score)


@lru_cache(maxsize=2)
def _opened(model: str, device: str):
    """(tokenizer, network). Raises: UserError where there is no torch, or no such model."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError(
            "lfjax.judges.classifier needs torch: pip install 'lfjax[torch]'."
        ) from None
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForSequenceClassification.from_pretrained(model, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: cannot be read as a classifier ({error}).") from None
    if network.config.num_labels != 1:
        raise UserError(
            f"{model}: has {network.config.num_labels} outputs; a reward model has one."
        )
    return tokenizer, network.eval().to(device)


def _shown(tokenizer, record: Record):
    """Prompt and response as the model's chat template has them, else as a pair of texts, the form
    that rewards of BERT's kind were trained with."""
    response = need_response(record)
    turns = [{"role": m.role, "content": m.content} for m in record.prompt]
    if tokenizer.chat_template:
        turns.append({"role": "assistant", "content": response})
        return tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
    asked = turns[0]["content"] if len(turns) == 1 else _told(turns)
    return tokenizer(asked, response, return_tensors="pt")


def _told(turns) -> str:
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)
