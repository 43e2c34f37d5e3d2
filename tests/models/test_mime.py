"""MIME against NumPy loops over one unpadded example; polarity groups, mimicry and what is drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ctsm.corpus.emotions import EMOTION_INDEX, EMOTIONS
from ctsm.models.mime import MIME, NEGATIVE, POSITIVE, Gaussian, MIMEOptions, Streams

Array = NDArray[np.float64]
SOS = 3
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def make_mime(build: SimpleNamespace, seed: int = 0, **changes: Any) -> MIME:
    """A small model in evaluation mode whose norms and biases are neither 1 nor 0, and whose emotions matter."""
    small = {"size": 12, "depth": 8, "filter_size": 5}
    model: MIME = build.system(MIME, MIMEOptions(**{**small, **changes}), seed)
    with torch.no_grad():
        model.emotions.mul_(8.0)
    return model


def make_examples(build: SimpleNamespace) -> list[Any]:
    """Two of each polarity; long, with unknown words, CLS alone, an empty gold reply."""
    return [
        replace(
            build.example(1, words=9, unknown=0), target=[9, 11, 9, 40, 17, 8, 2], emotion=EMOTION_INDEX["surprised"]
        ),
        replace(build.example(2, words=5, unknown=2), target=[11, 12, 2], emotion=EMOTION_INDEX["anticipating"]),
        replace(build.example(3, words=0), target=[20, 2], emotion=EMOTION_INDEX["faithful"]),
        replace(build.example(4, words=7, target_words=0), emotion=EMOTION_INDEX["ashamed"]),
    ]


class Paper:
    """The model for one example: no batch, no padding, one stream after the other."""

    def __init__(self, build: SimpleNamespace, model: MIME, example: Any) -> None:
        self.reference = build.reference(model)
        self.example = example
        words = self.reference.embed(example.context) + self.reference.embed(example.speakers)
        self.context = self.reference.encoder("context_encoder", words)
        self.table = self.reference.values["emotions"]
        self.logits = self.table @ self.reference.linear("emotion_query", self.context[0])

    def latent(self, kind: str, hidden: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Mean and log variance of each polarity."""
        return {
            polarity: (
                self.reference.linear(f"{kind}.{polarity}.mean", hidden[polarity]),
                self.reference.linear(f"{kind}.{polarity}.log_variance", hidden[polarity]),
            )
            for polarity in ("positive", "negative")
        }

    def prior(self) -> dict[str, tuple[Array, Array]]:
        hidden = np.maximum(self.reference.linear("prior.hidden", self.context[0]), 0.0)
        return self.latent("prior", {"positive": hidden, "negative": hidden})

    def posterior(self, streams: tuple[Array, Array], positive: bool) -> dict[str, tuple[Array, Array]]:
        means = [stream.mean(axis=0) for stream in streams]
        own, other = ("positive", "negative") if positive else ("negative", "positive")
        hidden = {
            polarity: np.maximum(
                self.reference.linear(f"posterior.{polarity}_hidden", np.concatenate([self.context[0], mean])),
                0.0,
            )
            for polarity, mean in ((own, means[0]), (other, means[1]))
        }
        return self.latent("posterior", hidden)

    def streams(self, latent: dict[str, Array], positive: bool) -> tuple[Array, Array]:
        """Contexts refined with the emotion of the context's own polarity, and with the other."""
        emotions = {}
        for polarity, group in (("positive", POSITIVE), ("negative", NEGATIVE)):
            mixture = self.reference.softmax(self.reference.linear(f"prior.{polarity}_mixture", latent[polarity]))
            emotions[polarity] = sum(
                share * self.table[EMOTIONS.index(emotion)] for share, emotion in zip(mixture, group, strict=True)
            )
        own, other = ("positive", "negative") if positive else ("negative", "positive")
        return (
            self.refined("mimicking_refiner", emotions[own]),
            self.refined("other_refiner", emotions[other]),
        )

    def refined(self, name: str, emotion: Array) -> Array:
        both = np.array([np.concatenate([row, emotion]) for row in self.context])
        return self.reference.encoder(f"{name}.encoder", both)

    def words(self, streams: tuple[Array, Array]) -> tuple[Array, Array]:
        """Memory and the probabilities of each target word."""
        joined = np.concatenate(streams, axis=1)
        gate = 1 / (1 + np.exp(-self.reference.linear("contribution", joined)))
        memory = self.reference.linear("fusion", gate * joined)
        hidden, _ = self.reference.decoder([SOS, *self.example.target[:-1]], memory)
        words = np.array([self.reference.softmax(self.reference.linear("generator.vocabulary", h)) for h in hidden])
        return memory, words

    def reply(self, positive: bool | None = None) -> tuple[Array, Array]:
        """As at evaluation: the prior's means, the predicted emotion's polarity unless another is given."""
        if positive is None:
            positive = EMOTIONS[int(self.logits.argmax())] in POSITIVE
        means = {polarity: mean for polarity, (mean, _) in self.prior().items()}
        return self.words(self.streams(means, positive))


def nll(words: Array, target: list[int]) -> float:
    return -sum(math.log(row[word]) for row, word in zip(words, target, strict=True))


def test_polarity_groups() -> None:
    """13 positive and 19 negative emotions; surprised and caring count as positive, anticipating as negative."""
    assert (len(POSITIVE), len(NEGATIVE)) == (13, 19)
    assert sorted([*POSITIVE, *NEGATIVE]) == sorted(EMOTIONS)
    assert set(POSITIVE) == set(
        "surprised excited proud grateful impressed confident hopeful joyful prepared content caring trusting "
        "faithful".split()
    )
    assert {"anticipating", "nostalgic", "sentimental", "jealous"} <= set(NEGATIVE)


@pytest.mark.parametrize("changes", [{}, {"layers": 2, "heads": 4}], ids=["one layer", "two layers"])
def test_evaluation_uses_the_priors_means_and_the_predicted_polarity(
    build: SimpleNamespace, changes: dict[str, Any]
) -> None:
    model, examples = make_mime(build, seed=1, **changes), make_examples(build)
    batch = build.batch(examples, padding=2)
    polarities = set()
    for _ in range(3):  # other emotions are the most probable ones each time
        with torch.no_grad():
            nn.init.normal_(model.emotion_query.weight)
            context, scores = model.encode(batch), model.score(batch)
        for b, example in enumerate(examples):
            paper = Paper(build, model, example)
            memory, words = paper.reply()
            np.testing.assert_allclose(context.emotion_logits[b], paper.logits, **CLOSE)
            np.testing.assert_allclose(context.memory[b, : len(memory)], memory, **CLOSE)
            assert scores.nll[b].item() == pytest.approx(nll(words, example.target), rel=1e-5)
            polarities.add(EMOTIONS[int(paper.logits.argmax())] in POSITIVE)
    assert polarities == {True, False}


def noise_of(model: MIME, batch: Any, seed: int) -> list[Tensor]:
    """The numbers that a training loss draws: prior positive and negative, posterior positive and negative [B, D]."""
    torch.manual_seed(seed)
    return [torch.randn(len(batch), model.options.size, dtype=torch.float64) for _ in range(4)]


@pytest.mark.parametrize("training", [True, False])
def test_loss(build: SimpleNamespace, training: bool) -> None:
    """In training the decoder sees emotions drawn from the posterior, with the gold polarity; KL is summed."""
    model = make_mime(build, seed=2, emotion_weight=0.5, label_smoothing=0.2).train(training)
    examples = make_examples(build)
    batch = build.batch(examples, padding=1)
    drawn = [noise.numpy() * training for noise in noise_of(model, batch, seed=7)]
    torch.manual_seed(7)
    losses = model.loss(batch)
    generation, divergence, emotion, smoothed = [], [], [], 0.0
    for b, example in enumerate(examples):
        paper = Paper(build, model, example)
        positive = EMOTIONS[example.emotion] in POSITIVE
        prior = paper.prior()

        def values(latent: dict[str, tuple[Array, Array]], noise: list[Array], row: int = b) -> dict[str, Array]:
            return {
                polarity: latent[polarity][0] + np.exp(latent[polarity][1] / 2) * noise[place][row]
                for place, polarity in enumerate(("positive", "negative"))
            }

        posterior = paper.posterior(paper.streams(values(prior, drawn[:2]), positive), positive)
        _, words = paper.words(paper.streams(values(posterior, drawn[2:]), positive))
        smoothed += paper.reference.smoothed_loss(words, example.target, 0.2)
        generation += [-math.log(row[word]) for row, word in zip(words, example.target, strict=True)]
        emotion.append(-math.log(paper.reference.softmax(paper.logits)[example.emotion]))
        divergence.append(sum(kl(posterior[polarity], prior[polarity]) for polarity in prior))
    terms = {
        "generation": sum(generation) / len(generation),
        "divergence": sum(divergence) / len(divergence),
        "emotion": sum(emotion) / len(emotion),
    }
    assert {name: term.item() for name, term in losses.terms.items()} == pytest.approx(terms, rel=1e-5)
    assert losses.total.item() == pytest.approx(smoothed + sum(divergence) + 0.5 * terms["emotion"], rel=1e-5)


def kl(posterior: tuple[Array, Array], prior: tuple[Array, Array]) -> float:
    """By torch's own distributions."""
    first, second = (
        Normal(torch.tensor(mean), torch.exp(torch.tensor(log_variance) / 2))
        for mean, log_variance in (posterior, prior)
    )
    return float(kl_divergence(first, second).sum())


def test_divergence_of_gaussians() -> None:
    torch.manual_seed(0)
    first, second = (Gaussian(torch.randn(3, 5).double(), torch.randn(3, 5).double()) for _ in range(2))
    expected = [
        kl(
            (first.mean[b].numpy(), first.log_variance[b].numpy()),
            (second.mean[b].numpy(), second.log_variance[b].numpy()),
        )
        for b in range(3)
    ]
    assert first.divergence_from(second).tolist() == pytest.approx(expected)
    assert second.divergence_from(second).tolist() == pytest.approx([0.0] * 3)


def test_samples_have_the_mean_and_the_variance() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.tensor([[2.0, -1.0]]), torch.tensor([[math.log(0.25), math.log(4.0)]])
    drawn = Gaussian(mean.expand(20_000, -1), log_variance.expand(20_000, -1)).sample(noise=True)
    assert drawn.mean(dim=0).tolist() == pytest.approx([2.0, -1.0], abs=0.06)
    assert drawn.std(dim=0).tolist() == pytest.approx([0.5, 2.0], rel=0.03)
    assert torch.equal(Gaussian(mean, log_variance).sample(noise=False), mean)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_polarity_and_mimicry(shape: tuple[int, ...]) -> None:
    """A positive context mimics with positive emotions, a negative one with negative ones; twice is back again."""
    streams = Streams(torch.zeros(shape), torch.ones(shape))
    positive = torch.tensor([True, False, True])
    mimicking = streams.swapped_unless(positive)
    assert [row.unique().tolist() for row in mimicking.first] == [[0.0], [1.0], [0.0]]
    assert [row.unique().tolist() for row in mimicking.second] == [[1.0], [0.0], [1.0]]
    again = mimicking.swapped_unless(positive)
    assert torch.equal(again.first, streams.first)
    assert torch.equal(again.second, streams.second)


def test_noise_is_for_training_alone(build: SimpleNamespace) -> None:
    batch = build.batch(make_examples(build))

    def several(model: MIME) -> Iterator[float]:
        for _ in range(3):
            with torch.no_grad():
                yield model.score(batch).nll.sum().item()
                yield model.loss(batch).total.item()

    quiet = list(several(make_mime(build)))
    assert len(set(quiet[::2])) == len(set(quiet[1::2])) == 1
    noisy = list(several(make_mime(build).train()))
    assert noisy[::2] == quiet[::2]  # replies are scored without noise whatever the mode
    assert len(set(noisy[1::2])) == 3


def test_every_polarity_has_a_variance_of_its_own_that_learns(build: SimpleNamespace) -> None:
    """In the published code the negative variances are the positive ones, and their layers never learn."""
    model = make_mime(build).train()
    model.loss(build.batch(make_examples(build))).total.backward()
    for kind in ("prior", "posterior"):
        for polarity in ("positive", "negative"):
            head = getattr(getattr(model, kind), polarity)
            assert head.log_variance.weight.grad.abs().sum() > 0
            assert head.mean.weight.grad.abs().sum() > 0


def test_gold_polarity_is_for_scores_and_off_by_default(build: SimpleNamespace) -> None:
    """The published code's fault: the perplexity reads the label; replies and emotions do not."""
    clean, faulty = make_mime(build, seed=1), make_mime(build, seed=1, gold_polarity=True)
    examples = make_examples(build)
    batch = build.batch(examples, padding=1)
    with torch.no_grad():
        first, second = clean.score(batch), faulty.score(batch)
        assert torch.equal(clean.encode(batch).memory, faulty.encode(batch).memory)
    assert not MIMEOptions().gold_polarity
    assert torch.equal(first.emotion_logits, second.emotion_logits)
    differing = 0
    for b, example in enumerate(examples):
        paper = Paper(build, faulty, example)
        gold = EMOTIONS[example.emotion] in POSITIVE
        _, words = paper.reply(gold)
        assert second.nll[b].item() == pytest.approx(nll(words, example.target), rel=1e-5)
        differing += gold != (EMOTIONS[int(paper.logits.argmax())] in POSITIVE)
    assert differing == (first.nll - second.nll).abs().gt(1e-9).sum().item() > 0


def test_parameters_without_embedding_and_output_layer() -> None:
    """Of the published code's 3,082,465, four modules are never used and two are replaced (see the page)."""
    with torch.device("meta"):
        model = MIME(MIMEOptions(), 23_713)
    unused = 301 + 9_600 + 90_300 + (301 * 13 + 301 * 19)
    assert sum(parameter.numel() for parameter in model.parameters()) - 23_713 * 601 == 3_082_465 - unused


def test_parameters_of_the_models_page(build: SimpleNamespace) -> None:
    printed, section = build.printed("mime")
    counted = build.counted(MIME, MIMEOptions())
    assert printed == {name: n for name, n in counted.items() if name not in ("embedding", "generator")}
    assert f"| {sum(printed.values()):,} |" in section


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "options.size is 0"),
        ({"depth": 9}, "options.depth (9) must be a multiple of options.heads (2)"),
        ({"label_smoothing": 1.5}, "options.label_smoothing is 1.5"),
        ({"emotion_weight": -1.0}, "options.emotion_weight is -1.0"),
        ({"gold_polarity": "no"}, "options.gold_polarity is 'no'"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        MIMEOptions(**changes)
    assert message in str(refused.value)
