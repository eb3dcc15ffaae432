"""ROUGE of texts whose scores can be counted by hand."""

import sys

import numpy as np
import pytest

from lfjax.errors import UserError
from lfjax.evaluation.rouge import KINDS, rouge


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


def test_the_package_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"lfjax\[eval\]"):
        rouge(["a"], ["a"])
