"""Rules: named functions of a record."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest

from lfjax.data.records import Feedback, Message, Record, RecordError
from lfjax.errors import UserError
from lfjax.judges.rules import last_number, length, load_rule, story


def told(response, prompt='Tell a story with the word "dog".', **meta):
    return Record("r1", "test", (Message("user", prompt),), response=response, meta=meta)


@pytest.mark.parametrize(
    ("response", "judgment"),
    [
        ("A Dog ran.", None),
        ('"Look, a dog!"', None),
        ("The dog's bone. A dog", "It does not end with a finished sentence."),
        ("A cat ran.", 'It does not contain the word "dog".'),
        ("Dogs ran.", 'It does not contain the word "dog".'),
        ("A sad dog ran.", 'It contains the word "sad", which it must not.'),
        (
            "A sad cat",
            'It does not contain the word "dog". It contains the word "sad", which it must not. '
            "It does not end with a finished sentence.",
        ),
    ],
)
def test_story(response, judgment):
    said = story(told(response), banned=["sad"])
    expected = ("Perfect.", "positive") if judgment is None else (judgment, "negative")
    assert (said.text, said.polarity) == expected


def test_the_words_of_a_story_come_from_meta_first():
    assert story(told("A cat.", words="cat")).polarity == "positive"
    assert story(told("A cat.", words=["cat", "tree"])).text.count("does not contain") == 1
    with pytest.raises(RecordError, match="'r1' of test: no word is asked for"):
        story(told("A cat.", prompt="Tell a story."))


def test_length():
    assert length(told("a b c"), at_least=3, at_most=3).polarity == "positive"
    assert "fewer than 4" in length(told("a b c"), at_least=4).text
    assert "more than 2" in length(told("a b c"), at_most=2).text


def test_last_number():
    assert last_number(told("3 + 4 = 1,007.", answer=1007)).polarity == "positive"
    assert last_number(told("It is 7.0", answer="so 7")).polarity == "positive"
    assert last_number(told("It is -7", answer=7)).text == (
        "It arrives at -7, but the answer is 7."
    )
    assert "gives no number" in last_number(told("seven", answer=7)).text
    with pytest.raises(RecordError, match="no number 'answer'"):
        last_number(told("7"))


@pytest.fixture
def own_rules(monkeypatch):
    """A module of somebody's own."""
    module = ModuleType("somebodys_rules")
    module.nothing = lambda record: None
    module.text = lambda record: "good"
    module.fails = lambda record: 1 / 0
    module.number = 3
    monkeypatch.setitem(sys.modules, "somebodys_rules", module)


def test_rules_are_loaded_by_name(own_rules):
    rule = load_rule("lfjax.judges.rules:story", {"banned": ["sad"]})
    said = rule(told("A sad dog."))
    assert said == replace(story(told("A sad dog."), banned=["sad"]), author=said.author)
    assert said.author == "lfjax.judges.rules:story" and isinstance(said, Feedback)
    assert load_rule("somebodys_rules:nothing")(told("x")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("story", "expected package.module:function"),
        ("nosuch.module:story", "nosuch.module cannot be imported"),
        ("lfjax.judges.rules:storry", "Did you mean 'story'"),
        ("somebodys_rules:number", "no function 'number'"),
        ("somebodys_rules:fails", "on record 'r1' of test: ZeroDivisionError"),
        ("somebodys_rules:text", "gave str, expected Feedback, Critique or None"),
    ],
)
def test_rules_that_do_not_work(own_rules, name, message):
    with pytest.raises(UserError, match=message):
        load_rule(name)(told("x"))


def test_an_option_that_a_rule_does_not_have():
    with pytest.raises(UserError, match="unexpected keyword argument 'baned'"):
        load_rule("lfjax.judges.rules:story", {"baned": []})(told("A dog."))
