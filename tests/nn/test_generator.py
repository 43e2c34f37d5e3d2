"""The plain output layer against NumPy, word by word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ctsm.nn.generator import PlainGenerator, no_source

V, D = 60, 4  # more words than `top_k` sorts at once
UNK, PAD = 0, 1
SPECIAL = torch.tensor([0, 1, 3, 4, 5, 6])
Array = NDArray[np.float64]
CASES = settings(deadline=None, max_examples=40)


def case(seed: int, rows: int, scale: float = 1.0) -> tuple[PlainGenerator, Tensor, Array]:
    """An output layer, states [N, D], and log p of every word [N, V]."""
    torch.manual_seed(seed)
    generator = PlainGenerator(D, V).double()
    hidden = (torch.randn(rows, D) * scale).double()
    weight, bias = generator.vocabulary.weight.detach().numpy(), generator.vocabulary.bias.detach().numpy()
    logits = np.array([[weight[word] @ state + bias[word] for word in range(V)] for state in hidden.numpy()])
    return generator, hidden, np.array([row - np.log(np.exp(row - row.max()).sum()) - row.max() for row in logits])


def copying(rows: int) -> tuple[Tensor, object]:
    """Copy scores and a source that must not matter."""
    return torch.full((rows, 3), float("nan")), no_source(torch.tensor([[6, 7, 8]] * rows))


@CASES
@given(seed=st.integers(0, 999), rows=st.integers(1, 5), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_scores_best_words_and_the_distribution(seed: int, rows: int, scale: float) -> None:
    generator, hidden, log_p = case(seed, rows, scale)
    target = torch.tensor([(7 * row + seed) % V for row in range(rows)])
    scored = generator.score(hidden, *copying(rows), target)
    wanted = [log_p[n, word] for n, word in enumerate(target)]
    np.testing.assert_allclose(scored.log_probability.detach(), wanted, atol=1e-12)
    assert scored.best.tolist() == log_p.argmax(axis=1).tolist()
    assert not scored.best.is_floating_point()
    allowed = log_p.copy()
    allowed[:, SPECIAL.numpy()] = -np.inf
    word, value = generator.best_word(hidden, *copying(rows), SPECIAL)
    assert word.tolist() == allowed.argmax(axis=1).tolist()
    np.testing.assert_allclose(value.detach(), allowed.max(axis=1), atol=1e-12)
    whole = generator.distribution(hidden, *copying(rows), V + 3).detach().numpy()
    np.testing.assert_allclose(whole[:, :V], log_p, atol=1e-12)
    assert np.isneginf(whole[:, V:]).all()


@CASES
@given(seed=st.integers(0, 999), k=st.integers(1, V + 9), flat=st.booleans())
def test_top_words_are_the_sorted_ones_the_first_of_equals_first(seed: int, k: int, flat: bool) -> None:
    generator, hidden, log_p = case(seed, 3)
    if flat:
        with torch.no_grad():
            generator.vocabulary.weight.zero_()
            generator.vocabulary.bias.zero_()
        log_p = np.full_like(log_p, -np.log(V))
    log_p[:, SPECIAL.numpy()] = -np.inf
    words, values = generator.top_words(hidden, *copying(3), SPECIAL, k)
    assert words.shape == values.shape == (3, min(k, V))
    possible = min(k, V - len(SPECIAL))
    order = np.argsort(-log_p, axis=1, kind="stable")[:, :possible]
    assert words[:, :possible].tolist() == order.tolist()
    np.testing.assert_allclose(values[:, :possible], np.take_along_axis(log_p, order, axis=1), atol=1e-12)
    assert torch.isneginf(values[:, possible:]).all()


def test_words_that_the_vocabulary_lacks_count_as_unk() -> None:
    generator, hidden, log_p = case(3, 2)
    scored = generator.score(hidden, *copying(2), torch.tensor([V, V + 5]))
    np.testing.assert_allclose(scored.log_probability.detach(), log_p[:, UNK])
    smoothed = generator.smoothed(hidden, torch.tensor([V, 9]), 0.1)
    np.testing.assert_allclose(smoothed.nll.detach(), [-log_p[0, UNK], -log_p[1, 9]])


@CASES
@given(seed=st.integers(0, 999), smoothing=st.sampled_from([0.0, 0.1, 0.6]))
def test_label_smoothing_is_the_cross_entropy_with_a_target_built_word_by_word(seed: int, smoothing: float) -> None:
    """1 - s on the word, s / (V - 2) on each other word, nothing on PAD; gradients are those of the dense loss."""
    generator, hidden, log_p = case(seed, 4)
    target = [UNK, 2, 9, V - 1]
    dense = np.full((4, V), smoothing / (V - 2))
    for n, word in enumerate(target):
        dense[n, word] = 1 - smoothing
        dense[n, PAD] = 0.0
    np.testing.assert_allclose(dense.sum(axis=1), 1.0)
    hidden.requires_grad_()
    smoothed = generator.smoothed(hidden, torch.tensor(target), smoothing)
    np.testing.assert_allclose(smoothed.loss.detach(), -(dense * log_p).sum(axis=1))
    np.testing.assert_allclose(smoothed.nll.detach(), [-log_p[n, word] for n, word in enumerate(target)])
    (gradient,) = torch.autograd.grad(smoothed.loss.sum(), hidden)
    expected = (np.exp(log_p) - dense) @ generator.vocabulary.weight.detach().numpy()
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_the_constant_of_the_divergence_is_the_targets_entropy() -> None:
    generator, hidden, log_p = case(1, 1)
    target = torch.full((1, V), 0.1 / (V - 2), dtype=torch.float64)
    target[0, 9], target[0, PAD] = 0.9, 0.0
    divergence = torch.nn.functional.kl_div(torch.tensor(log_p), target, reduction="sum")
    entropy = -torch.special.xlogy(target, target).sum()
    loss = generator.smoothed(hidden, torch.tensor([9]), 0.1).loss
    assert loss.item() == pytest.approx((divergence + entropy).item())


def test_no_source_offers_nothing() -> None:
    source = no_source(torch.tensor([[6, 7, 90], [6, 8, 1]]))
    assert source.ids.tolist() == [[PAD], [PAD]]
    assert not source.copyable.any()
    assert source.rows(torch.tensor([1, 1, 0])).ids.shape == (3, 1)
