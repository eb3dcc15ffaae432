"""Strengths: closed forms, recovery, the order of games, and games that settle nothing."""

import itertools
import json
import random

import numpy as np
import pytest

from lfjax.evaluation.bradley_terry import Game, bradley_terry, strengths


def games_of(wins: dict[tuple[str, str], int]) -> list[Game]:
    """So many games that the first won, each on a prompt of its own."""
    return [
        Game(f"{one}{other}{i}", one, other, 1.0)
        for (one, other), n in wins.items()
        for i in range(n)
    ]


def test_two_systems_have_the_log_odds():
    found = bradley_terry(games_of({("a", "b"): 30, ("b", "a"): 10}), reference="b")
    assert found.strength == pytest.approx({"a": np.log(3), "b": 0})
    assert found.interval["b"] == (0, 0) and found.reference == "b" and not found.notes
    error = np.sqrt(1 / 30 + 1 / 10)  # of the log odds
    low, high = found.interval["a"]
    assert low == pytest.approx(np.log(3) - 1.96 * error, abs=0.2)
    assert high == pytest.approx(np.log(3) + 1.96 * error, abs=0.3)


def test_expected_wins_equal_the_wins():
    """What characterises the maximum: each system wins as often as its strength says."""
    wins = np.random.default_rng(0).integers(1, 9, (6, 6)).astype(float)
    np.fill_diagonal(wins, 0)
    theta = strengths(wins)
    p = 1 / (1 + np.exp(theta - theta[:, None]))
    np.testing.assert_allclose(((wins + wins.T) * p).sum(axis=1), wins.sum(axis=1), atol=1e-8)


def test_an_uneven_table_converges():
    """One win in a million games."""
    theta = strengths(np.array([[0, 1e6, 0], [1, 0, 1e6], [0, 1, 0]]))
    np.testing.assert_allclose(theta, np.log(1e6) * np.array([0, -1, -2]), atol=1e-6)


def test_known_strengths_are_found():
    rng, truth = random.Random(0), {"a": 1.0, "b": 0.2, "c": -0.3, "d": -0.9}
    games = []
    for one, other in itertools.combinations(truth, 2):
        p = 1 / (1 + np.exp(truth[other] - truth[one]))
        games += [Game(str(i), one, other, float(rng.random() < p)) for i in range(500)]
    found = bradley_terry(games, resamples=200)
    for name in "bcd":
        value = truth[name] - truth["a"]
        assert found.strength[name] == pytest.approx(value, abs=0.3)
        assert found.interval[name][0] < value < found.interval[name][1]


def test_order_of_games_and_of_sides_does_not_matter():
    rng = random.Random(1)
    names = ("a", "b", "c")
    games = [
        Game(str(i % 20), *rng.sample(names, 2), rng.choice((0.0, 0.5, 1.0))) for i in range(120)
    ]
    found = bradley_terry(games, resamples=50)
    rng.shuffle(games)
    again = bradley_terry(games, resamples=50)
    assert again == found
    turned = [Game(g.prompt, g.other, g.one, 1 - g.score) for g in games]
    for name, value in bradley_terry(turned, resamples=50).strength.items():
        assert value == pytest.approx(found.strength[name])


def test_a_tie_is_half_a_win_for_each():
    tie = bradley_terry([Game("p", "a", "b", 0.5)] * 4 + [Game("q", "a", "b", 1.0)] * 2)
    split = bradley_terry(games_of({("a", "b"): 4, ("b", "a"): 2}))
    assert tie.strength == pytest.approx(split.strength)
    drawn = bradley_terry([Game(str(i), "a", "b", 0.5) for i in range(9)])
    assert drawn.strength == {"a": 0.0, "b": 0.0} and drawn.interval["a"] == (0.0, 0.0)


def test_who_always_wins_has_no_upper_bound():
    """The others are fitted as if it had not played."""
    between = {("a", "b"): 3, ("b", "a"): 2}
    found = bradley_terry(games_of({**between, ("top", "a"): 4, ("a", "low"): 1}), resamples=50)
    assert found.strength["top"] == np.inf and found.strength["low"] == -np.inf
    assert found.strength["b"] == pytest.approx(bradley_terry(games_of(between)).strength["b"])
    told = " ".join(found.notes)
    assert "top won every game" in told and "low lost every game" in told
    json.dumps(found.to_json(), allow_nan=False)
    assert found.to_json()["systems"]["top"]["strength"] is None


def test_an_interval_is_open_where_resamples_are():
    """One loss in twenty games: more than a third of resamples hold none."""
    found = bradley_terry(games_of({("a", "b"): 19, ("b", "a"): 1}), reference="b")
    assert found.strength["a"] == pytest.approx(np.log(19))
    assert found.interval["a"][1] == np.inf and 0 < found.interval["a"][0] < np.log(19)


def test_groups_that_never_met():
    pairs = {"ab": 2, "ba": 1, "cd": 1, "dc": 1, "be": 1, "eb": 1}
    games = games_of({tuple(pair): n for pair, n in pairs.items()})
    found = bradley_terry(games, reference="c", resamples=20)
    assert found.reference == "a"  # more can be said from there
    assert np.isnan(found.strength["c"]) and np.isnan(found.strength["d"])
    assert all(np.isfinite(found.strength[n]) for n in "abe")
    assert "c and a cannot be compared: no games connect them." in found.notes


def test_seeds_are_resampled_before_prompts():
    """Seeds that disagree: each resample is an even draw of them, and prompts add nothing."""
    games = [Game(str(i), "a", "b", float(s < 5), s) for s in range(10) for i in range(20)]
    found = bradley_terry(games, reference="b", resamples=2000)
    assert found.strength["a"] == pytest.approx(0)
    expected = np.log(8 / 2)  # of ten draws, 2 to 8 in the middle 95 % (binomial)
    assert found.interval["a"] == pytest.approx((-expected, expected))
    pooled = bradley_terry([g._replace(prompt=f"{g.seed} {g.prompt}", seed=0) for g in games])
    assert pooled.interval["b"][1] - pooled.interval["b"][0] < expected


def test_no_games():
    assert "no game was judged" in bradley_terry([]).notes[0]
