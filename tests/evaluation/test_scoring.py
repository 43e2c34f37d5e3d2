from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ctsm.config import RunConfig
from ctsm.corpus.batches import Examples
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.evaluation.metrics import accuracy, perplexity_by_example, perplexity_by_token
from ctsm.evaluation.scoring import score_examples
from ctsm.models.base import EmpatheticModel
from ctsm.training.loop import build_model


@pytest.fixture
def data(prepared: Path) -> PreparedData:
    return PreparedData(prepared)


@pytest.fixture
def model(tiny_config: RunConfig, data: PreparedData) -> EmpatheticModel:
    """A model with a few steps behind it, in training mode."""
    model = build_model(tiny_config, data).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for start in range(0, 16, 4):
        optimizer.zero_grad()
        model.loss(data.examples("train").batch(np.arange(start, start + 4))).total.backward()
        optimizer.step()
    return model


@pytest.fixture
def examples(data: PreparedData) -> Examples:
    return data.examples("dev")


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_scores_equal_single_examples(model: EmpatheticModel, examples: Examples, batch_size: int) -> None:
    """Each example alone, its probabilities from the whole distribution: sums, means, perplexities and accuracy."""
    scores = score_examples(model, examples, batch_size)
    means, total, count, hits = [], 0.0, 0, 0
    for row in range(len(examples)):
        batch = examples.batch(np.array([row]))
        with torch.no_grad():
            context = model.encode(batch)
            step = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
            target = batch.target[0]
            width = max(model.vocabulary_size, int(target.max()) + 1, int(batch.context.max()) + 1)
            source = context.source.rows(torch.zeros(len(target), dtype=torch.long))
            log_probability = model.generator.distribution(step.hidden[0], step.copy_scores[0], source, width)
        nll = sum(-float(log_probability[place, word]) for place, word in enumerate(target.tolist()))
        assert scores.nll[row] == pytest.approx(nll, rel=1e-4)
        assert scores.tokens[row] == len(examples.target.row(row))
        assert scores.emotion_logits[row] == pytest.approx(context.emotion_logits[0].numpy(), rel=1e-3, abs=1e-4)
        best = max(range(32), key=context.emotion_logits[0].tolist().__getitem__)
        assert scores.predicted[row] == best
        means.append(nll / len(target))
        total, count = total + nll, count + len(target)
        hits += best == examples.emotion[row]
    assert perplexity_by_example(scores.nll, scores.tokens) == pytest.approx(
        math.exp(sum(means) / len(means)), rel=1e-4
    )
    assert perplexity_by_token(scores.nll, scores.tokens) == pytest.approx(math.exp(total / count), rel=1e-4)
    assert perplexity_by_example(scores.nll, scores.tokens) != pytest.approx(math.exp(total / count), rel=1e-6)
    assert accuracy(scores.predicted, examples.emotion) == pytest.approx(100 * hits / len(examples))


def test_scoring_changes_nothing_but_the_mode(model: EmpatheticModel, examples: Examples) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert before["diversity.counts"].sum() > 0
    random_state = torch.get_rng_state()
    first = score_examples(model, examples)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    second = score_examples(model, examples)
    assert np.array_equal(first.nll, second.nll)


def test_gold_labels_do_not_matter(model: EmpatheticModel, examples: Examples) -> None:
    scores = score_examples(model, examples)
    other = Examples(**vars(examples) | {"emotion": (examples.emotion + 7) % 32})
    relabelled = score_examples(model, other)
    assert np.array_equal(scores.nll, relabelled.nll)
    assert np.array_equal(scores.emotion_logits, relabelled.emotion_logits)


def test_the_emotion_does_not_depend_on_the_reply(model: EmpatheticModel, examples: Examples) -> None:
    scores = score_examples(model, examples, batch_size=1)
    reversed_replies = Examples(
        **vars(examples)
        | {"target": examples.target.from_rows([examples.target.row(row) for row in reversed(range(len(examples)))])}
    )
    swapped = score_examples(model, reversed_replies, batch_size=1)
    assert np.array_equal(scores.emotion_logits, swapped.emotion_logits)
    assert not np.array_equal(scores.nll, swapped.nll)


def test_no_examples_is_an_error(model: EmpatheticModel, examples: Examples) -> None:
    empty = examples.target.from_rows([])
    none = Examples(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), empty, empty, empty, empty, empty)
    with pytest.raises(CtsmError, match="no example to score"):
        score_examples(model, none)
