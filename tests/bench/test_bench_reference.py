"""The plain path and the fast path compute the same losses, gradients and replies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctsm.bench.fast import FastTrainer
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.bench.reference.greedy import plain_greedy
from ctsm.bench.reference.training import PlainTrainer, random_batches
from ctsm.bench.reference.transformer import PlainTransformer
from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.corpus.prepared import PreparedData
from ctsm.decoding.greedy import greedy
from ctsm.models.base import EmpatheticModel
from ctsm.text.vocabulary import EOS, PAD, SOS
from ctsm.training.loop import build_model

STEPS = 50


def plain_copy(config: RunConfig, model: EmpatheticModel) -> PlainCTSM:
    plain = PlainCTSM(config.options, model.vocabulary_size)
    plain.load_from(model)
    return plain


@pytest.fixture
def data(prepared: Path) -> PreparedData:
    return PreparedData(prepared)


def batches(data: PreparedData, size: int = 4) -> list[Batch]:
    examples = data.examples("train")
    return [examples.batch(rows) for rows in random_batches(len(examples), size, seed=3)]


def test_fifty_steps_have_the_same_losses(data: PreparedData, tiny_config: RunConfig) -> None:
    model = build_model(tiny_config, data).train()
    plain = plain_copy(tiny_config, model).train()
    fast_path = FastTrainer(model, tiny_config)
    plain_path = PlainTrainer(plain, tiny_config.options.size, tiny_config.training)
    some = batches(data)
    for step in range(STEPS):
        batch = some[step % len(some)]
        fast = {name: float(value) for name, value in fast_path.step(batch, "fp32").items()}
        plain_terms = plain_path.step(batch)
        assert plain_terms["loss"] == pytest.approx(fast["loss"], rel=1e-5), f"step {step}"
        # Rounding grows from step to step; a single term is smaller than the loss and so relatively further off.
        assert plain_terms == pytest.approx(fast, rel=1e-4), f"step {step}"
    assert fast["loss"] > 0
    assert torch.equal(plain.diversity.counts, model.get_buffer("diversity.counts"))
    assert float(plain.diversity.counts.sum()) > 0


def test_gradients_are_the_same_in_double_precision(data: PreparedData, tiny_config: RunConfig) -> None:
    model = build_model(tiny_config, data).double().train()
    plain = plain_copy(tiny_config, model).double().train()
    plain.load_from(model)
    batch = batches(data)[0]
    model.loss(batch).total.backward()
    plain.loss(batch)[0].backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.pop(name), rtol=1e-6, atol=1e-10)
    assert not expected


def test_words_outside_the_vocabulary_are_copied_alike(data: PreparedData, tiny_config: RunConfig) -> None:
    model = build_model(tiny_config, data).double().eval()
    plain = plain_copy(tiny_config, model).double().eval()
    plain.load_from(model)
    batch = data.examples("test").batch(np.arange(2))
    word, unknown = int(batch.context[0, 1]), model.vocabulary_size + 1
    for field in (batch.context, batch.target):
        field[field == word] = unknown
    batch.target[0, 0] = unknown
    total, terms = plain.loss(batch)
    assert total.item() == pytest.approx(model.loss(batch).total.item(), rel=1e-9)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in model.loss(batch).terms.items()}, rel=1e-9
    )
    total.backward()
    assert all(
        bool(torch.isfinite(parameter.grad).all()) for parameter in plain.parameters() if parameter.grad is not None
    )


def test_greedy_replies_are_identical(data: PreparedData, tiny_config: RunConfig) -> None:
    model = build_model(tiny_config, data)
    trainer = FastTrainer(model.train(), tiny_config)
    for batch in batches(data) * 5:
        trainer.step(batch, "fp32")
    model = model.double().eval()
    plain = plain_copy(tiny_config, model).double().eval()
    plain.load_from(model)
    examples = data.examples("dev")
    expected = greedy(model, model.encode(examples.batch(np.arange(len(examples)))))
    replies = [plain_greedy(plain, examples.batch(np.array([row]))) for row in range(len(examples))]
    assert replies == expected
    assert any(0 < len(reply) < 51 for reply in replies)


def test_a_model_without_its_training_parts_can_reply(data: PreparedData, tiny_config: RunConfig) -> None:
    model = build_model(tiny_config, data).eval()
    whole = plain_copy(tiny_config, model).eval()
    for name in ("teacher_fusion", "teacher_head", "reply_encoder", "emotion_view", "diversity"):
        delattr(model, name)
    half = plain_copy(tiny_config, model).eval()
    batch = data.examples("dev").batch(np.array([0]))
    assert plain_greedy(half, batch, 9) == plain_greedy(whole, batch, 9)
    del model.decoder
    with pytest.raises(ValueError, match=r"decoder\."):
        plain_copy(tiny_config, model)


def test_the_transformers_loss_is_label_smoothing(data: PreparedData, tiny_config: RunConfig) -> None:
    torch.manual_seed(0)
    size = len(data.vocabulary)
    model = PlainTransformer(tiny_config.options, size).double()
    batch = batches(data)[0]
    total, terms = model.loss(batch)
    inputs = torch.cat([torch.full((len(batch), 1), SOS), batch.target[:, :-1]], dim=1)
    log = model.predict(inputs, model.encode(batch)).detach().numpy()
    others = 0.1 / (size - 2)
    divergence, likelihood, count = 0.0, 0.0, 0
    for row, target in enumerate(batch.target.tolist()):
        for place, gold in enumerate(target):
            if gold == PAD:
                continue
            for word in range(size):
                share = 0.9 if word == gold else 0.0 if word == PAD else others
                divergence += share * (np.log(share) - log[row, place, word]) if share else 0.0
            likelihood, count = likelihood + log[row, place, gold], count + 1
    assert total.item() == pytest.approx(divergence)
    assert terms["generation"].item() == pytest.approx(-likelihood / count)


def test_random_batches_hold_every_example_once() -> None:
    some = random_batches(10, 4, seed=1)
    assert [len(rows) for rows in some] == [4, 4, 2]
    assert sorted(np.concatenate(some).tolist()) == list(range(10))
    assert [rows.tolist() for rows in some] != [rows.tolist() for rows in random_batches(10, 4, seed=2)]


def test_the_transformer_replies(data: PreparedData, tiny_config: RunConfig) -> None:
    torch.manual_seed(0)
    model = PlainTransformer(tiny_config.options, len(data.vocabulary)).eval()
    words = plain_greedy(model, data.examples("dev").batch(np.array([0])), 7)
    assert len(words) <= 7
    assert EOS not in words
