"""EmpDG's discriminators: what they compute, the gradient penalty, and whose gradient goes where."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctsm.models.empdg import Discriminator, Words, duel

Array = NDArray[np.float64]
SIZE = 6
LENGTHS = {"generated": [4, 1, 3], "gold": [2, 5, 3], "feedback": [3, 1, 6]}


def make_discriminator(seed: int = 0) -> Discriminator:
    torch.manual_seed(seed)
    discriminator = Discriminator(SIZE).double()
    for parameter in discriminator.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.5)
    return discriminator


def make_words(lengths: list[int], seed: int, padding: int = 0) -> Words:
    """Random vectors with random numbers at the padding, which nobody may read."""
    width = max(lengths) + padding
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(lengths), width, SIZE, generator=generator, dtype=torch.float64)
    return Words(vectors, torch.arange(width) < torch.tensor(lengths)[:, None])


def row(words: Words, index: int) -> Array:
    return words.vectors[index][words.real[index]].detach().numpy()


class ByHand:
    """A discriminator for one unpadded reply, position by position."""

    def __init__(self, discriminator: Discriminator) -> None:
        self.values = {name: value.detach().numpy() for name, value in discriminator.state_dict().items()}

    def linear(self, name: str, x: Array) -> Array:
        return self.values[f"{name}.weight"] @ x + self.values.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: Array) -> Array:
        standard = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
        return standard * self.values[f"{name}.weight"] + self.values.get(f"{name}.bias", 0.0)

    def states(self, vectors: Array) -> Array:
        """The LSTM (input, forget, cell, output gate)."""
        h, c, states = np.zeros(SIZE), np.zeros(SIZE), []
        for x in vectors:
            sums = self.values["lstm.weight_ih_l0"] @ x + self.values["lstm.bias_ih_l0"]
            sums = sums + self.values["lstm.weight_hh_l0"] @ h + self.values["lstm.bias_hh_l0"]
            i, f, g, o = np.split(sums, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            states.append(h)
        return np.array(states)

    def judge(self, states: Array, known: Array) -> float:
        features = []
        for t in range(len(states)):
            before = states[t - 1] if t else np.zeros(SIZE)
            features.append(np.maximum(self.norm("pairs_norm", self.linear("pairs", np.r_[before, states[t]])), 0))
        fused = np.maximum(np.max(features, axis=0) + known + self.values["bias"], 0)
        hidden = self.norm("hidden_norm", np.maximum(self.linear("hidden", fused), 0))
        return float(self.linear("output", hidden)[0])

    def slope(self, states: Array, known: Array) -> float:
        """Norm of the gradient on the states, by central differences."""
        total, step = 0.0, 1e-6
        for place in np.ndindex(states.shape):
            moved = np.zeros(states.shape)
            moved[place] = step
            total += ((self.judge(states + moved, known) - self.judge(states - moved, known)) / (2 * step)) ** 2
        return math.sqrt(total)


@pytest.fixture(params=[0, 3], ids=["tight", "padded"])
def case(request: pytest.FixtureRequest) -> dict[str, Words]:
    return {name: make_words(lengths, seed, request.param) for seed, (name, lengths) in enumerate(LENGTHS.items())}


CONTEXT = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
BLEND = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)


def test_scores_of_a_reply(case: dict[str, Words]) -> None:
    discriminator = make_discriminator()
    known = CONTEXT + discriminator.last(case["feedback"])
    scores = discriminator(case["generated"], known)
    by_hand = ByHand(discriminator)
    for f in range(3):
        heard = CONTEXT[f].numpy() + by_hand.states(row(case["feedback"], f))[-1]
        expected = by_hand.judge(by_hand.states(row(case["generated"], f)), heard)
        assert scores[f].item() == pytest.approx(expected, rel=1e-9)


def test_losses_of_both_sides(case: dict[str, Words]) -> None:
    """Distance between generated and gold, and the penalty where the states are mixed; beyond an end they are 0."""
    discriminator = make_discriminator()
    losses = duel(discriminator, case["generated"], case["gold"], case["feedback"], CONTEXT, BLEND, 0.3)
    by_hand, terms = ByHand(discriminator), []
    for f in range(3):
        known = CONTEXT[f].numpy() + by_hand.states(row(case["feedback"], f))[-1]
        fake, true = (by_hand.states(row(case[name], f)) for name in ("generated", "gold"))
        distance = by_hand.judge(fake, known) - by_hand.judge(true, known)
        assert losses.adversarial[f].item() == pytest.approx(-by_hand.judge(fake, known), rel=1e-9)
        mixture = np.zeros((max(len(fake), len(true)), SIZE))
        mixture[: len(fake)] += BLEND[f].item() * fake
        mixture[: len(true)] += (1 - BLEND[f].item()) * true
        terms.append(distance + 0.3 * (by_hand.slope(mixture, known) - 1) ** 2)
    assert losses.discriminator.item() == pytest.approx(sum(terms) / 3, rel=1e-5)


def flat(gradients: tuple[Tensor | None, ...]) -> list[Tensor]:
    assert all(gradient is not None for gradient in gradients)
    return [gradient for gradient in gradients if gradient is not None]


def test_the_generator_gets_a_gradient_and_the_discriminator_none_of_it(case: dict[str, Words]) -> None:
    discriminator = make_discriminator()
    vectors, context = case["generated"].vectors.clone().requires_grad_(), CONTEXT.clone().requires_grad_()
    generated = Words(vectors, case["generated"].real)
    losses = duel(discriminator, generated, case["gold"], case["feedback"], context, BLEND, 0.1)
    (gradient,) = torch.autograd.grad(losses.adversarial.sum(), vectors, retain_graph=True)
    assert bool((gradient[generated.real].abs().sum(dim=-1) > 0).any())
    assert gradient[~generated.real].abs().sum().item() == 0.0
    own = list(discriminator.parameters())
    from_fooling = torch.autograd.grad(losses.adversarial.sum(), own, allow_unused=True, retain_graph=True)
    assert from_fooling == (None,) * len(own) or all(gradient is None for gradient in from_fooling)
    others = torch.autograd.grad(losses.discriminator, [vectors, context], allow_unused=True, retain_graph=True)
    assert others == (None, None)
    flat(torch.autograd.grad(losses.discriminator, own, allow_unused=True))


def test_one_backward_pass_gives_the_gradients_of_two_separate_updates(case: dict[str, Words]) -> None:
    """As in textbook adversarial training: the generator's words held fixed, then the discriminator held fixed."""
    discriminator = make_discriminator()
    vectors = case["generated"].vectors.clone().requires_grad_()
    generated = Words(vectors, case["generated"].real)
    losses = duel(discriminator, generated, case["gold"], case["feedback"], CONTEXT, BLEND, 0.0)
    (losses.discriminator + 2.0 * losses.adversarial.sum()).backward()

    twin = copy.deepcopy(discriminator)
    twin.zero_grad()
    known = CONTEXT + twin.last(case["feedback"])
    fixed_words = Words(vectors.detach(), generated.real)
    (twin(fixed_words, known) - twin(case["gold"], known)).mean().backward()
    for name, parameter in discriminator.named_parameters():
        torch.testing.assert_close(parameter.grad, twin.get_parameter(name).grad, rtol=1e-9, atol=1e-12)

    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    words = vectors.detach().clone().requires_grad_()
    known = CONTEXT + twin.last(case["feedback"])
    (-2.0 * twin(Words(words, generated.real), known)).sum().backward()
    torch.testing.assert_close(vectors.grad, words.grad, rtol=1e-9, atol=1e-12)


def test_a_discriminator_learns_to_tell_replies_apart_and_the_generator_to_fool_it() -> None:
    """Gold and generated vectors come from two clusters; each side's loss moves the scores its own way."""
    torch.manual_seed(0)
    size = 16
    discriminator = Discriminator(size)
    gold = Words(torch.randn(16, 3, size) + 0.7, torch.ones(16, 3, dtype=torch.bool))
    feedback = Words(torch.randn(16, 2, size), torch.ones(16, 2, dtype=torch.bool))
    generated = Words((torch.randn(16, 3, size) - 0.7).requires_grad_(), gold.real)
    context = torch.zeros(16, size)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    for _ in range(40):
        losses = duel(discriminator, generated, gold, feedback, context, torch.rand(16), 0.1)
        optimizer.zero_grad()
        losses.discriminator.backward()
        optimizer.step()
    known = context + discriminator.last(feedback)
    before = discriminator(generated, known).mean().item()
    assert discriminator(gold, known).mean().item() > before + 0.5
    losses = duel(discriminator, generated, gold, feedback, context, torch.rand(16), 0.1)
    (gradient,) = torch.autograd.grad(losses.adversarial.sum(), generated.vectors)
    moved = Words(generated.vectors.detach() - 0.1 * gradient, generated.real)
    assert discriminator(moved, known).mean().item() > before
