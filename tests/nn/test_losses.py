from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.nn.losses import FrequencyWeights, Negatives, before_first_end, contrastive_loss, soft_cross_entropy

TAU = 0.07


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def info_nce(anchor: list[float], positive: list[float], denominator: list[list[float]]) -> float:
    """-log(exp(sim(anchor, positive)) / sum of exp(sim(anchor, each of the denominator)))."""
    total = sum(math.exp(cosine(anchor, other) / TAU) for other in denominator)
    return math.log(total) - cosine(anchor, positive) / TAU


def written_out(first: list[list[float]], second: list[list[float]], negatives: Negatives) -> float:
    rows = range(len(first))
    terms = []
    for i in rows:
        others = [j for j in rows if j != i]
        if negatives == "paper":
            terms.append(info_nce(first[i], second[i], [second[j] for j in others]))
            continue
        for mine, other in ((first, second), (second, first)):
            denominator = [other[i]] + [other[j] for j in others]
            if negatives == "both_views":
                denominator += [mine[j] for j in others]
            terms.append(info_nce(mine[i], other[i], denominator))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("negatives", ["both_views", "cross_view", "paper"])
@settings(deadline=None, max_examples=25)
@given(batch=st.integers(2, 6), seed=st.integers(0, 1000))
def test_contrastive_loss_is_eq_23_written_out(negatives: Negatives, batch: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, batch, 5), scale=3.0)
    loss = contrastive_loss(torch.from_numpy(first), torch.from_numpy(second), TAU, negatives)
    assert float(loss) == pytest.approx(written_out(first.tolist(), second.tolist(), negatives), abs=1e-10)


@pytest.mark.parametrize(
    ("negatives", "chance"), [("both_views", math.log(31)), ("cross_view", math.log(16)), ("paper", math.log(15))]
)
def test_contrastive_loss_at_chance(negatives: Negatives, chance: float) -> None:
    views = torch.ones(16, 5, dtype=torch.float64)  # every pair is equally similar
    assert float(contrastive_loss(views, 7 * views, TAU, negatives)) == pytest.approx(chance)


@pytest.mark.parametrize("negatives", ["both_views", "cross_view", "paper"])
def test_one_example_has_no_negatives(negatives: Negatives) -> None:
    first, second = torch.randn(1, 5, requires_grad=True), torch.randn(1, 5, requires_grad=True)
    loss = contrastive_loss(first, second, TAU, negatives)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert first.grad is not None
    assert torch.equal(first.grad, torch.zeros(1, 5))


@pytest.mark.parametrize("negatives", ["both_views", "cross_view", "paper"])
def test_contrastive_gradients_are_finite_for_zero_and_equal_views(negatives: Negatives) -> None:
    first = torch.cat([torch.zeros(1, 5), torch.randn(2, 5)]).requires_grad_()
    loss = contrastive_loss(first, first.detach().clone(), TAU, negatives)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert first.grad is not None
    assert bool(torch.isfinite(first.grad).all())


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 5), seed=st.integers(0, 1000))
def test_soft_cross_entropy_written_out(batch: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, target = random.normal(size=(batch, 32), scale=3.0), random.dirichlet(np.ones(32), size=batch)
    expected = 0.0
    for row, shares in zip(logits, target, strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        expected -= sum(share * (value - total) for share, value in zip(shares, row, strict=True)) / batch
    assert float(soft_cross_entropy(torch.from_numpy(logits), torch.from_numpy(target))) == pytest.approx(expected)


WORDS = st.lists(
    st.tuples(st.integers(0, 14), st.booleans()),
    max_size=40,
)


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(WORDS, min_size=1, max_size=3))
def test_frequency_weights_written_out(steps: list[list[tuple[int, bool]]]) -> None:
    size = 12  # ids from 12 upwards are copied words that the vocabulary lacks
    module = FrequencyWeights(size)
    counts = [0] * size
    for step in steps:
        module.update(
            torch.tensor([word for word, _ in step], dtype=torch.long),
            torch.tensor([counted for _, counted in step], dtype=torch.bool),
        )
        for word, counted in step:
            if counted and word < size:
                counts[word] += 1
    assert module.counts.tolist() == counts
    weights = module().tolist()
    if not any(counts):
        assert weights == [1.0] * size
        return
    raw = [1 - count / max(counts) for count in counts]
    mean = sum(raw) / size
    if mean == 0:
        assert weights == [0.0] * size
        return
    assert weights == pytest.approx([value / mean for value in raw], rel=1e-6)
    assert weights[counts.index(max(counts))] == 0.0
    assert sum(weights) / size == pytest.approx(1.0, rel=1e-6)


def test_counts_are_a_buffer_that_is_saved_and_stays_exact() -> None:
    module = FrequencyWeights(4)
    assert not list(module.parameters())
    assert list(module.state_dict()) == ["counts"]
    module.counts[2] = 2.0**25  # float32 could not count further
    module.update(torch.tensor([2, 0]), torch.tensor([True, True]))
    assert module.counts.tolist() == [1.0, 0.0, 2.0**25 + 1, 0.0]
    restored = FrequencyWeights(4)
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(), module())
    assert not module().requires_grad


ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=6, max_size=6),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_before_first_end_written_out(rows: list[list[tuple[int, bool]]]) -> None:
    end = 2
    expected = []
    for row in rows:
        kept, ended = [], False
        for word, real in row:
            ended = ended or (real and word == end)
            kept.append(real and not ended)
        expected.append(kept)
    words = torch.tensor([[word for word, _ in row] for row in rows])
    real = torch.tensor([[flag for _, flag in row] for row in rows])
    assert before_first_end(words, real, end).tolist() == expected
