"""`ctsm bench techniques`: both sides of a pair compute the same; nothing depends on how fast the machine is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctsm.bench.techniques import decoding, training
from ctsm.bench.techniques.pair import Pair, with_gradients
from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.corpus.prepared import PreparedData
from ctsm.models.base import Losses
from ctsm.models.ctsm import CTSM
from ctsm.text.vocabulary import EOS, PAD
from ctsm.training.loop import build_model

BUCKETED = "length-bucketed batches (a whole step)"


@pytest.fixture
def data(prepared: Path) -> PreparedData:
    return PreparedData(prepared)


def new_model(data: PreparedData, config: RunConfig) -> CTSM:
    """A model in double precision whose norms and biases do something."""
    model = build_model(config, data).double()
    assert isinstance(model, CTSM)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def agree(pair: Pair, **tolerance: float) -> None:
    for unit in range(pair.units):
        fast, slow = pair.fast(unit), pair.slow(unit)
        assert fast
        assert any(bool(tensor.any()) for tensor in fast)
        assert len(fast) == len(slow)
        for ours, theirs in zip(fast, slow, strict=True):
            assert bool(ours.isfinite().all())
            torch.testing.assert_close(ours, theirs, **tolerance)


def training_pairs(data: PreparedData, config: RunConfig) -> dict[str, Pair]:
    sample = training.Sample.of(new_model(data, config), config, data.examples("train"), 3)
    return {pair.technique: pair for pair in training.training_pairs(sample)}


def test_both_sides_of_training_agree(data: PreparedData, tiny_config: RunConfig) -> None:
    pairs = training_pairs(data, tiny_config)
    assert len(pairs) == 14
    for pair in pairs.values():
        assert pair.part == "training"
        agree(pair, rtol=1e-6, atol=1e-9)
        agree(pair, rtol=1e-6, atol=1e-9)  # what is counted or optimised goes on alike


def test_bf16_agrees_up_to_its_rounding(
    data: PreparedData, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsm.nn.precision.SMALLEST", 1)
    model = new_model(data, tiny_config).float()
    sample = training.Sample.of(model, tiny_config, data.examples("train"), 2)
    pair = training.training_pairs(sample)[-1]
    (loss, *gradients), (expected, *others) = pair.fast(0), pair.slow(0)
    assert loss != expected
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    ours, theirs = (torch.cat([one.flatten() for one in side]) for side in (gradients, others))
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.99


def test_bucketed_batches_hold_the_same_examples_with_less_padding(data: PreparedData, tiny_config: RunConfig) -> None:
    sample = training.Sample.of(new_model(data, tiny_config), tiny_config, data.examples("train"), 3)
    pair = next(pair for pair in training.training_pairs(sample) if pair.technique == BUCKETED)
    loss = sample.model.loss
    seen: list[tuple[int, list[int]]] = []

    def watched(batch: Batch) -> Losses:
        seen.append((batch.context.numel(), (batch.context != PAD).sum(dim=1).tolist()))
        return loss(batch)

    sample.model.loss = watched  # type: ignore[method-assign]
    pair.fast(0)
    pair.slow(0)
    lengths = [sorted(length for _, row in side for length in row) for side in (seen[:3], seen[3:])]
    assert len(seen) == 6
    assert lengths[0] == lengths[1]
    assert sum(size for size, _ in seen[:3]) < sum(size for size, _ in seen[3:])
    assert pair.milliseconds([3.0]) == (1000.0,)


def test_both_sides_of_decoding_agree(data: PreparedData, tiny_config: RunConfig) -> None:
    model = new_model(data, tiny_config)
    with torch.no_grad():
        model.generator.vocabulary.bias[EOS] += 3.0
    sample = decoding.Sample.of(model, data.examples("dev"), 3, 2)
    pairs = decoding.decoding_pairs(sample)
    assert len(pairs) == 8
    lengths = set()
    for pair in pairs:
        assert pair.part == "decoding"
        if pair.technique.startswith("batches"):
            lengths |= {len(reply) for unit in range(pair.units) for reply in pair.fast(unit)}
        agree(pair, rtol=1e-6, atol=1e-9)
    assert len(lengths) > 1  # some replies end
    assert min(lengths) < decoding.MAX_TOKENS


def test_gradients_are_those_of_a_sum_that_weighs_values_differently() -> None:
    x = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    results = with_gradients([x**2], [x, unused])
    weights = torch.randn(3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(results, [(x**2).detach(), (2 * x * weights).detach(), torch.zeros(2)])
    assert len(set(weights.tolist())) == 3
