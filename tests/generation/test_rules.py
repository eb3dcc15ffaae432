"""Sampling rules: tokens are drawn from exactly the distribution that each rule leaves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from lfjax.errors import UserError
from lfjax.generation.rules import GREEDY, Rules, Sampling, pick

V, DRAWS, SEED = 40, 20_000, 0


def distribution(logits, sampling: Sampling, seen):
    """By the definitions, with sorting, in float64."""
    x = np.asarray(logits, np.float64)
    r = sampling.repetition_penalty
    x = np.where(seen, np.where(x > 0, x / r, x * r), x) / sampling.temperature
    p = np.exp(x - x.max())
    if sampling.top_k:
        p[p < np.sort(p)[::-1][min(sampling.top_k, V) - 1]] = 0
    p /= p.sum()
    order = np.argsort(-p)
    needed = np.searchsorted(np.cumsum(p[order]), sampling.top_p) + 1
    p[order[needed:]] = 0
    p[p < sampling.min_p * p.max()] = 0
    return p / p.sum()


LOGITS = np.random.default_rng(1).normal(0, 2, V).astype(np.float32)
SEEN = np.arange(V) % 3 == 0
RULES = {
    "full": Sampling(),
    "hot": Sampling(temperature=1.7),
    "cold": Sampling(temperature=0.4),
    "top_k": Sampling(top_k=5),
    "top_k of all": Sampling(top_k=1000),
    "top_p": Sampling(top_p=0.8),
    "small top_p": Sampling(top_p=0.01),
    "min_p": Sampling(min_p=0.1),
    "penalty": Sampling(repetition_penalty=1.8),
    "reward": Sampling(repetition_penalty=0.6),
    "all": Sampling(1.3, 1.5, 12, 0.9, 0.05),
}


@partial(jax.jit, static_argnums=2)
def drawn(logits, rules: Rules, number: int):
    """Many draws of the first slot's rules, in as many slots."""
    keys = jax.vmap(lambda i: jnp.stack([i, i * 0 + SEED]))(jnp.arange(number, dtype=jnp.uint32))
    wide = jax.tree.map(lambda x: jnp.broadcast_to(x[0], number), rules)
    b, seen = jnp.tile(logits, (number, 1)), jnp.tile(jnp.asarray(SEEN), (number, 1))
    return pick(b, wide, seen, keys, jnp.zeros(number, jnp.int32))


@pytest.mark.parametrize("name", RULES)
def test_draws_follow_the_distribution(name):
    expected = distribution(LOGITS, RULES[name], SEEN)
    tokens = drawn(jnp.asarray(LOGITS), Rules.of([RULES[name]]), DRAWS)
    counts = np.bincount(tokens, minlength=V)
    assert not counts[expected == 0].any()
    real = expected > 0
    rare = real & (expected * DRAWS < 5)  # pooled: the test needs five of each
    classes = [real & ~rare] if not rare.any() else [real & ~rare, rare]
    found = [*counts[classes[0]], *(counts[c].sum() for c in classes[1:])]
    exact = [*expected[classes[0]], *(expected[c].sum() for c in classes[1:])]
    if len(exact) > 1:
        assert chisquare(found, np.array(exact) * DRAWS).pvalue > 0.01
    else:
        assert found == [DRAWS]


def test_rules_differ():
    """No two of the rules leave the same distribution, so that one taken for another is noticed."""
    ps = {name: distribution(LOGITS, rule, SEEN) for name, rule in RULES.items()}
    names = [name for name in ps if name != "top_k of all"]
    for i, a in enumerate(names):
        for b in names[:i]:
            assert np.abs(ps[a] - ps[b]).sum() > 0.05, (a, b)
    assert np.array_equal(ps["full"], ps["top_k of all"])


def test_transformers_leaves_the_same_tokens():
    """Which tokens can be drawn, and their probabilities, against transformers' own processors."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for name, s in RULES.items():
        scores = torch.tensor(LOGITS)[None]
        seen = torch.tensor(np.flatnonzero(SEEN))[None]
        for warp in (
            transformers.RepetitionPenaltyLogitsProcessor(s.repetition_penalty),
            transformers.TemperatureLogitsWarper(s.temperature),
            *([transformers.TopKLogitsWarper(s.top_k)] if s.top_k else []),
            *([transformers.TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []),
            transformers.MinPLogitsWarper(s.min_p),
        ):
            scores = warp(seen, scores)
        p = torch.softmax(scores, -1)[0].numpy()
        np.testing.assert_allclose(p, distribution(LOGITS, s, SEEN), atol=1e-6, err_msg=name)


def test_ties_stay_together():
    """Tokens as likely as the last that fits are kept, whichever comes first."""
    logits = jnp.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0] + [-9.0] * (V - 6))
    for rule in (Sampling(top_k=2), Sampling(top_p=0.6)):
        assert set(np.asarray(drawn(logits, Rules.of([rule]), 500))) == {1, 2, 3, 4}


def test_greedy():
    """The first of the likeliest, after the penalty."""
    logits = np.zeros((3, V), np.float32)
    logits[0, [7, 9]], logits[1, 3], logits[1, 4], logits[2, 5] = 2.0, 2.0, 1.5, 1.0
    seen = np.zeros((3, V), bool)
    seen[1, 3] = True
    rules = Rules.of([GREEDY, Sampling(temperature=0.0, repetition_penalty=2.0), GREEDY])
    tokens = jax.jit(pick)(logits, rules, seen, np.zeros((3, 2), np.uint32), np.zeros(3, np.int32))
    assert tokens.tolist() == [7, 4, 5]


@pytest.mark.parametrize("name", RULES)
def test_neighbours_change_nothing(name):
    """A slot draws the same token whatever the rules of the others, in a large vocabulary."""
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (4, 5000)).astype(np.float32)
    seen = rng.random((4, 5000)) < 0.3
    keys = rng.integers(0, 2**32, (4, 2), np.uint32)
    number = np.arange(4, dtype=np.int32)

    def second(others):
        rules = [others, RULES[name], others, others]
        return int(jax.jit(pick)(logits, Rules.of(rules), seen, keys, number)[1])

    assert len({second(other) for other in [GREEDY, *RULES.values()]}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        dict(temperature=-1.0),
        dict(top_k=-1),
        dict(top_p=0.0),
        dict(top_p=1.1),
        dict(min_p=-0.1),
        dict(repetition_penalty=0.0),
    ],
)
def test_bad_rules(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"sampling: {name}=.*; expected"):
        Sampling(**wrong)
