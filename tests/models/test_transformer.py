"""The Transformer against NumPy loops over one unpadded example, with and without the emotion head."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ctsm.models.transformer import Transformer, TransformerOptions

SOS = 3


def make_transformer(build: SimpleNamespace, seed: int = 0, **changes: Any) -> Transformer:
    """A small model in evaluation mode whose norms and biases are neither 1 nor 0."""
    small = {"size": 12, "depth": 8, "filter_size": 5}
    return build.system(Transformer, TransformerOptions(**{**small, **changes}), seed)


def make_examples(build: SimpleNamespace) -> list[Any]:
    """Long, with unknown words, CLS alone, and an empty gold reply (EOS only)."""
    return [
        replace(build.example(1, words=9, target_words=6, unknown=0), target=[9, 11, 9, 40, 17, 2]),
        replace(build.example(2, words=5, unknown=2), target=[11, 12, 2]),
        replace(build.example(3, words=0), target=[20, 2]),
        build.example(4, words=7, target_words=0),
    ]


@pytest.fixture(
    scope="module",
    params=[{}, {"emotion_head": True, "emotion_weight": 0.7, "label_smoothing": 0.3}, {"layers": 2, "heads": 4}],
    ids=["plain", "emotion head", "two layers"],
)
def ran(request: pytest.FixtureRequest, build: SimpleNamespace) -> SimpleNamespace:
    """A loss in training mode and, for each example, memory, states, probabilities and emotion logits."""
    model = make_transformer(build, seed=1, **request.param).train()
    examples = make_examples(build)
    batch = build.batch(examples, padding=2)
    reference, expected = build.reference(model), []
    for example in examples:
        memory = reference.encoder("encoder", reference.embed(example.context) + reference.embed(example.speakers))
        hidden, _ = reference.decoder([SOS, *example.target[:-1]], memory)
        words = np.array([reference.softmax(reference.linear("generator.vocabulary", row)) for row in hidden])
        logits = reference.linear("emotion", memory[0]) if model.options.emotion_head else None
        expected.append(SimpleNamespace(memory=memory, hidden=hidden, words=words, logits=logits))
    return SimpleNamespace(
        model=model, examples=examples, batch=batch, losses=model.loss(batch), expected=expected, reference=reference
    )


def test_memory_states_and_emotion(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    step = ran.model.decode(ran.batch.target[:, :-1], context, ran.model.start_decoding(context))
    for b, expected in enumerate(ran.expected):
        close = {"rtol": 1e-5, "atol": 2e-5}
        np.testing.assert_allclose(context.memory[b, : len(expected.memory)].detach(), expected.memory, **close)
        np.testing.assert_allclose(step.hidden[b, : len(expected.hidden)].detach(), expected.hidden, **close)
        if expected.logits is None:
            assert context.emotion_logits is None
        else:
            np.testing.assert_allclose(context.emotion_logits[b].detach(), expected.logits, **close)


def test_loss_is_the_smoothed_sum_over_tokens_plus_the_mean_emotion_loss(ran: SimpleNamespace) -> None:
    options = ran.model.options
    pairs = list(zip(ran.examples, ran.expected, strict=True))
    total = sum(
        ran.reference.smoothed_loss(expected.words, example.target, options.label_smoothing)
        for example, expected in pairs
    )
    nll = [
        -math.log(row[word])
        for example, expected in pairs
        for row, word in zip(expected.words, example.target, strict=True)
    ]
    wanted = {"generation": sum(nll) / len(nll)}
    if options.emotion_head:
        emotion = [-math.log(ran.reference.softmax(expected.logits)[example.emotion]) for example, expected in pairs]
        wanted["emotion"] = sum(emotion) / len(emotion)
        total += options.emotion_weight * wanted["emotion"]
    assert {name: term.item() for name, term in ran.losses.terms.items()} == pytest.approx(wanted, rel=1e-5)
    assert ran.losses.total.item() == pytest.approx(total, rel=1e-5)


def test_scores_are_without_smoothing(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    assert (scores.emotion_logits is None) == (not ran.model.options.emotion_head)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(math.log(row[word]) for row, word in zip(expected.words, example.target, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)
        assert scores.tokens[b].item() == len(example.target)


@pytest.mark.parametrize(("head", "unused"), [(False, 301 + 9_600), (True, 301)])
def test_parameters_without_embedding_and_output_layer(head: bool, unused: int) -> None:
    """The published code's 518,801 include a copy gate that it never uses, and the head even where it is not used."""
    with torch.device("meta"):
        model = Transformer(TransformerOptions(emotion_head=head), 23_713)
    assert sum(parameter.numel() for parameter in model.parameters()) - 23_713 * 601 == 518_801 - unused


def test_parameters_of_the_models_page(build: SimpleNamespace) -> None:
    printed, section = build.printed("transformer")
    counted = build.counted(Transformer, TransformerOptions(emotion_head=True))
    assert printed == {name: n for name, n in counted.items() if name not in ("embedding", "generator")}
    assert f"| {sum(printed.values()):,} |" in section


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter_size": 0}, "options.filter_size is 0"),
        ({"depth": 9}, "options.depth (9) must be a multiple of options.heads (2)"),
        ({"label_smoothing": 1.0}, "options.label_smoothing is 1.0"),
        ({"emotion_weight": -1.0}, "options.emotion_weight is -1.0"),
        ({"emotion_head": "yes"}, "options.emotion_head is 'yes'"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        TransformerOptions(**changes)
    assert message in str(refused.value)
