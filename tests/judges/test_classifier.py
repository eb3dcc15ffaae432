"""A reward model of another library as a rule: its scores are the model's own."""

import pytest

from lfjax.data.records import Message, Record
from lfjax.errors import UserError
from lfjax.judges.rules import load_rule
from tests.conftest import ROOT

RULE = "lfjax.judges.classifier:reward"


def build(folder, labels=1):
    """A tiny BERT with random weights and the demonstration's words."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(ROOT / "lfjax" / "lab" / "demo"))
    tokenizer.chat_template = None
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=labels, **sizes)
    network = BertForSequenceClassification(config).eval()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, network


def record(response, *more):
    turns = (Message("user", "Tell me about the fox."), *more)
    return Record("r", "test", turns, response)


def test_scores_are_the_models(tmp_path):
    import torch

    tokenizer, network = build(tmp_path)
    rule = load_rule(RULE, {"model": str(tmp_path)})
    for text in ("The fox is brown.", "The fox is yellow and eats seeds."):
        said = rule(record(text))
        with torch.no_grad():
            wanted = network(**tokenizer("Tell me about the fox.", text, return_tensors="pt"))
        assert said.score == pytest.approx(float(wanted.logits), abs=1e-5)
        assert said.polarity == ("positive" if said.score > 0 else "negative")
    longer = record("Yes.", Message("assistant", "It is."), Message("user", "Is it brown?"))
    assert rule(longer).score != rule(record("Yes.")).score


def test_a_text_that_is_too_long_is_not_judged(tmp_path):
    build(tmp_path)
    assert load_rule(RULE, {"model": str(tmp_path), "max_tokens": 5})(record("The fox.")) is None


def test_mistakes(tmp_path):
    build(tmp_path / "two", labels=2)
    with pytest.raises(UserError, match="has 2 outputs"):
        load_rule(RULE, {"model": str(tmp_path / "two")})(record("The fox."))
    with pytest.raises(UserError, match="cannot be read as a classifier"):
        load_rule(RULE, {"model": str(tmp_path / "none")})(record("The fox."))
