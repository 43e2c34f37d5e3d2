from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import MissingExtraError
from ctsm.evaluation.metrics import (
    accuracy,
    bleu4,
    distinct,
    perplexity_by_example,
    perplexity_by_token,
    reply_statistics,
    top_k_accuracy,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c", "ab", "bc"]), max_size=8)
REPLIES = st.lists(WORDS, max_size=12)
EXAMPLES = st.lists(st.tuples(st.floats(0, 300), st.integers(1, 60)), min_size=1, max_size=30)


@given(REPLIES, st.integers(1, 4))
def test_distinct_equals_a_written_out_count(replies: list[list[str]], n: int):
    found: list[list[str]] = []
    total = 0
    for reply in replies:
        for start in range(len(reply)):
            if start + n <= len(reply):
                gram = reply[start : start + n]
                total += 1
                if gram not in found:
                    found.append(gram)
    result = distinct(replies, n)
    assert (result.distinct, result.total) == (len(found), total)
    assert result.ratio_percent == pytest.approx(100 * len(found) / total if total else 0.0)


def test_distinct_does_not_cross_replies_nor_glue_tokens():
    assert distinct([["a", "b"], ["c", "a", "b"]], 2) == distinct([["c", "a", "b"], ["a", "b"]], 2)
    assert distinct([["a", "b"], ["c", "a", "b"]], 2).distinct == 2
    assert distinct([["ab", "c"], ["a", "bc"]], 2).distinct == 2


@pytest.mark.parametrize("replies", [[], [[]], [["a"]]])
def test_distinct_of_nothing_is_zero(replies: list[list[str]]):
    assert distinct(replies, 2).ratio_percent == 0.0
    assert distinct(replies, 2).total == 0


def test_distinct_refuses_n_zero():
    with pytest.raises(ValueError, match="at least one token"):
        distinct([["a"]], 0)


@given(EXAMPLES)
def test_perplexities_equal_written_out_sums(examples: list[tuple[float, int]]):
    nll, tokens = zip(*examples, strict=True)
    mean, everything, words = 0.0, 0.0, 0
    for loss, count in examples:
        mean += loss / count / len(examples)
        everything += loss
        words += count
    assert perplexity_by_example(nll, tokens) == pytest.approx(math.exp(mean), rel=1e-9)
    assert perplexity_by_token(nll, tokens) == pytest.approx(math.exp(everything / words), rel=1e-9)


def test_the_two_perplexities_differ_and_agree_when_lengths_do():
    assert perplexity_by_example([2.0, 9.0], [2, 3]) == pytest.approx(math.exp(2.0))
    assert perplexity_by_token([2.0, 9.0], [2, 3]) == pytest.approx(math.exp(11 / 5))
    assert perplexity_by_example([2.0, 9.0], [4, 4]) == pytest.approx(perplexity_by_token([2.0, 9.0], [4, 4]))


@pytest.mark.parametrize(("nll", "tokens"), [([], []), ([1.0], [1, 2]), ([1.0], [0]), ([[1.0]], [[1]])])
def test_perplexity_refuses_what_has_no_mean(nll: list[float], tokens: list[int]):
    with pytest.raises(ValueError, match=r"nll and tokens|at least one target token"):
        perplexity_by_example(nll, tokens)
    with pytest.raises(ValueError, match=r"nll and tokens|at least one target token"):
        perplexity_by_token(nll, tokens)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_accuracy_counts(pairs: list[tuple[int, int]]):
    predicted, gold = zip(*pairs, strict=True)
    right = 0
    for ours, label in pairs:
        right += ours == label
    assert accuracy(predicted, gold) == pytest.approx(100 * right / len(pairs))


def test_accuracy_refuses_other_shapes():
    with pytest.raises(ValueError, match="predicted and gold"):
        accuracy([1], [1, 2])
    with pytest.raises(ValueError, match="predicted and gold"):
        accuracy([], [])


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_top_k_equals_a_stable_sort(n: int, labels: int, k: int, seed: int):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 3, size=(n, labels)).astype(float)  # few values, so many ties
    gold = generator.integers(0, labels, size=n)
    right = 0
    for row, label in zip(scores, gold, strict=True):
        ranking = sorted(range(labels), key=lambda emotion: -row[emotion])
        right += int(label) in ranking[:k]
    assert top_k_accuracy(scores, gold, k) == pytest.approx(100 * right / n)
    assert top_k_accuracy(scores, gold, 1) == pytest.approx(accuracy(scores.argmax(axis=1), gold))


@pytest.mark.parametrize(
    ("scores", "gold", "k"),
    [
        ([[1.0, 2.0]], [2], 1),
        ([[1.0, 2.0]], [-1], 1),
        ([[1.0, 2.0]], [0], 0),
        ([[1.0, 2.0]], [0, 1], 1),
        ([[float("nan"), 2.0]], [0], 1),
        ([1.0, 2.0], [0], 1),
    ],
)
def test_top_k_refuses_what_cannot_be_ranked(scores: list[list[float]], gold: list[int], k: int):
    with pytest.raises(ValueError, match=r"labels must be|need \[N, E\]|NaN"):
        top_k_accuracy(scores, gold, k)


def test_bleu_equals_hand_counted_precisions():
    # n-gram precisions 4/5, 3/4, 2/3, 1/2 and no brevity penalty
    assert bleu4([list("abcde")], [list("abcdf")]).score == pytest.approx(100 * (0.8 * 0.75 * 2 / 3 * 0.5) ** 0.25)
    # every n-gram is right, one token too short: exp(1 - 5/4)
    assert bleu4([list("abcd")], [list("abcde")]).score == pytest.approx(100 * math.exp(-0.25))
    # no 4-gram is right: sacrebleu's default smoothing counts half of one
    assert bleu4([list("abcx")], [list("abcd")]).score == pytest.approx(100 * (0.75 * 2 / 3 * 0.5 * 0.5) ** 0.25)


def test_bleu_is_of_the_corpus_and_counts_empty_replies():
    replies = [list("abcde"), list("abcd"), []]
    references = [list("abcdf"), list("abcd"), list("xyz")]
    precision = (8 / 9) * (6 / 7) * (4 / 5) * (2 / 3)
    assert bleu4(replies, references).score == pytest.approx(100 * math.exp(1 - 12 / 9) * precision**0.25)


def test_bleu_says_how_it_was_computed_and_keeps_tokens_as_they_are(caplog: pytest.LogCaptureFixture):
    tokens = [["it", "is", "n't", ",", "is", "it", "."]] * 120
    result = bleu4(tokens, tokens)
    assert result.score == pytest.approx(100.0)
    assert "tok:none" in result.signature
    assert "case:mixed" in result.signature
    assert "version:" in result.signature
    assert not caplog.records
    assert bleu4([list("abcD")], [list("abcd")]).score < 100


def test_bleu_refuses_missing_or_empty_references():
    with pytest.raises(ValueError, match="as many references"):
        bleu4([["a"]], [])
    with pytest.raises(ValueError, match="as many references"):
        bleu4([], [])
    with pytest.raises(ValueError, match="no token"):
        bleu4([["a"]], [[]])


def test_bleu_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"ctsm\[eval\]"):
        bleu4([["a"]], [["a"]])


@given(REPLIES)
def test_reply_statistics_equal_a_written_out_count(replies: list[list[str]]):
    tokens, empty = 0, 0
    different: list[list[str]] = []
    for reply in replies:
        tokens += len(reply)
        empty += reply == []
        if reply not in different:
            different.append(reply)
    result = reply_statistics(replies)
    assert result.mean_length == pytest.approx(tokens / len(replies) if replies else 0.0)
    assert (result.distinct_replies, result.empty) == (len(different), empty)
