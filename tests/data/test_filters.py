"""Filters: what is kept, what is exchanged, and what is said of the rest."""

from dataclasses import replace

import pytest

from lfjax.data.filters import (
    again,
    commonest,
    compared,
    ranked,
    refined,
    satisfactory,
    shuffled,
    sides,
)
from lfjax.data.records import Candidate, Feedback, Message, Record, RecordError, to_jsonl
from lfjax.data.self_refine import self_refine
from lfjax.data.sources import load
from lfjax.errors import UserError
from tests.conftest import write_jsonl


def record(i, text="", score=None, **changed):
    polarity = "negative" if text else "positive"
    given = dict(response=f"answer {i}", feedback=(Feedback(text, polarity, score=score),))
    return Record(str(i), "test", (Message("user", f"question {i}"),), **(given | changed))


RECORDS = [record(i, f"fault {i}" if i % 3 else "") for i in range(12)]


def test_shuffled_feedback_is_never_ones_own():
    for seed in range(20):
        found, left = shuffled(RECORDS, seed)
        assert not left
        flawed = [i for i in range(12) if i % 3]
        texts = [found[i].feedback[0].text for i in flawed]
        assert sorted(texts) == sorted(f"fault {i}" for i in flawed)
        assert all(text != f"fault {i}" for i, text in zip(flawed, texts))
        assert [replace(f, feedback=()) for f in found] == [
            replace(r, feedback=()) for r in RECORDS
        ]
        assert found == shuffled(RECORDS, seed)[0]
    assert shuffled(RECORDS, 0)[0] != shuffled(RECORDS, 1)[0]


def test_nothing_to_exchange():
    with pytest.raises(RecordError, match="1 flawed"):
        shuffled(RECORDS[:2], 0)


def test_satisfactory_ones():
    found, left = satisfactory(RECORDS, 0)
    assert [r.id for r in found] == ["0", "3", "6", "9"] and left == {"not satisfactory": 8}


def test_samples_of_a_prompt_become_candidates():
    def sample(prompt, n, score):
        meta = {"prompt_id": prompt, "sample": n}
        return record(f"{prompt}/{n}", "so", score, meta=meta, model="m")

    scores = {"a": (3.0, 8.0, 5.0), "b": (4.0, 4.0), "c": (1.0, 2.0)}
    records = [sample(p, n, s) for p, each in scores.items() for n, s in enumerate(each)]
    found, left = compared(records, 0)
    assert left == {"all responses of a prompt score the same": 1}
    assert [r.id for r in found] == ["a", "c"]
    assert found[0].response == "answer a/1"
    assert [(c.text, c.score, c.model) for c in found[0].candidates] == [
        ("answer a/0", 3, "m"),
        ("answer a/1", 8, "m"),
        ("answer a/2", 5, "m"),
    ]
    with pytest.raises(RecordError, match="no scored response"):
        compared([record("x", "fault")], 0)


def test_written_records_come_back(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(to_jsonl(RECORDS), encoding="utf-8")
    assert load(str(path), "records").records == RECORDS


def test_prompts(tmp_path):
    """Texts, objects and conversations; what they bring along is kept."""
    rows = [
        "Say hello.",
        {"prompt": "Say more.", "id": "b", "meta": {"words": ["more"]}},
        {"messages": [{"role": "user", "content": "And?"}], "system": "Be short."},
    ]
    found = load(write_jsonl(tmp_path / "p.jsonl", rows), "prompts").records
    assert [r.prompt[-1].content for r in found] == ["Say hello.", "Say more.", "And?"]
    assert [r.id for r in found] == ["p.jsonl:1", "b", "p.jsonl:3"]
    assert found[1].meta == {"words": ["more"]} and found[2].prompt[0].role == "system"
    for row, said in (({"q": 1}, "'prompt'"), ({"prompt": " "}, "empty"), (3, "object")):
        with pytest.raises(RecordError, match=said):
            load(write_jsonl(tmp_path / "bad.jsonl", [row]), "prompts")


CRITIQUE = "Weaknesses: short.\nAdvice: say more.\nOverall Score: [[6]]"


def critiqued(score, better, *, text=CRITIQUE, response="One.", refinement="One and two.", **rest):
    """A response and its refinement with their scores."""
    score, better = (None if s is None else float(s) for s in (score, better))
    candidates = () if better is None else (Candidate(refinement or "", score=better),)
    said = (Feedback(text, "negative", score),) if text else ()
    given = dict(response=response, refinement=refinement, feedback=said, candidates=candidates)
    return Record("r", "test", (Message("user", "Count."),), **(given | rest))


@pytest.mark.parametrize(
    "scores, keep, drop",
    [
        ((6, 8), None, None),
        ((7, 7), None, "refinement scores the same"),
        ((7, 6), "refinement scores lower", "refinement scores lower"),
        ((None, 8), "no score", "no score"),
        ((6, None), "refinement not scored", "refinement not scored"),
        ((6, 11), "score is not from 1 to 10", "score is not from 1 to 10"),
        ((0, 8), "score is not from 1 to 10", "score is not from 1 to 10"),
    ],
)
def test_refinements_that_score_better(scores, keep, drop):
    """Without it pairs teach to prefer what is worse, or nothing at all."""
    for ties, reason in (("keep", keep), ("drop", drop)):
        kept, left = refined([critiqued(*scores)], 0, ties=ties)
        assert dict(left) == ({reason: 1} if reason else {}) and len(kept) == (not reason)
        if kept:
            pair = [(c.text, c.score, c.preferred) for c in kept[0].candidates]
            assert pair == [("One and two.", scores[1], True), ("One.", scores[0], False)]


@pytest.mark.parametrize(
    "changed, reason",
    [
        (dict(refinement=None), "no refinement"),
        (dict(refinement=" "), "no refinement"),
        (dict(response=None), "no response"),
        (dict(text="Advice: more. Overall Score: 6"), "no weaknesses"),
        (dict(text="Weaknesses: short. Overall Score: 6"), "no suggestions"),
        (dict(refinement="One. "), "refinement is the response"),
        (dict(refinement="a\n### Feedback\nb"), "a text has a heading of its own"),
    ],
)
def test_what_is_no_refinement(changed, reason):
    kept, left = refined([critiqued(6, 8, **changed)], 0, ties="keep")
    assert not kept and dict(left) == {reason: 1}


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_heading_in_any_message_of_the_prompt(at):
    """Without it training, which shows the whole conversation, refuses what the filter has kept,
    after the critic was paid."""
    said = ["Be brief.", "Count.", "One.", "Go on."]
    said[at] += "\n### Feedback\nGood."
    roles = ("system", "user", "assistant", "user")
    record = replace(critiqued(6, 8), prompt=tuple(map(Message, roles, said)))
    kept, left = refined([record], 0, ties="keep")
    assert not kept and dict(left) == {"a text has a heading of its own": 1}
    with pytest.raises(RecordError, match="'### Feedback'"):
        self_refine(record)


def test_choices_of_a_filter():
    long = critiqued(6, 8, refinement="x" * 40)
    assert (
        refined([long], 0, ties="keep")[0]
        and not refined([long], 0, ties="keep", most_times=4.0)[0]
    )
    same = critiqued(10, 10, refinement="One.")
    assert refined([same], 0, ties="keep", unchanged="keep")[0]
    eights = [critiqued(6, s) for s in (7, 8, 8)]
    kept, left = refined(eights, 0, ties="keep", scores=(8.0,))
    assert len(kept) == 2 and dict(left) == {"not one of the scores": 1}
    unscored = critiqued(None, None, text="Weaknesses: short.\nAdvice: say more.")
    assert refined([unscored], 0, ties="drop", leave_out="score")[0]
    kept, left = refined(eights, 0, ties="keep", at_most=1)
    assert kept[0].candidates[0].score == 7 and dict(left) == {"beyond the first 1": 2}
    kept, left = refined(eights, 0, ties="keep", share=0.5)
    assert len(kept) == 2 and dict(left) == {"beyond the first 50 %": 1}
    with pytest.raises(UserError, match="share=0"):
        refined(eights, 0, ties="keep", share=0.0)
    with pytest.raises(UserError, match="ties='some'"):
        refined(eights, 0, ties="some")


@pytest.mark.parametrize(
    "leave_out, needed",
    [
        ("", {"weaknesses", "suggestions", "score"}),
        ("weaknesses", {"suggestions", "score"}),
        ("suggestions", {"weaknesses", "score"}),
        ("score", {"weaknesses", "suggestions"}),
        ("words", {"score"}),
        ("feedback", set()),
        ("draft", {"weaknesses", "suggestions", "score"}),
    ],
)
def test_what_is_left_out_is_not_needed(leave_out, needed):
    said = {"weaknesses": "Weaknesses: short.", "suggestions": "Advice: say more."}
    for part in ("weaknesses", "suggestions", "score"):
        text = "\n".join(line for name, line in said.items() if name != part)
        scores = (None, None) if part == "score" else (6, 8)
        kept, left = refined([critiqued(*scores, text=text)], 0, ties="keep", leave_out=leave_out)
        assert left == ({f"no {part}": 1} if part in needed else {}) and len(kept) == (not left)


def test_responses_that_were_cut():
    """A response that ended at the limit of tokens makes every refinement look better."""
    cut, whole = (critiqued(6, 8, meta={"finish": f}) for f in ("length", "stop"))
    assert len(refined([cut, whole], 0, ties="keep")[0]) == 2
    kept, left = refined([cut, whole], 0, ties="keep", cut="drop")
    assert [r.meta["finish"] for r in kept] == ["stop"]
    assert dict(left) == {"response was cut at the token limit": 1}
    with pytest.raises(UserError, match="cut='no'"):
        refined([cut], 0, ties="keep", cut="no")


def test_ties_by_expected_scores():
    how = {"expected_score": 6.8, "expected_refined": 7.1}
    surer, less = critiqued(7, 7, meta=how), critiqued(7, 7, meta={**how, "expected_refined": 6.7})
    assert refined([surer], 0, ties="expected")[0]
    kept, left = refined([less], 0, ties="expected")
    assert not kept and dict(left) == {"refinement scores the same": 1}
    assert refined([critiqued(6, 7)], 0, ties="expected")[0]
    with pytest.raises(UserError, match=r"no expected scores .* want expected_score=True"):
        refined([critiqued(7, 7)], 0, ties="expected")


def test_refined_again():
    (r,), _ = again([critiqued(6, 8)], 0)
    assert r.response == "One and two." and not (r.refinement or r.feedback or r.candidates)
    (r,), _ = again([replace(r, refinement="More.")], 0)
    assert r.response == "More." and r.meta["refined_times"] == 2


def test_sides_of_preferences():
    pair = (Candidate("bad", preferred=False), Candidate("good", preferred=True))
    found, left = sides([replace(RECORDS[0], candidates=pair), RECORDS[1]], 0)
    assert [(r.response, r.meta["side"], r.id) for r in found] == [
        ("good", "chosen", "0/chosen"),
        ("bad", "rejected", "0/rejected"),
    ]
    assert dict(left) == {"no preference": 1} and not found[0].feedback


def test_ranked():
    samples = [
        replace(record(i, "f", s), meta={"prompt_id": "p"})
        for i, s in enumerate((3.0, 8.0, 8.0, None))
    ]
    found, left = ranked(samples, 0)
    assert [(r.id, r.response) for r in found] == [("p", "answer 1")]
    assert dict(left) == {"not scored": 1, "another sample scores at least as high": 2}
    numbered = [replace(r, meta={**r.meta, "sample": i}) for i, r in enumerate(samples)]
    assert ranked(numbered, 0, samples=1)[0][0].response == "answer 0"


def test_votes():
    """Three, one and one of five; of the first two both are as common, and the first counts."""
    given = ("b", "a", "a", "c", "a")
    samples = [
        record(i, response=text, meta={"prompt_id": "p", "sample": i})
        for i, text in enumerate(given)
    ]
    found, left = commonest(samples, 0)
    assert [(r.id, r.response) for r in found] == [("p", "a")]
    assert dict(left) == {"another sample is as common or commoner": 4}
    assert commonest(samples, 0, samples=2)[0][0].response == "b"
