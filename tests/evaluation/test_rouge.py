"""ROUGE of texts whose scores can be counted by hand."""

import sys

import numpy as np
import pytest

from lfjax.errors import UserError
from lfjax.evaluation.rouge import KINDS, rouge, rouge_l


def test_by_hand():
    pytest.importorskip("rouge_score")
    found = rouge(["the cat sat", "dogs bark", "", "same words"], ["the cat ran home", "dog barked",
                  "x", "same words"])  # fmt: skip
    # 2 of 3 words and 2 of 4: F1 = 2·(2/3)(1/2)/(2/3 + 1/2) = 4/7; one of 2 and of 3 bigrams: 2/5
    np.testing.assert_allclose(found["rouge1"], [4 / 7, 1, 0, 1])  # stems: dogs, dog
    np.testing.assert_allclose(found["rouge2"], [2 / 5, 1, 0, 1])
    np.testing.assert_allclose(found["rougeL"], [4 / 7, 1, 0, 1])
    assert list(found) == list(KINDS)


def test_sentences_of_lsum_are_lines():
    """Two sentences in the other order: a common subsequence holds one, LSum finds both."""
    pytest.importorskip("rouge_score")
    found = rouge(["b c\na d"], ["a d\nb c"])
    np.testing.assert_allclose([found["rougeL"][0], found["rougeLsum"][0]], [0.5, 1.0])


def test_rouge_l_without_the_package():
    """Without it the monitor of RL counts something else than ROUGE-L, or too much near the ends of
    a text."""
    pytest.importorskip("rouge_score")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), n)) for n in (1, 2, 3, 7, 40, 70, 130, 64)]
    pairs = [(a, b) for a in texts for b in texts]
    expected = rouge(*zip(*pairs))["rougeL"]
    np.testing.assert_allclose([rouge_l(a, b) for a, b in pairs], expected, atol=1e-12)
    assert rouge_l("", "a") == rouge_l("a", " ") == rouge_l("", "") == 0


def test_the_package_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"lfjax\[eval\]"):
        rouge(["a"], ["a"])
