from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctsm.nn.pointer import CopySource, PointerGenerator

V, D, EXTENDED = 12, 4, 15
PAD, CLS = 1, 6
SPECIAL = torch.tensor([0, 1, 3, 4, 5, 6])
NUMBERS = settings(deadline=None, max_examples=60)


class Case(NamedTuple):
    """One output layer and N positions with a source row each."""

    generator: PointerGenerator
    hidden: Tensor
    scores: Tensor
    ids: Tensor
    copyable: Tensor

    @property
    def source(self) -> CopySource:
        return CopySource.of(self.ids, self.copyable)


SOURCE_ROWS = st.lists(
    st.lists(st.sampled_from([PAD, 0, 7, 7, 8, 9, 12, 13, 14]), min_size=5, max_size=5), min_size=1, max_size=4
)


def case(rows: list[list[int]], seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Case:
    """CLS, then the given words; PAD and CLS are not copyable."""
    torch.manual_seed(seed)
    generator = PointerGenerator(D, V).to(dtype)
    ids = torch.tensor([[CLS, *row] for row in rows])
    hidden = torch.randn(len(rows), D).to(dtype) * scale
    scores = (torch.randn(ids.shape).to(dtype) * scale).masked_fill(ids == PAD, -1e9)
    return Case(generator, hidden.requires_grad_(), scores.requires_grad_(), ids, (ids != PAD) & (ids != CLS))


def dense(logits_V: Tensor, gate: Tensor, scores_S: Tensor, ids: list[int], copyable: list[bool]) -> Tensor:
    """The mixture of one position, built word by word as it is defined [EXTENDED]."""
    places = [s for s in range(len(ids)) if copyable[s]]
    generate = torch.sigmoid(gate) if places else torch.ones_like(gate)
    mixture = torch.cat([generate * torch.softmax(logits_V, dim=0), logits_V.new_zeros(EXTENDED - V)])
    if places:
        attention = torch.softmax(scores_S[places], dim=0)
        for place, weight in zip(places, attention, strict=True):
            mixture = mixture + (1 - generate) * weight * torch.eye(EXTENDED, dtype=logits_V.dtype)[ids[place]]
    return mixture


def dense_of(case: Case) -> Tensor:
    """The mixtures of all positions [N, EXTENDED]."""
    logits, gates = case.generator.vocabulary(case.hidden), case.generator.gate(case.hidden)[:, 0]
    rows = zip(logits, gates, case.scores, case.ids.tolist(), case.copyable.tolist(), strict=True)
    return torch.stack([dense(*row) for row in rows])


@NUMBERS
@given(rows=SOURCE_ROWS, seed=st.integers(0, 999), scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_distribution_is_the_dense_mixture_and_sums_to_one(rows: list[list[int]], seed: int, scale: float) -> None:
    made = case(rows, seed, scale)
    log_probabilities = made.generator.distribution(made.hidden, made.scores, made.source, EXTENDED)
    torch.testing.assert_close(log_probabilities.exp(), dense_of(made), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=-1), torch.ones(len(rows), dtype=torch.float64))


@NUMBERS
@given(rows=SOURCE_ROWS, seed=st.integers(0, 999))
def test_pad_and_cls_are_never_copied(rows: list[list[int]], seed: int) -> None:
    made = case(rows, seed)
    copying = torch.full_like(made.scores, -5.0)
    copying[:, 0] = 50.0  # all attention on CLS, and on padding too
    copying = copying.masked_fill(made.ids == PAD, 50.0)
    log_probabilities = made.generator.distribution(made.hidden, copying, made.source, EXTENDED)
    logits = made.generator.vocabulary(made.hidden)
    gates = torch.sigmoid(made.generator.gate(made.hidden)[:, 0]).where(made.copyable.any(dim=1), 1.0)
    for word in (PAD, CLS):
        expected = gates.log() + torch.log_softmax(logits, dim=-1)[:, word]
        torch.testing.assert_close(log_probabilities[:, word], expected)
        target = torch.full((len(rows),), word)
        scored = made.generator.score(made.hidden, copying, made.source, target)
        torch.testing.assert_close(scored.log_probability, expected)


@NUMBERS
@given(rows=SOURCE_ROWS, seed=st.integers(0, 999))
def test_copy_weights_are_what_the_gate_leaves_shared_by_attention(rows: list[list[int]], seed: int) -> None:
    made = case(rows, seed)
    weights = made.generator.copy_weights(made.hidden, made.scores, made.source).detach()
    for n, row in enumerate(made.ids.tolist()):
        places = [s for s, word in enumerate(row) if word not in (PAD, CLS)]
        left = 1 - torch.sigmoid(made.generator.gate(made.hidden)[n, 0])
        powers = {s: math.exp(made.scores[n, s].item()) for s in places}
        for s in range(len(row)):
            expected = left.item() * powers[s] / sum(powers.values()) if s in powers else 0.0
            assert float(weights[n, s]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def _target(row: list[int], choice: int) -> int:
    """A word of the mixture's support: any vocabulary word, or one that the source offers."""
    support = sorted(set(range(V)) | {word for word in row if word != PAD})
    return support[choice % len(support)]


@NUMBERS
@given(
    rows=SOURCE_ROWS,
    choices=st.lists(st.integers(0, 99), min_size=4, max_size=4),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_sparse_loss_and_gradients_equal_the_dense_mixtures(
    rows: list[list[int]], choices: list[int], seed: int, scale: float
) -> None:
    made = case(rows, seed, scale)
    target = [_target(row, choice) for row, choice in zip(rows, choices, strict=False)]
    seen: dict[str, Tensor] = {}
    hooks = [
        made.generator.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out})
        )
        for name in ("vocabulary", "gate")
    ]
    scored = made.generator.score(made.hidden, made.scores, made.source, torch.tensor(target))
    sparse = scored.log_probability
    upstream = torch.randn(len(rows), dtype=torch.float64)
    sparse_of = (seen["vocabulary"], seen["gate"], made.scores, made.hidden)
    sparse_gradients = torch.autograd.grad((sparse * upstream).sum(), sparse_of, allow_unused=True)
    expected = dense_of(made)[torch.arange(len(rows)), target].log()
    dense_of_these = (seen["vocabulary"], seen["gate"], made.scores, made.hidden)
    dense_gradients = torch.autograd.grad((expected * upstream).sum(), dense_of_these, allow_unused=True)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(sparse, expected, rtol=1e-10, atol=1e-12)
    for a, b, like in zip(sparse_gradients, dense_gradients, sparse_of, strict=True):
        nothing = torch.zeros_like(like)
        torch.testing.assert_close(nothing if a is None else a, nothing if b is None else b, rtol=1e-8, atol=1e-12)


@NUMBERS
@given(
    rows=SOURCE_ROWS,
    choices=st.lists(st.integers(0, 99), min_size=4, max_size=4),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
)
def test_smoothed_loss_and_gradients_equal_the_dense_mixtures(
    rows: list[list[int]], choices: list[int], seed: int, scale: float, smoothing: float
) -> None:
    """The rest goes to every other vocabulary word but PAD, also where the target is a word outside the vocabulary."""
    made = case(rows, seed, scale)
    support = [[word for word in range(EXTENDED) if word != PAD and (word < V or word in row)] for row in rows]
    target = [words[choice % len(words)] for words, choice in zip(support, choices, strict=False)]
    smoothed = made.generator.smoothed(made.hidden, made.scores, made.source, torch.tensor(target), smoothing)
    expected = []
    for word, row in zip(target, dense_of(made), strict=True):
        others = [other for other in range(V) if other not in (word, PAD)]
        shares = {word: 1 - smoothing} | {other: smoothing / len(others) for other in others}
        expected.append(-sum(share * row[other].log() for other, share in shares.items()))
    torch.testing.assert_close(smoothed.loss, torch.stack(expected), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(smoothed.nll, -dense_of(made)[torch.arange(len(rows)), target].log())
    inputs = (made.hidden, made.scores, *made.generator.parameters())
    upstream = torch.randn(len(rows), dtype=torch.float64)
    sparse = torch.autograd.grad((smoothed.loss * upstream).sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad((torch.stack(expected) * upstream).sum(), inputs, allow_unused=True)
    for a, b, like in zip(sparse, wanted, inputs, strict=True):
        nothing = torch.zeros_like(like)
        torch.testing.assert_close(nothing if a is None else a, nothing if b is None else b, rtol=1e-8, atol=1e-11)


def check_best(best: Tensor, value: Tensor | None, allowed: Tensor) -> None:
    """`best` is the arg-max of `allowed` [N, EXTENDED] (probabilities, banned ones 0), up to rounding."""
    chosen = allowed.gather(1, best[:, None])[:, 0]
    torch.testing.assert_close(chosen, allowed.max(dim=1).values, rtol=1e-12, atol=0)
    if value is not None:
        torch.testing.assert_close(value, chosen.log(), rtol=1e-10, atol=1e-12)


@NUMBERS
@given(rows=SOURCE_ROWS, seed=st.integers(0, 999), scale=st.sampled_from([0.3, 2.0]), bans=st.booleans())
def test_best_word_is_the_dense_arg_max(rows: list[list[int]], seed: int, scale: float, bans: bool) -> None:
    made = case(rows, seed, scale)
    mixture = dense_of(made).detach()
    scored = made.generator.score(made.hidden, made.scores, made.source, torch.full((len(rows),), 7))
    check_best(scored.best, None, mixture)
    banned = SPECIAL if bans else SPECIAL[:0]
    word, value = made.generator.best_word(made.hidden, made.scores, made.source, banned)
    check_best(word, value.detach(), mixture.index_fill(1, banned, 0.0))
    if bans:
        assert not bool(torch.isin(word, banned).any())


def test_a_repeated_word_wins_by_the_sum_of_its_places() -> None:
    made = case([[8, 7, 9, 7, 7]], seed=0)
    scores = torch.tensor([[9.0, 1.2, 1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        made.generator.vocabulary.weight.zero_()
        made.generator.vocabulary.bias.zero_()
        made.generator.gate.bias.fill_(-9.0)
    best = made.generator.best_word(made.hidden * 0, scores, made.source, SPECIAL)[0]
    assert best.tolist() == [7]
    assert made.generator.score(made.hidden * 0, scores, made.source, torch.tensor([8])).best.tolist() == [7]


def test_a_copied_word_that_the_vocabulary_lacks_can_be_the_best() -> None:
    made = case([[8, 13, 9, 13, 7]], seed=0)
    scores = torch.tensor([[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        made.generator.gate.bias.fill_(-9.0)
    word, value = made.generator.best_word(made.hidden * 0, scores, made.source, SPECIAL)
    powers = [1.0, math.e, 1.0, math.e, math.e]
    share = (powers[1] + powers[3]) / sum(powers)
    assert word.tolist() == [13]
    assert float(value.detach()) == pytest.approx(math.log(share / (1 + math.exp(-9.0))))


@pytest.mark.parametrize("rows", [[[PAD] * 5], [[PAD] * 5, [7, 12, PAD, PAD, PAD]]])
def test_with_nothing_to_copy_everything_is_generated(rows: list[list[int]]) -> None:
    made = case(rows, seed=5)
    scored = made.generator.score(made.hidden, made.scores, made.source, torch.full((len(rows),), 8))
    expected = torch.log_softmax(made.generator.vocabulary(made.hidden), dim=-1)
    torch.testing.assert_close(scored.log_probability[0], expected[0, 8])
    word, value = made.generator.best_word(made.hidden, made.scores, made.source, SPECIAL)
    allowed = expected.detach()[0].index_fill(0, SPECIAL, float("-inf"))
    assert word[0] == allowed.argmax()
    torch.testing.assert_close(value[0].detach(), allowed.max())
    gradients = torch.autograd.grad(scored.log_probability.sum(), (made.hidden, made.scores))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert torch.equal(gradients[1][0], torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1.0, 300.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_stay_finite_for_extreme_scores(scale: float, dtype: torch.dtype) -> None:
    rows = [[7, 7, 12, 9, PAD], [PAD] * 5, [13, PAD, PAD, PAD, PAD], [8, 9, 10, 11, 14]]
    for seed in range(8):
        made = case(rows, seed, scale, dtype)
        target = torch.tensor([12, 8, 13, 7]) if seed % 2 else torch.tensor([7, 9, 7, 11])
        scored = made.generator.score(made.hidden, made.scores, made.source, target)
        of = (made.hidden, made.scores, *made.generator.parameters())
        gradients = torch.autograd.grad(scored.log_probability.sum(), of)
        assert bool(torch.isfinite(scored.log_probability).all())
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_log_probabilities_do_not_underflow() -> None:
    """The distribution that decoding samples from gives a word what the loss gives it, however unlikely it is."""
    made = case([[7, 13, PAD, PAD, PAD]], seed=0, dtype=torch.float32)
    scores = torch.tensor([[0.0, 100.0, -100.0, -1e9, -1e9, -1e9]])
    scored = made.generator.score(made.hidden, scores, made.source, torch.tensor([13])).log_probability
    expected = torch.nn.functional.logsigmoid(-made.generator.gate(made.hidden))[0] - 200.0
    torch.testing.assert_close(scored, expected)
    whole = made.generator.distribution(made.hidden, scores, made.source, EXTENDED)
    torch.testing.assert_close(whole[0, 13:14], expected)


def test_a_word_that_can_be_neither_generated_nor_copied_is_impossible() -> None:
    made = case([[7, 12, PAD, PAD, PAD]], seed=0)
    scored = made.generator.score(made.hidden, made.scores, made.source, torch.tensor([14]))
    assert float(scored.log_probability.detach()) == float("-inf")


@NUMBERS
@given(rows=SOURCE_ROWS)
def test_copy_source_finds_the_first_place_of_each_word(rows: list[list[int]]) -> None:
    ids = torch.tensor(rows)
    source = CopySource.of(ids, ids != PAD)
    assert source.first.tolist() == [[row.index(word) for word in row] for row in rows]
    again = source.rows(torch.tensor([0, 0, len(rows) - 1]))
    assert again.ids.tolist() == [rows[0], rows[0], rows[-1]]
    assert again.first.tolist() == [source.first[i].tolist() for i in (0, 0, -1)]
    assert again.copyable.tolist() == [source.copyable[i].tolist() for i in (0, 0, -1)]
