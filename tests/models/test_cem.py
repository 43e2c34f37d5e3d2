"""CEM against NumPy loops over one unpadded example, its diversity weights, and what is counted for them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsm.models.cem import CEM, CEMOptions
from ctsm.nn.pointer import Scored

Array = NDArray[np.float64]
EOS, SOS = 2, 3


def make_cem(build: SimpleNamespace, seed: int = 0, **changes: Any) -> CEM:
    """A small model in evaluation mode whose norms and biases are neither 1 nor 0."""
    small = {"size": 12, "depth": 8, "filter_size": 5, "selection_size": 14}
    return build.system(CEM, CEMOptions(**{**small, **changes}), seed)


def make_examples(build: SimpleNamespace) -> list[Any]:
    """Long, no reaction words, one context word, CLS alone, and an empty gold reply (EOS only)."""
    examples = [
        build.example(1, words=9, target_words=6, unknown=0),
        build.example(2, words=5, reactions=0, unknown=2),
        build.example(3, words=1, target_words=3, unknown=0),
        build.example(4, words=0, target_words=2),
        build.example(5, words=7, target_words=0, reactions=6),
    ]
    return [
        replace(example, target=[word if word < build.vocabulary else 11 for word in example.target])
        for example in examples
    ]


def run(build: SimpleNamespace, model: CEM, example: Any) -> SimpleNamespace:
    """The paper's model for one example: no batch, no padding, every relation refined on its own."""
    reference = build.reference(model)
    context = reference.encoder("context_encoder", reference.embed(example.context) + reference.embed(example.speakers))
    knowledge = [reference.encoder("cognitive_encoder", reference.embed(row))[0] for row in example.cognitive]
    reaction = np.zeros(model.options.size)
    if example.reaction:
        reaction = reference.encoder("affective_encoder", reference.embed(example.reaction)).mean(axis=0)
    refined = []
    for relation, vector in enumerate([*knowledge, reaction]):
        both = np.array([np.concatenate([row, vector]) for row in context])
        refined.append(reference.encoder(f"{'cognitive' if relation < 4 else 'affective'}_refiner.encoder", both))
    z = np.concatenate(refined, axis=1)
    weighed = z * (1 / (1 + np.exp(-z)))
    memory = reference.linear("selection.2", np.maximum(reference.linear("selection.0", weighed), 0.0))
    hidden, _ = reference.decoder([SOS, *example.target[:-1]], memory)
    words = np.array([reference.softmax(reference.linear("generator.vocabulary", row)) for row in hidden])
    return SimpleNamespace(memory=memory, hidden=hidden, words=words, logits=reference.linear("emotion", refined[4][0]))


@pytest.fixture(scope="module", params=[{}, {"layers": 2, "heads": 4}], ids=["one layer", "two layers"])
def ran(request: pytest.FixtureRequest, build: SimpleNamespace) -> SimpleNamespace:
    """A training-mode loss from counts that are not zero, and the reference of each example."""
    model = make_cem(build, seed=1, **request.param).train()
    examples = make_examples(build)
    batch = build.batch(examples, padding=2)
    model.diversity.counts[:] = torch.arange(build.vocabulary) % 4
    before = model.diversity.counts.tolist()
    losses = model.loss(batch)
    return SimpleNamespace(
        model=model, examples=examples, batch=batch, losses=losses, counts_before=before,
        expected=[run(build, model, example) for example in examples],
    )  # fmt: skip


def check_rows(actual_BSD: Tensor, expected: list[Array]) -> None:
    """Compare the real positions of each example."""
    for row, wanted in zip(actual_BSD.detach().numpy(), expected, strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-5, atol=2e-5)


def token_losses(ran: SimpleNamespace) -> list[tuple[int, float]]:
    """(gold word, -log p) of every real target token, EOS included."""
    return [
        (word, -math.log(row[word]))
        for example, expected in zip(ran.examples, ran.expected, strict=True)
        for word, row in zip(example.target, expected.words, strict=True)
    ]


def counted(ran: SimpleNamespace) -> Counter[int]:
    """The model's own best words of each reply before its first EOS."""
    counts: Counter[int] = Counter()
    for expected in ran.expected:
        for row in expected.words:
            if row.argmax() == EOS:
                break
            counts[int(row.argmax())] += 1
    return counts


def weights_by_hand(counts: list[float]) -> list[float]:
    raw = [1 - count / max(counts) for count in counts]
    return [weight * len(raw) / sum(raw) for weight in raw]


def test_refined_and_selected_context_is_the_decoders_memory(ran: SimpleNamespace) -> None:
    check_rows(ran.model.encode(ran.batch).memory, [expected.memory for expected in ran.expected])


def test_emotion_is_read_from_the_first_affectively_refined_position(ran: SimpleNamespace) -> None:
    logits = ran.model.encode(ran.batch).emotion_logits
    check_rows(logits[:, None], [expected.logits[None] for expected in ran.expected])


def test_decoder_states(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    step = ran.model.decode(ran.batch.target[:, :-1], context, ran.model.start_decoding(context))
    check_rows(step.hidden, [expected.hidden for expected in ran.expected])


def test_scores_are_sums_of_token_losses(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(math.log(row[word]) for word, row in zip(example.target, expected.words, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)
        assert scores.tokens[b].item() == len(example.target)


def test_losses(ran: SimpleNamespace) -> None:
    """Likelihood and diversity are means over real tokens, the emotion's cross-entropy a mean over examples."""
    tokens = token_losses(ran)
    weights = weights_by_hand([n + counted(ran)[word] for word, n in enumerate(ran.counts_before)])
    wanted = {
        "generation": sum(loss for _, loss in tokens) / len(tokens),
        "diversity": sum(weights[word] * loss for word, loss in tokens) / len(tokens),
        "emotion": -sum(
            expected.logits[example.emotion] - math.log(np.exp(expected.logits).sum())
            for example, expected in zip(ran.examples, ran.expected, strict=True)
        )
        / len(ran.examples),
    }
    terms = {name: term.item() for name, term in ran.losses.terms.items()}
    assert terms == pytest.approx(wanted, rel=1e-5)
    total = wanted["generation"] + wanted["emotion"] + 1.5 * wanted["diversity"]
    assert ran.losses.total.item() == pytest.approx(total, rel=1e-5)


def test_training_counts_the_models_own_best_words(ran: SimpleNamespace) -> None:
    assert counted(ran)
    expected = [n + counted(ran)[word] for word, n in enumerate(ran.counts_before)]
    assert ran.model.diversity.counts.tolist() == expected


def test_the_most_frequent_prediction_weighs_nothing_and_the_mean_weight_is_one(
    build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words after a predicted EOS and EOS itself do not count; unseen words weigh most."""
    model = make_cem(build).train()
    predicted = [[7, 8, EOS, 9, 9, 9], [8, 8, 7], [EOS, 9]]
    examples = [replace(build.example(i), target=[*range(20, 19 + len(row)), EOS]) for i, row in enumerate(predicted)]
    flat = torch.tensor([word for row in predicted for word in row])

    def score(*_arguments: Any) -> Scored:
        return Scored(torch.arange(len(flat), dtype=torch.float64) - 20, flat)

    monkeypatch.setattr(model.generator, "score", score)
    losses = model.loss(build.batch(examples, padding=1))
    weights = model.diversity().tolist()
    counts = [{7: 2, 8: 3}.get(word, 0) for word in range(build.vocabulary)]
    assert weights == pytest.approx(weights_by_hand([float(n) for n in counts]), rel=1e-6)
    assert weights[8] == 0.0
    assert sum(weights) / len(weights) == pytest.approx(1.0, rel=1e-6)
    assert weights[9] == weights[EOS] == max(weights) > weights[7] > 0
    gold = [word for example in examples for word in example.target]
    mean = sum(weights[word] * (20 - i) for i, word in enumerate(gold)) / len(gold)
    assert losses.terms["diversity"].item() == pytest.approx(mean, rel=1e-6)


def test_without_any_prediction_all_words_weigh_the_same(build: SimpleNamespace) -> None:
    assert make_cem(build).diversity().tolist() == [1.0] * build.vocabulary


def test_evaluation_counts_only_when_asked_to(build: SimpleNamespace) -> None:
    """The published code's fault: predictions for dev change the weights of the training that follows."""
    batch = build.batch(make_examples(build), padding=1)
    clean, faulty = make_cem(build, seed=1), make_cem(build, seed=1, count_evaluation=True)
    training = make_cem(build, seed=1).train()
    training.loss(batch)
    with torch.inference_mode():
        first, second = clean.score(batch), faulty.score(batch)
    assert torch.equal(first.nll, second.nll)
    assert torch.equal(first.emotion_logits, second.emotion_logits)
    assert clean.diversity.counts.sum().item() == 0
    assert torch.equal(faulty.diversity.counts, training.diversity.counts)
    later = build.batch([build.example(seed, unknown=0) for seed in range(20, 26)])
    after = [model.train().loss(later) for model in (clean, faulty)]
    assert after[0].terms["diversity"].item() != after[1].terms["diversity"].item()
    assert after[0].terms["generation"].item() == after[1].terms["generation"].item()
    after[1].total.backward()


def test_parameters_without_embedding_and_output_layer() -> None:
    """The published code's 3,239,401 include a copy gate of 301 that it never uses."""
    with torch.device("meta"):
        model = CEM(CEMOptions(), 23_713)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count - 23_713 * 601 == 3_239_401 - 301


def test_parameters_of_the_models_page(build: SimpleNamespace) -> None:
    printed, section = build.printed("cem")
    counted = build.counted(CEM, CEMOptions())
    assert printed == {name: n for name, n in counted.items() if name not in ("embedding", "generator")}
    assert f"| {sum(printed.values()):,} |" in section


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "options.size is 0"),
        ({"depth": 9}, "options.depth (9) must be a multiple of options.heads (2)"),
        ({"diversity_weight": -1.0}, "options.diversity_weight is -1.0"),
        ({"count_evaluation": 1}, "options.count_evaluation is 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        CEMOptions(**changes)
    assert message in str(refused.value)
