"""The pointer mixture's best words against the whole mixture, built word by word and sorted."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.nn.pointer import CopySource, PointerGenerator

V, D, EXTENDED = 90, 4, 94  # more words than `top_k` sorts at once
PAD, CLS = 1, 6
SPECIAL = torch.tensor([0, 1, 3, 4, 5, 6])
WORDS = st.sampled_from([PAD, 0, 7, 7, 8, 9, 40, 41, 89, 90, 91, 92, 93])
SOURCES = st.lists(st.lists(WORDS, min_size=6, max_size=6), min_size=1, max_size=4)


def made(seed: int) -> tuple[PointerGenerator, torch.Generator]:
    torch.manual_seed(seed)
    return PointerGenerator(D, V).double(), torch.Generator().manual_seed(seed + 1)


def mixture(
    generator: PointerGenerator, hidden: torch.Tensor, scores: torch.Tensor, ids: list[int], copyable: list[bool]
) -> np.ndarray:
    """log p of every extended word at one position."""
    h = hidden.numpy()
    logits = generator.vocabulary.weight.detach().numpy() @ h + generator.vocabulary.bias.detach().numpy()
    places = [place for place in range(len(ids)) if copyable[place]]
    gate = 1 / (1 + math.exp(-(generator.gate.weight.detach().numpy()[0] @ h + generator.gate.bias.item())))
    probabilities = np.zeros(EXTENDED)
    probabilities[:V] = np.exp(logits) / np.exp(logits).sum() * (gate if places else 1.0)
    weights = np.exp(scores.numpy()[places])
    for place, weight in zip(places, weights, strict=True):
        probabilities[ids[place]] += (1 - gate) * weight / weights.sum()
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


@settings(deadline=None, max_examples=100)
@given(
    rows=SOURCES,
    masked=st.integers(0, 63),
    k=st.integers(1, V + 7),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    bans=st.booleans(),
)
def test_best_words_are_those_of_the_sorted_mixture(
    rows: list[list[int]], masked: int, k: int, seed: int, scale: float, bans: bool
) -> None:
    """Words repeat, occur at copyable and other places (`masked` hides some), are unknown or banned."""
    generator, random = made(seed)
    ids = torch.tensor([[CLS, *row] for row in rows])
    hidden = torch.randn(len(rows), D, generator=random, dtype=torch.float64) * scale
    scores = torch.randn(ids.shape, generator=random, dtype=torch.float64) * scale
    hidden_places = torch.tensor([False, *((masked >> place) & 1 == 1 for place in range(6))])
    copyable = (ids != PAD) & (ids != CLS) & ~hidden_places
    banned = SPECIAL if bans else SPECIAL[:0]
    words, values = generator.top_words(hidden, scores, CopySource.of(ids, copyable), banned, k)
    assert words.shape == values.shape == (len(rows), k)
    for row in range(len(rows)):
        log_p = mixture(generator, hidden[row], scores[row], ids[row].tolist(), copyable[row].tolist())
        log_p[banned.numpy()] = -np.inf
        possible = min(k, int(np.isfinite(log_p).sum()))
        np.testing.assert_allclose(values[row, :possible], np.sort(log_p)[::-1][:possible], rtol=1e-10)
        np.testing.assert_allclose(log_p[words[row, :possible].numpy()], values[row, :possible], rtol=1e-10)
        assert len(set(words[row, :possible].tolist())) == possible
        assert torch.isneginf(values[row, possible:]).all()


@settings(deadline=None, max_examples=50)
@given(rows=SOURCES, seed=st.integers(0, 999), flat=st.booleans())
def test_the_first_of_them_is_the_best_word_also_in_ties(rows: list[list[int]], seed: int, flat: bool) -> None:
    generator, random = made(seed)
    ids = torch.tensor([[CLS, *row] for row in rows])
    source = CopySource.of(ids, (ids != PAD) & (ids != CLS))
    hidden = torch.randn(len(rows), D, generator=random, dtype=torch.float64)
    scores = torch.zeros(ids.shape, dtype=torch.float64)
    if flat:  # every word of the vocabulary is as probable as every other
        with torch.no_grad():
            generator.vocabulary.weight.zero_()
            generator.vocabulary.bias.zero_()
    best, value = generator.best_word(hidden, scores, source, SPECIAL)
    words, values = generator.top_words(hidden, scores, source, SPECIAL, 5)
    assert words[:, 0].tolist() == best.tolist()
    assert torch.equal(values[:, 0], value.detach())


def test_equally_probable_words_come_in_the_order_of_the_source_and_then_of_the_ids() -> None:
    generator, _ = made(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    ids = torch.tensor([[CLS, 40, 91, 8, 40, 9]])
    source = CopySource.of(ids, ids != CLS)
    scores = torch.tensor([[0.0, 0.0, math.log(2), 0.0, 0.0, 0.0]], dtype=torch.float64)
    words, _ = generator.top_words(torch.zeros(1, D, dtype=torch.float64), scores, source, SPECIAL, 9)
    # 40 (twice) and 91 (weight 2) are copied with 2/6 each, but 40 is generated too; 8 and 9 with 1/6 each.
    assert words.tolist() == [[40, 91, 8, 9, 2, 7, 10, 11, 12]]


def test_the_word_that_unknown_words_borrow_keeps_its_probability() -> None:
    generator, _ = made(1)
    with torch.no_grad():
        generator.vocabulary.bias[0] = 9.0
    ids = torch.tensor([[CLS, 91, 92, 93]])
    source = CopySource.of(ids, ids != CLS)
    hidden, scores = torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    assert generator.top_words(hidden, scores, source, SPECIAL[:0], 1)[0].tolist() == [[0]]
