"""`collect`, with an asker that is a plain generator."""

import pytest

from lfjax.data.records import Message
from lfjax.errors import UserError
from lfjax.judges.asking import Answer, Asker, Question, collect, key_of
from lfjax.judges.store import Store


class Parrot:
    """Answers in reverse, a few questions at a time, and remembers what it was asked."""

    def __init__(self, fail=(), over_after=None, room=3):
        self.asked, self.fail, self.over_after, self.room = [], fail, over_after, room

    def __call__(self, questions):
        taken = []
        for position, question in enumerate(questions):
            text = question.messages[-1].content
            self.asked.append((text, question.sample))
            failed = text in self.fail
            answer = Answer(None, "broken", failures=("x",)) if failed else Answer(text.upper())
            taken.append((position, answer))
            if len(taken) == self.room:
                yield from reversed(taken)
                taken = []
            if len(self.asked) == self.over_after:
                raise UserError("the parrot is tired.")
        yield from reversed(taken)

    @property
    def asker(self):
        return Asker("parrot", {"kind": "parrot"}, self)


def questions(text):
    return [Question((Message("user", c),)) for c in text]


def texts(collected):
    return [a.text for a in collected.answers]


def test_answers_come_in_order_and_are_asked_once(tmp_path):
    parrot = Parrot()
    with Store(tmp_path) as store:
        assert texts(collect(questions("abcdefg"), parrot.asker, store)) == list("ABCDEFG")
    with Store(tmp_path) as store:
        again = collect(questions("gfxa"), parrot.asker, store)
    assert texts(again) == list("GFXA") and [t for t, _ in parrot.asked] == list("abcdefgx")
    assert again.counts["stored_before"] == 3 and again.counts["asked"] == 1


def test_equal_questions_are_asked_once_and_samples_apart(tmp_path):
    parrot = Parrot()
    with Store(tmp_path) as store:
        same = questions("aa")
        got = collect([*same, Question(same[0].messages, sample=1)], parrot.asker, store)
    assert texts(got) == ["A", "A", "A"] and parrot.asked == [("a", 0), ("a", 1)]


def test_a_failed_request_is_asked_again_by_the_next_run(tmp_path):
    parrot = Parrot(fail="b")
    with Store(tmp_path) as store:
        got = collect(questions("abc"), parrot.asker, store)
        assert texts(got) == ["A", None, "C"] and got.missing == {"broken": 1}
        assert got.counts["attempts"] == 3
    parrot.fail = ""
    with Store(tmp_path) as store:
        assert texts(collect(questions("abc"), parrot.asker, store)) == ["A", "B", "C"]
    assert [t for t, _ in parrot.asked] == list("abcb")


def test_what_was_answered_before_a_fatal_error_stays(tmp_path):
    parrot = Parrot(over_after=6)
    with Store(tmp_path) as store:
        with pytest.raises(UserError, match=r"tired\. 6 of 9 answers are stored in"):
            collect(questions("abcdefghi"), parrot.asker, store)
        parrot.over_after = None
        assert texts(collect(questions("abcdefghi"), parrot.asker, store)) == list("ABCDEFGHI")
    assert [t for t, _ in parrot.asked] == list("abcdefghi")


def test_nobody_is_asked_for_what_is_stored(tmp_path):
    """Without a key, a server or a budget, stored answers can be had."""

    def nobody(questions):
        raise AssertionError("asked")
        yield

    with Store(tmp_path) as store:
        collect(questions("ab"), Parrot().asker, store)
        asker = Asker("parrot", {"kind": "parrot"}, nobody)
        assert texts(collect(questions("ba"), asker, store, budget=0.0)) == ["B", "A"]
        with pytest.raises(UserError, match="budget=0: nothing may be asked, and 1 of 3"):
            collect(questions("abc"), asker, store, budget=0.0)


def test_a_key_tells_everything_apart_that_matters():
    hello = Question((Message("user", "hello"),))
    others = [
        key_of({"kind": "b"}, hello),
        key_of({"kind": "a"}, Question(hello.messages, sample=1)),
        key_of({"kind": "a"}, Question((Message("system", "hello"),))),
        key_of({"kind": "a"}, Question((Message("user", "hel"), Message("user", "lo")))),
        key_of({"kind": "a"}, hello),
    ]
    assert len(set(others)) == 5 and key_of({"kind": "a"}, hello) == others[-1]
    assert key_of({"a": 1, "b": 2}, hello) == key_of({"b": 2, "a": 1}, hello)
