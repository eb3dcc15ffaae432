"""Claims: what is compared with what, Holm's correction, and verdicts."""

import numpy as np
import pytest

from lfjax.errors import UserError
from lfjax.evaluation.claims import Claim, differences, read_claims, verdicts

ROW = dict(
    claim="a is better than b",
    source="ours",
    world="phrasebook",
    evaluation="greedy",
    metric="right",
    groups=["unseen"],
    system="a",
    against="b",
)


def claim(**changed) -> Claim:
    row = {k: v for k, v in {**ROW, **changed}.items() if v is not None}
    return read_claims([row], "claims.json")[0]


def rows(scores: dict[str, list[list[float]]], group="unseen"):
    """Per-prompt rows of systems' scores, a list a seed."""
    out = []
    for seed in range(len(scores["a"])):
        for i in range(len(scores["a"][seed])):
            answers = {name: {"right": s[seed][i]} for name, s in scores.items()}
            out.append({"id": f"{group}-test-{i}", "seed": seed, "answers": answers})
    return out


def test_differences_by_seed_and_group():
    found = rows({"a": [[1.0, 0.5], [0.0, 1.0]], "b": [[0.0, 0.5], [0.5, 0.5]]})
    found += rows({"a": [[9.0], [9.0]], "b": [[0.0], [0.0]]}, group="seen")
    found[1]["answers"]["b"] = None  # a missing answer
    values = differences(claim(), found)
    np.testing.assert_array_equal(values, [[1.0, np.nan], [-0.5, 0.5]])
    both = differences(claim(groups=["unseen", "seen"]), found)
    assert [len(v) for v in both] == [3, 3]


def test_a_trend_is_the_slope_of_a_line():
    scores = {"a": [[0.2, 0.9]], "b": [[0.3, 0.8]], "c": [[0.7, 0.1]]}
    along = {"a": 1.0, "b": 2.0, "c": 4.0}
    trend = claim(system=None, against=None, along=along)
    expected = np.polyfit(list(along.values()), [scores[name][0] for name in along], 1)[0]
    np.testing.assert_allclose(differences(trend, rows(scores)), [expected], rtol=1e-12)
    pair = claim(system=None, against=None, along={"a": 1.0, "b": 0.0})
    np.testing.assert_allclose(differences(pair, rows(scores)), differences(claim(), rows(scores)))


def drawn(mean, seeds=10, prompts=40, noise=0.02):
    rng = np.random.default_rng(0)
    return [mean + noise * rng.standard_normal(prompts) for _ in range(seeds)]


def test_verdicts():
    claims = [claim(margin=0.3), claim(margin=0.3), claim(), claim(margin=0.5)]
    values = [drawn(0.6), drawn(0.1), drawn(0.0, seeds=2, prompts=5), drawn(0.6)]
    table = verdicts(claims, values)
    assert [row["verdict"] for row in table] == [
        *("reproduced", "not reproduced", "unclear", "reproduced")
    ]
    first = table[0]
    assert first["interval"][0] > 0.3 and first["estimate"] == pytest.approx(0.6, abs=0.01)
    assert first["interval"][0] < first["estimate"] < first["interval"][1]
    assert {row["verdict"] for row in verdicts(claims, values, testable=False)} == {"not testable"}


def test_holm_stops_at_the_first_undecided():
    """With m claims the smallest p is held to 5 % / m; one that fails there decides no other."""
    rng = np.random.default_rng(1)
    weak = [0.007 + 0.02 * rng.standard_normal(4) for _ in range(5)]
    alone = verdicts([claim()], [weak])[0]
    assert alone["verdict"] == "reproduced" and 0.001 < alone["p"] < 0.05
    noise = [drawn(0.0, seeds=3, prompts=6, noise=0.1)] * 60
    table = verdicts([claim()] * 61, [weak, *noise])
    assert table[0]["p"] == alone["p"] and table[0]["verdict"] == "unclear"
    wide, narrow = table[0]["interval"], alone["interval"]
    assert wide[0] < narrow[0] and wide[1] > narrow[1]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"sistem": "a"}, "did you mean|system"),
        ({"system": None}, "missing"),
        ({"along": {"a": 0, "b": 1}}, "takes the place"),
        ({"system": None, "against": None, "along": {"a": 0, "b": 0}}, "two places"),
    ],
)
def test_malformed_claims(changed, said):
    row = {k: v for k, v in {**ROW, **changed}.items() if v is not None}
    with pytest.raises(UserError, match=f"(?i)claims.json\\[0\\].*({said})"):
        read_claims([row], "claims.json")
    with pytest.raises(UserError, match="a list of claims"):
        read_claims({}, "claims.json")


def test_claims_of_what_is_not_there():
    found = rows({"a": [[1.0]], "b": [[0.0]]})
    with pytest.raises(UserError, match="no system 'c'"):
        differences(claim(against="c"), found)
    with pytest.raises(UserError, match="no prompt of seen"):
        differences(claim(groups=["seen"]), found)
