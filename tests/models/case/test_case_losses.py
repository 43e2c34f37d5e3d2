"""CASE's losses and scores against sums over one unpadded example after the other, alignments, and pre-training."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctsm.corpus.batches import Batch
from ctsm.models.case import CASE, CASEOptions, alignment_losses, phrases_of_the_example_before

Array = NDArray[np.float64]
EOS = 2
LATER = ("selection", "coarse", "fine", "generation", "diversity", "emotion")


def score(first: Array, second: Array) -> float:
    return 1 / (1 + math.exp(-float(first @ second)))


def bound(ran: SimpleNamespace, own: float, other_first: float, other_second: float) -> float:
    """Two times -log sigmoid of a margin; the published code squashes the margin once more."""
    loss = 0.0
    for margin in (own - other_first, own - other_second):
        if ran.model.options.double_sigmoid:
            margin = 1 / (1 + math.exp(-margin))
        loss += math.log(1 + math.exp(-margin))
    return loss


def coarse_by_hand(ran: SimpleNamespace) -> float:
    """Selected cognition and affection of an example against those of the example before it."""
    total = 0.0
    for b, expected in enumerate(ran.expected):
        (cognition, _), (affection, _) = expected.by_context
        (other_cognition, _), (other_affection, _) = ran.expected[b - 1].by_context
        own = score(cognition, affection)
        total += bound(ran, own, score(other_cognition, affection), score(cognition, other_affection))
    return total / len(ran.expected)


def fine_by_hand(ran: SimpleNamespace) -> float:
    """Each phrase and its utterance's reaction against the r-th phrase of the example before, round and round."""
    losses = []
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        other, other_expected = ran.examples[b - 1], ran.expected[b - 1]
        for r, (_, owner, _) in enumerate(example.phrases):
            if other.phrases:
                place = r % len(other.phrases)
                phrase, reaction = expected.cognition[r], expected.reactions[owner]
                other_phrase = other_expected.cognition[place]
                other_reaction = other_expected.reactions[other.phrases[place][1]]
                own = score(phrase, reaction)
                losses.append(bound(ran, own, score(other_phrase, reaction), score(phrase, other_reaction)))
    return sum(losses) / len(losses)


def selection_by_hand(ran: SimpleNamespace) -> float:
    """KL of posterior and prior of either graph over its vertices, a mean over examples."""
    total = 0.0
    for expected in ran.expected:
        for (_, posterior), (_, prior) in zip(expected.by_reply, expected.by_context, strict=True):
            pairs = list(zip(posterior, prior, strict=True))
            total += sum(p * math.log(p / q) for p, q in pairs) / max(1, len(pairs))
    return total / len(ran.expected)


def weights_by_hand(ran: SimpleNamespace) -> list[float]:
    counts = list(ran.counts_before)
    for expected in ran.expected:
        for row in expected.words:
            if row.argmax() == EOS:
                break
            counts[int(row.argmax())] += 1
    raw = [1 - count / max(counts) for count in counts]
    return [weight * len(raw) / sum(raw) for weight in raw]


def terms_by_hand(ran: SimpleNamespace) -> dict[str, float]:
    pairs = list(zip(ran.examples, ran.expected, strict=True))
    tokens = sum(len(example.base.target) for example, _ in pairs)
    losses = [
        (word, -row[word])
        for example, expected in pairs
        for word, row in zip(example.base.target, expected.words, strict=True)
    ]
    weights = weights_by_hand(ran)
    return {
        "bag_of_words": sum(-expected.bag[word] for example, expected in pairs for word in example.base.target)
        / tokens,
        "selection": selection_by_hand(ran),
        "coarse": coarse_by_hand(ran),
        "fine": fine_by_hand(ran),
        "generation": sum(loss for _, loss in losses) / tokens,
        "diversity": sum(weights[word] * loss for word, loss in losses) / tokens,
        "emotion": sum(
            math.log(np.exp(expected.logits).sum()) - expected.logits[example.base.emotion]
            for example, expected in pairs
        )
        / len(pairs),
    }


def test_losses(ran: SimpleNamespace) -> None:
    wanted = terms_by_hand(ran)
    found = {name: term.item() for name, term in ran.losses.terms.items()}
    assert list(found) == ["bag_of_words", *LATER]
    assert found == pytest.approx(wanted, rel=1e-5)
    weights = {"fine": 0.2, "diversity": 1.5}
    total = sum(weights.get(name, 1.0) * value for name, value in wanted.items())
    assert ran.losses.total.item() == pytest.approx(total, rel=1e-5)


def test_scores_are_sums_of_token_losses(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(row[word] for word, row in zip(example.base.target, expected.words, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)


def test_losses_do_not_depend_on_padding(case: SimpleNamespace) -> None:
    model, examples = case.model(), case.examples()
    first, second = (model.loss(case.batch(examples, padding)).terms for padding in (0, 3))
    for name, term in first.items():
        torch.testing.assert_close(second[name], term, rtol=1e-9, atol=1e-9)


def test_no_phrase_in_the_whole_batch(case: SimpleNamespace) -> None:
    model = case.model().train()
    batch = case.batch([case.example(seed, phrases=0) for seed in (1, 2)])
    assert batch.phrases is not None
    assert batch.phrases.shape[0] == 0
    losses = model.loss(batch)
    losses.total.backward()
    assert bool(torch.isfinite(losses.total))
    assert losses.terms["fine"].item() == 0
    assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters() if value.grad is not None)


def test_gradients_reach_every_parameter(case: SimpleNamespace) -> None:
    model = case.model(layers=2).train()
    model.loss(case.batch(case.examples(), padding=1)).total.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert missing == []


def test_the_posterior_is_a_constant_for_the_prior(case: SimpleNamespace) -> None:
    """The selection loss moves what the context asks, not what the reply asks."""
    model, batch = case.model(), case.batch(case.examples())
    model.loss(batch).terms["selection"].backward()
    assert bool(model.prior_query.weight.grad.any())
    assert model.bag[0].weight.grad is None
    before = model.loss(batch).terms
    with torch.no_grad():
        model.prior_query.weight -= 0.05 * model.prior_query.weight.grad
    after = model.loss(batch).terms
    assert after["selection"].item() < before["selection"].item()
    assert after["bag_of_words"].item() == before["bag_of_words"].item()


# Alignments.


def test_bound_is_info_nce_with_one_negative_on_either_side() -> None:
    a, b, c, d = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1)).double() * 0.7
    own, first, second = (torch.sigmoid((x * y).sum(-1)) for x, y in ((a, b), (c, b), (a, d)))
    correct = torch.zeros(6, dtype=torch.long)
    expected = sum(
        F.cross_entropy(torch.stack([own, other], dim=1), correct, reduction="none") for other in (first, second)
    )
    torch.testing.assert_close(alignment_losses((a, b), (c, d), double_sigmoid=False), expected)
    logits = [torch.sigmoid(own - other) for other in (first, second)]
    published = sum(F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none") for x in logits)
    torch.testing.assert_close(alignment_losses((a, b), (c, d), double_sigmoid=True), published)


def test_bound_falls_as_pairs_fit_and_others_do_not() -> None:
    a = torch.tensor([[3.0, 0.0]])
    good = alignment_losses((a, a), (-a, -a), double_sigmoid=False)
    bad = alignment_losses((a, -a), (-a, a), double_sigmoid=False)
    assert good.item() < 2 * math.log(2) < bad.item()
    same = alignment_losses((a, a), (a, a), double_sigmoid=False)
    assert same.item() == pytest.approx(2 * math.log(2))  # a batch of one


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), extra=st.integers(0, 2))
def test_phrases_of_the_example_before(counts: list[int], extra: int) -> None:
    width = max(1, *counts) + extra
    present = torch.tensor([[p < count for p in range(width)] for count in counts])
    place, counted = phrases_of_the_example_before(present)
    for b, count in enumerate(counts):
        before = (b - 1) % len(counts)
        for p in range(width):
            assert bool(counted[b, p]) == (p < count and counts[before] > 0)
            if counted[b, p]:
                assert place[b, p].item() == before * width + p % counts[before]
            assert 0 <= place[b, p].item() < len(counts) * width


# Pre-training.


def losses_at(model: CASE, batch: Batch, step: int) -> dict[str, float]:
    model.step = step
    losses = model.loss(batch)
    return {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}


def test_the_first_steps_train_with_the_bag_of_words_alone(case: SimpleNamespace) -> None:
    model = case.model(pretrain_steps=3)
    batch = case.batch(case.examples())
    whole = losses_at(model, batch, 0)
    assert all(whole[name] > 0 for name in LATER)
    for step in (1, 3):
        found = losses_at(model, batch, step)
        assert found["total"] == found["bag_of_words"] == whole["bag_of_words"]
        assert all(found[name] == 0 for name in LATER)
        assert list(found) == list(whole)  # the log has the same columns in both phases
    assert losses_at(model, batch, 4) == whole
    model.options = replace(model.options, pretrain_steps=0)
    assert losses_at(model, batch, 1) == whole


def trained_in(model: CASE, batch: Batch, step: int) -> set[str]:
    """Modules whose parameters get a gradient."""
    model.zero_grad()
    model.step = step
    model.loss(batch).total.backward()
    return {
        name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }


def test_pretraining_reaches_encoders_graphs_and_bag_but_neither_prior_nor_decoder(case: SimpleNamespace) -> None:
    model, batch = case.model(), case.batch(case.examples())
    assert trained_in(model, batch, 1) == {
        "embedding", "context_encoder", "cognition_encoder", "cognition_graph", "concept_mark", "concept_graph",
        "intensity_norm", "bag",
    }  # fmt: skip
    assert trained_in(model, batch, 10_065) == {name.split(".")[0] for name, _ in model.named_parameters()}


def test_pretraining_counts_no_predictions_and_spares_the_decoder(
    build: SimpleNamespace, case: SimpleNamespace
) -> None:
    model, batch = case.model().train(), case.batch(case.examples())
    with build.captured(model, "decoder", "reaction_refiner", "prior_query") as seen:
        losses_at(model, batch, 10_064)
    assert not seen
    assert model.diversity.counts.sum().item() == 0
    losses_at(model, batch, 10_065)
    assert model.diversity.counts.sum().item() > 0


def test_the_phase_is_four_epochs_of_the_official_split() -> None:
    assert CASEOptions().pretrain_steps == 4 * math.ceil(40_250 / 16)
