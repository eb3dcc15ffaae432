"""What rewards become, and what is watched: missing and empty answers, agreement, trends, bands."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from lfjax.data.records import Candidate, Feedback, Message, Record
from lfjax.data.templates import template_text
from lfjax.errors import UserError
from lfjax.stages.monitors import (
    agreement,
    alarm,
    bands,
    gap_length,
    of_gaps,
    of_policy,
    of_rewards,
    of_texts,
    similarity,
    trend,
)
from lfjax.stages.rewards import Source, filled, score_of, total, values_of
from lfjax.stages.rollouts import Draw, Kept, Rollout, Task, make_tasks
from tests.data.tokenizers_of import tokenizer_of


def rollout(text="a b", finish="stop", reference=None, name="r"):
    record = Record(name, "test", (Message("user", "say"),), meta={"world": 1})
    task = Task(record, reference, "response" if reference else "", (1, 2))
    return Rollout(task, [5, 6, 2], [-0.1, -0.25, -1.0], text, finish)


# --- rewards ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, value",
    [
        (Feedback("", "positive"), 1.0),
        (Feedback("", "mixed"), 0.5),
        (Feedback("", "negative", score=-3.5), -3.5),
        (Feedback("", "negative", score=4.0, scale=(1.0, 10.0)), 1 / 3),
    ],
)
def test_judgments_as_numbers(said, value):
    assert score_of(said) == pytest.approx(value)
    assert np.isnan(score_of(None))


def test_no_number_is_an_error():
    with pytest.raises(UserError, match="inf"):
        score_of(Feedback("", "positive", score=float("inf")))


def test_a_missing_value_changes_no_other_and_is_no_zero():
    """Its own advantage is 0."""
    found = filled(np.array([[1.0, np.nan, 4.0], [np.nan, np.nan, np.nan]]))
    np.testing.assert_allclose(found, [[1.0, 2.5, 4.0], [0.0, 0.0, 0.0]])


def test_saying_nothing_never_pays():
    source = Source("s", 2.0, lambda records: np.array([float(len(r.response)) for r in records]))
    rollouts = [rollout("four"), rollout(" "), rollout("a", "length"), rollout("")]
    values = values_of(source, rollouts, 2)
    np.testing.assert_allclose(values, [[4, 0], [1, 0]])
    np.testing.assert_allclose(total([source], {"s": values}, rollouts, 0.5), [[8, 0], [1.5, 0]])
    np.testing.assert_allclose(values_of(source, rollouts[1:2] * 2, 2), [[-1, -1]])


def test_saying_nothing_never_pays_where_scores_are_taken_off():
    lengths = lambda records: np.array([float(len(r.response)) for r in records])  # noqa: E731
    source, rollouts = Source("s", -2.0, lengths), [rollout("four"), rollout(" ")]
    values = values_of(source, rollouts, 2)
    np.testing.assert_allclose(values, [[4, 5]])
    np.testing.assert_allclose(total([source], {"s": values}, rollouts, 0.0), [[-8, -10]])


def test_what_a_source_is_shown():
    improved = rollout("better", reference="worse")
    answer, improvement = improved.answer(), improved.improvement()
    assert (answer.response, answer.refinement) == ("better", None)
    assert answer.meta == {"world": 1, "reference": "worse"}
    assert (improvement.response, improvement.refinement) == ("worse", "better")


# --- rollouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", " \n"])
def test_nothing_is_not_improved(empty):
    """Without it a policy is rewarded for whatever is better than no response."""
    asked = (Message("user", "say"),)
    sides = Candidate("yes", preferred=True), Candidate(empty, preferred=False)
    pair, draft = Record("p", "t", asked, candidates=sides), Record("d", "t", asked, empty or " ")
    how = dict(max_reference_tokens=8, max_new_tokens=8, max_tokens=400, data={"on_error": "stop"})
    given = tokenizer_of("gpt2"), template_text("alpaca")
    for record, reference in ((pair, ("rejected", "chosen")), (draft, ("response",))):
        c = ConfigDict(how | dict(reference=reference))
        tasks, counts, skipped = make_tasks([record], *given, c)
        assert counts["references empty"] == 1 and not skipped
        assert [t.reference for t in tasks] == ["yes"] * (record is pair)


def test_every_epoch_in_an_order_of_its_own():
    """Steps are random access; a step may go over the end of an epoch."""
    tasks = [rollout(name=str(i)).task for i in range(10)]
    draw = Draw(tasks, 4, seed=7)
    names = [t.record.id for step in range(1, 6) for t in draw.step(step)]
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(map(str, range(10)))
    assert names[:10] != names[10:]
    assert [t.record.id for t in Draw(tasks, 4, seed=7).step(3)] == names[8:12]
    assert [t.record.id for t in Draw(tasks, 4, seed=8).step(1)] != names[:4]


def test_kept_as_they_were(tmp_path):
    """An empty answer, too, to the last bit of every number."""
    rollouts = [rollout("a"), rollout(""), rollout(" ", reference="x"), rollout("b", "length")]
    tasks = [rollouts[0].task, rollouts[2].task]
    rollouts[1], rollouts[3] = (Rollout(t, [3], [-1 / 3], "", "stop") for t in tasks)
    kept = Kept(tmp_path, "me")
    assert kept.read(1, tasks) is None
    values = {"s": np.array([[1.0, np.nan], [0.5, 1 / 3]])}
    for told in (None, values):
        kept.write(1, rollouts, told)
        assert kept.read(1, tasks) == rollouts
    with pytest.raises(UserError, match="not of this run"):
        kept.read(1, [rollout(name="other").task] * 2)


# --- monitors ---------------------------------------------------------------------------------


def test_a_gap_that_is_a_difference_is_the_same_the_other_way_round():
    """And one that looks at the candidate alone is not."""
    rollouts = [rollout("word " * n, reference="word " * m) for n, m in ((1, 3), (4, 2), (2, 5))]
    rollouts.append(rollout(" ", reference="word"))  # nobody can read it

    def antisymmetry(gap):
        source = Source("gap", 1.0, lambda records: np.array([gap(r) for r in records]), None, True)
        there = {"gap": values_of(source, rollouts, 2)}
        back = {"gap": values_of(source, rollouts, 2, backwards=True)}
        return of_gaps(rollouts, there, back)["antisymmetry"]

    long = lambda text: float(len(text.split()))  # noqa: E731
    assert antisymmetry(lambda r: long(r.refinement) - long(r.response)) == pytest.approx(1)
    assert antisymmetry(lambda r: long(r.refinement)) == pytest.approx(
        np.corrcoef([1, 4, 2], [-3, -2, -5])[0, 1]
    )
    assert of_gaps(rollouts, {"rule": np.zeros((2, 2))}, {}) == {}


def test_agreement():
    """Pairs of one prompt that the monitor tells apart: two right, one wrong, one tied."""
    rewards = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 9.0]])
    monitor = np.array([[1.0, 1.0, 0.0], [1.0, 2.0, np.nan]])
    assert agreement(rewards, monitor) == (pytest.approx((0 + 0 + 0.5) / 3), 3)
    assert agreement(rewards, rewards)[0] == 1
    assert agreement(rewards, -rewards)[0] == 0
    share, told = agreement(rewards, np.ones((2, 3)))
    assert np.isnan(share) and told == 0


def test_trend_is_a_t_statistic():
    rng = np.random.default_rng(0)
    y = 0.05 * np.arange(20) + rng.normal(size=20)
    x = np.arange(20) - 9.5
    slope = (x * y).sum() / (x * x).sum()
    error = np.sqrt(np.square(y - y.mean() - slope * x).sum() / 18 / (x * x).sum())
    assert trend(y.tolist()) == pytest.approx(slope / error)
    assert trend([*y, np.nan]) == pytest.approx(slope / error)
    assert trend([float(i) for i in range(7)]) == 0 and trend([1.0] * 30) == 0


def test_a_weighted_trend():
    """A mean of three counts as much as three of its value would, in the slope."""
    rng = np.random.default_rng(1)
    x, y, w = np.arange(12.0), rng.normal(size=12), rng.integers(1, 6, size=12).astype(float)
    slope, at_0 = np.polyfit(x, y, 1, w=np.sqrt(w))
    middle = np.average(x, weights=w)
    rest = np.sqrt((w * np.square(y - at_0 - slope * x)).sum() / 10)
    error = rest / np.sqrt((w * np.square(x - middle)).sum())
    assert trend(y.tolist(), w.tolist()) == pytest.approx(slope / error)
    of_nothing = [*y.tolist(), -99.0], [*w.tolist(), 0.0]
    assert trend(*of_nothing) == pytest.approx(slope / error)


def test_alarm_by_either_trend():
    """But not where the responses get better."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=(3, 20))
    up = np.linspace(0, 1, 20)

    def rang(reward, monitor, agrees, told=30.0):
        names = ("reward", "monitor", "agreement", "told_apart")
        series = np.array([*(np.array([reward, monitor, agrees]) + noise), told + 0 * up])
        return alarm([dict(zip(names, row)) for row in series.T], 20)

    flat = 0 * up
    assert rang(up, -up, flat) and rang(up, flat, -up)
    assert not rang(up, up, flat) and not rang(flat, -up, -up) and not rang(-up, -up, -up)
    assert not rang(up, up, -up)
    assert not rang(up, flat, -up, told=np.where(np.arange(20) < 7, 1.0, 0.0))  # of few pairs
    assert not alarm([{"reward": 1.0}] * 50, 20)


def test_bands():
    gaps = np.array([[-1.0, 0.0, 0.2, 3.0], [1.0, 1.0, 1.0, 0.0]])
    first = np.array([[True] * 4, [False] * 4])
    found = bands(gaps, (-0.5, 0.5), {"chosen": first})
    assert found["gap_worse"] == 1 / 8 and found["gap_similar"] == 3 / 8
    assert found["gap_better/of_chosen"] == 1 / 4 and found["gap_worse/of_chosen"] == 1 / 4


def test_copies():
    texts = [rollout(" a b c\n", reference="a b c"), rollout("a b d e", reference="a b")]
    found = of_texts(texts)
    assert found["copied"] == 0.5 and found["length_ratio"] == 7 / 5
    assert found["similarity"] == pytest.approx((1 + 2 / 3) / 2)
    assert similarity("a b", "c d") == 0
    assert "copied" not in of_texts([rollout()])


def test_common_words():
    """ROUGE-L of improvements alone: without it nobody sees copies that were moved around."""
    texts = [rollout("a b x c", reference="a b c"), rollout("c a b", reference="a b c")]
    assert of_texts(texts)["rouge_l"] == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert "rouge_l" not in of_texts([rollout()])


def test_unique():
    """Without it a policy that always says the same is seen only by its entropy. Two prompts may
    have the same answer; spaces around one make no other."""
    first, second = rollout("a", name="1").task, rollout("a", name="2").task
    said = [(first, "a"), (first, " a\n"), (first, "b"), (second, "a")]
    found = of_texts([Rollout(task, [5], [-0.1], text, "stop") for task, text in said])
    assert found["unique"] == 3 / 4


def test_gaps_that_follow_lengths():
    """Of responses that could be read, not of the value that an empty one is given."""
    words = ((1, 3), (4, 2), (2, 5))
    rollouts = [rollout("word " * n, reference="word " * m) for n, m in words]
    rollouts.append(rollout(" ", reference="word"))
    gaps = np.array([[-2.0, 2.0], [-3.0, 99.0]])
    assert gap_length(rollouts, gaps) == pytest.approx(1)
    assert gap_length(rollouts, -gaps) == pytest.approx(-1)
    gaps[0, 0] = np.nan  # too long for the reward
    assert gap_length(rollouts, gaps) == pytest.approx(1)
    source = Source("gap", 1.0, lambda records: np.zeros(len(records)), (-1.0, 1.0), True)
    logged = of_rewards(rollouts, {"gap": gaps}, np.zeros((2, 2)), [source])
    assert logged["gap_length"] == pytest.approx(1)
    rule = Source("rule", 1.0, source.values)
    assert "gap_length" not in of_rewards(rollouts, {"rule": gaps}, np.zeros((2, 2)), [rule])


def test_sampler_and_trainer():
    """Compared at temperature 1, where tokens are."""
    columns = {name: np.array([[-1.0, -2.0, 0.0]]) for name in ("logp", "ref_logp")}
    mask, sampled = np.array([[1.0, 1.0, 0.0]]), np.array([[-1.0, -2.5, -99.0]])
    found = of_policy(columns, mask, sampled)
    assert found["sampler_difference"] == 0.25 and found["sampler_difference_max"] == 0.5
    assert found["kl_k1"] == found["kl_k3"] == 0 and found["entropy"] == 1.5
    found = of_policy(columns | {"plain_logp": sampled}, mask, sampled)
    assert found["sampler_difference_max"] == 0
