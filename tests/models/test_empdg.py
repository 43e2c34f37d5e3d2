"""EmpDG's generator against NumPy loops over one unpadded example; its schedule; what the discriminators are shown."""

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

from ctsm.corpus.batches import Batch
from ctsm.decoding.greedy import greedy
from ctsm.models.empdg import EmpDG, EmpDGOptions

Array = NDArray[np.float64]
PAD, EOS, SOS, CLS = 1, 2, 3, 6
EMOTIONAL = range(30, 50)  # ids of the emotion words of these tests
JOINT = 10**6
EXTRAS = ("emotion_words", "feedback", "feedback_emotion_words", "reply_emotion_words")


def make_empdg(build: SimpleNamespace, seed: int = 0, **changes: Any) -> EmpDG:
    """A small model in evaluation mode whose norms and biases are neither 1 nor 0."""
    emotional = torch.zeros(build.vocabulary, dtype=torch.bool)
    emotional[list(EMOTIONAL)] = True
    options = EmpDGOptions(**{"size": 12, "depth": 8, "filter_size": 5, **changes})
    model: EmpDG = build.system(EmpDG, options, seed, emotional=emotional)
    model.step = JOINT
    return model


def words_of(rows: list[list[int]], padding: int = 0) -> Tensor:
    """CLS, then each row, padded."""
    width = max(len(row) for row in rows) + 1 + padding
    return torch.tensor([[CLS, *row] + [PAD] * (width - 1 - len(row)) for row in rows])


def make_examples(build: SimpleNamespace) -> list[Any]:
    """Long, with a word outside the vocabulary, short, CLS alone, and an empty gold reply (EOS only)."""
    return [
        build.example(1, words=9, target_words=6),
        build.example(2, words=5, unknown=2),
        build.example(3, words=2, target_words=3, unknown=0),
        build.example(4, words=0, target_words=2, unknown=0),
        build.example(5, words=7, target_words=0),
    ]


def emotion_words_of(example: Any) -> list[int]:
    return [word for word in example.context if word in EMOTIONAL]


def make_batch(build: SimpleNamespace, examples: list[Any], padding: int = 0) -> Batch:
    """A batch in which the examples at odd places have no feedback."""
    feedback = [[] if i % 2 else [7 + i, 31, 12, 45 - i][: 2 + i] for i in range(len(examples))]
    replies = [[word for word in example.target if word in EMOTIONAL] for example in examples]
    return replace(
        build.batch(examples, padding),
        emotion_words=words_of([emotion_words_of(example) for example in examples], padding),
        feedback=words_of(feedback, padding),
        feedback_emotion_words=words_of([[word for word in row if word in EMOTIONAL] for row in feedback], padding),
        reply_emotion_words=words_of(replies, padding),
    )


def run(build: SimpleNamespace, model: EmpDG, example: Any) -> SimpleNamespace:
    """The generator for one example: no batch, no padding."""
    reference = build.reference(model)
    emotion_words = [CLS, *emotion_words_of(example)]
    semantic = reference.encoder(
        "semantic_encoder", reference.embed(example.context) + reference.embed(example.speakers)
    )
    emotional = reference.encoder("emotion_encoder", reference.embed(emotion_words))
    logits = reference.linear("emotion", np.concatenate([emotional[0], semantic[0]]))
    memory = np.concatenate([semantic, emotional])
    hidden, scores = reference.decoder(example.target[:-1], memory, reference.linear("emotion_start", logits))
    source = replace(example, context=[*example.context, *emotion_words])
    return SimpleNamespace(
        logits=logits, memory=memory, hidden=hidden, semantic=semantic[0], emotional=emotional[0],
        mixture=np.array([reference.mixture(source, h, a) for h, a in zip(hidden, scores, strict=True)]),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[{}, {"layers": 2, "heads": 4}], ids=["one layer", "two layers"])
def ran(request: pytest.FixtureRequest, build: SimpleNamespace) -> SimpleNamespace:
    """A loss of the generator alone, and the reference of each example."""
    model = make_empdg(build, seed=1, **request.param)
    model.step = 1
    examples = make_examples(build)
    batch = make_batch(build, examples, padding=2)
    return SimpleNamespace(
        model=model, examples=examples, batch=batch, losses=model.loss(batch),
        expected=[run(build, model, example) for example in examples],
    )  # fmt: skip


def close(actual: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-5, atol=2e-5)


def test_memory_is_the_context_and_its_emotion_words(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        close(context.memory[b][context.real[b]], expected.memory)
        ids = [*example.context, CLS, *emotion_words_of(example)]
        assert context.source.ids[b][context.real[b]].tolist() == ids
        assert context.source.copyable[b][context.real[b]].tolist() == [word != CLS for word in ids]
        assert not bool(context.source.copyable[b][~context.real[b]].any())


def test_emotion_is_read_from_both_first_positions(ran: SimpleNamespace) -> None:
    for row, expected in zip(ran.model.encode(ran.batch).emotion_logits, ran.expected, strict=True):
        close(row, expected.logits)


def test_decoder_starts_from_the_emotion_logits(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    step = ran.model.decode(ran.batch.target[:, :-1], context, ran.model.start_decoding(context))
    for row, expected in zip(step.hidden, ran.expected, strict=True):
        close(row[: len(expected.hidden)], expected.hidden)


def test_scores_are_those_of_the_mixture_over_both_sources(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(math.log(row[word]) for word, row in zip(example.target, expected.mixture, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)


def test_losses_of_the_generator_are_sums_over_the_batch(ran: SimpleNamespace, build: SimpleNamespace) -> None:
    nll, smoothed = [], []
    for example, expected in zip(ran.examples, ran.expected, strict=True):
        for word, row in zip(example.target, expected.mixture, strict=True):
            others = [other for other in range(build.vocabulary) if other not in (word, PAD)]
            rest = sum(math.log(row[other]) for other in others) / len(others)
            nll.append(-math.log(row[word]))
            smoothed.append(-0.9 * math.log(row[word]) - 0.1 * rest)
    emotion = [
        math.log(np.exp(expected.logits).sum()) - expected.logits[example.emotion]
        for example, expected in zip(ran.examples, ran.expected, strict=True)
    ]
    terms = {name: term.item() for name, term in ran.losses.terms.items()}
    wanted = {"generation": sum(nll) / len(nll), "emotion": sum(emotion) / len(emotion)}
    assert terms == pytest.approx(wanted | {"discriminators": 0.0, "adversarial": 0.0}, rel=1e-5)
    assert ran.losses.total.item() == pytest.approx(sum(smoothed) + sum(emotion), rel=1e-5)


def test_what_comes_after_the_context_is_for_the_loss_alone(build: SimpleNamespace) -> None:
    model, batch = make_empdg(build), make_batch(build, make_examples(build))
    bare = replace(batch, feedback=None, feedback_emotion_words=None, reply_emotion_words=None)
    assert torch.equal(model.score(batch).nll, model.score(bare).nll)
    nothing: Any = None
    silent = replace(bare, emotion=nothing, target=nothing, target_positions=nothing)
    assert torch.equal(model.encode(batch).memory, model.encode(silent).memory)


@pytest.mark.parametrize(
    ("step", "learn", "act"),
    [(0, 0, 0), (10, 0, 0), (11, 1, 0), (13, 1, 0), (14, 0, 0), (15, 1, 1), (16, 0, 0), (18, 1, 1)],
)
def test_discriminators_first_wait_then_learn_then_act(
    build: SimpleNamespace, step: int, learn: bool, act: bool
) -> None:
    """Ten steps of the generator alone, three in which the discriminators learn, then every third step."""
    changes = {"generator_steps": 10, "discriminator_steps": 3, "adversarial_every": 3}
    model = make_empdg(build, **changes, adversarial_weight=1000.0)
    batch = make_batch(build, make_examples(build))
    model.step = 1
    alone = model.loss(batch)
    model.step = step
    losses = model.loss(batch)
    own = [parameter for name, parameter in model.named_parameters() if "discriminator" in name]
    gradients = torch.autograd.grad(losses.total, own, allow_unused=True, retain_graph=True)
    assert all((gradient is not None) == bool(learn) for gradient in gradients)
    assert (losses.terms["discriminators"].item() != 0) == bool(learn)
    words = model.decoder.projection.weight
    same = torch.autograd.grad(alone.total, words)[0], torch.autograd.grad(losses.total, words)[0]
    assert torch.allclose(*same, rtol=1e-9, atol=1e-12) != bool(act)


def test_the_adversarial_gradient_reaches_all_of_the_generator_and_nothing_of_the_discriminators(
    build: SimpleNamespace,
) -> None:
    model = make_empdg(build, seed=3)
    losses = model.loss(make_batch(build, make_examples(build)))
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(losses.terms["adversarial"], parameters, allow_unused=True)
    reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    assert reached == {name for name in names if "discriminator" not in name}
    assert all(gradient.abs().sum().item() > 0 for gradient in gradients if gradient is not None)


def test_without_feedback_the_discriminators_have_nothing_to_judge(build: SimpleNamespace) -> None:
    model, batch = make_empdg(build), make_batch(build, make_examples(build))
    batch = replace(batch, feedback=words_of([[]] * 5), feedback_emotion_words=words_of([[]] * 5))
    losses = model.loss(batch)
    assert losses.terms["discriminators"].item() == losses.terms["adversarial"].item() == 0.0
    losses.total.backward()


def test_only_examples_with_feedback_are_judged(build: SimpleNamespace) -> None:
    """The discriminators' terms of a batch are those of its examples with feedback alone, whatever the padding."""
    model, examples = make_empdg(build), make_examples(build)
    batch = make_batch(build, examples, padding=3)
    chosen = make_batch(build, examples)
    with_feedback = [0, 2, 4]
    kept = {name: getattr(chosen, name)[with_feedback] for name in (*EXTRAS, "context", "speakers", "emotion")}
    target = chosen.target[with_feedback]
    positions = (target.flatten() != PAD).nonzero().squeeze(1)
    chosen = replace(
        chosen, **kept, index=chosen.index[with_feedback], target=target, target_positions=positions,
        cognitive=chosen.cognitive[with_feedback], reaction=chosen.reaction[with_feedback],
    )  # fmt: skip
    # as many steps of the reply in both: its length is bounded by the width of the gold replies
    batch = replace(
        batch, target=batch.target[:, : target.shape[1]],
        target_positions=(batch.target[:, : target.shape[1]].flatten() != PAD).nonzero().squeeze(1),
    )  # fmt: skip
    first, second = model.loss(batch).terms, model.loss(chosen).terms
    for name in ("discriminators", "adversarial"):
        torch.testing.assert_close(first[name], second[name], rtol=1e-9, atol=1e-9)


def test_judged_reply_is_the_greedy_reply_with_its_emotion_words(build: SimpleNamespace) -> None:
    lengths, moved_lengths = set[int](), set[int]()
    for seed in range(4):
        model = make_empdg(build, seed=seed)
        with torch.no_grad():  # so that words of both sources are copied and replies end now and then
            model.generator.vocabulary.bias[EOS] += seed
            model.generator.gate.bias -= 1.0
        context = model.encode(make_batch(build, make_examples(build), padding=1))
        reply, emotion_words = model._speak(context, steps=8)
        vectors = model.embedding.weight
        for b, row in enumerate(greedy(model, context, max_tokens=8)):
            said = [word if word < build.vocabulary else 0 for word in row]
            spoken = said if len(row) == 8 else [*said, EOS]
            assert int(reply.real[b].sum()) == len(spoken)
            torch.testing.assert_close(reply.vectors[b][reply.real[b]], vectors[spoken])
            moved = [CLS, *(word for word in said if word in EMOTIONAL)]
            assert int(emotion_words.real[b].sum()) == len(moved)
            torch.testing.assert_close(emotion_words.vectors[b][emotion_words.real[b]], vectors[moved])
            lengths.add(len(spoken))
            moved_lengths.add(len(moved))
    assert len(lengths) > 1
    assert len(moved_lengths) > 1


def test_no_word_is_sought_after_the_last_reply_has_ended(
    build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_empdg(build, seed=3)
    context = model.encode(make_batch(build, make_examples(build)))
    count = len(context.memory)
    said = torch.full((4, count), 9)
    said[1, 0], said[2, 1:] = EOS, EOS
    words = iter(said)
    monkeypatch.setattr(model.generator, "best_word", lambda *_: (next(words), None))
    found, real = model._reply(context, 8)
    assert found.tolist() == [[9, EOS, PAD], *[[9, 9, EOS]] * (count - 1)]
    assert torch.equal(real, found != PAD)
    assert len(list(words)) == 1


def test_gradient_of_the_reply_is_that_of_the_mixtures_mean_vector(build: SimpleNamespace) -> None:
    """Straight through: as if each word's vector were the sum over all words of probability times vector."""
    model = make_empdg(build, seed=3)
    context = model.encode(make_batch(build, make_examples(build)))
    reply, emotion_words = model._speak(context, steps=5)
    upstream = torch.randn_like(reply.vectors)
    words, real = model._reply(context, 5)
    step = model.decode(words[:, :-1], context, model.start_decoding(context))
    known = model.embedding.weight.detach()
    mean = torch.zeros_like(upstream)
    for b, t in real.nonzero().tolist():
        vocabulary = torch.softmax(model.generator.vocabulary(step.hidden[b, t]), dim=0)
        generated = sum(p * vector for p, vector in zip(vocabulary, known, strict=True))
        places = context.source.copyable[b].nonzero().squeeze(1).tolist()
        if not places:
            mean[b, t] = generated
            continue
        shares = torch.softmax(step.copy_scores[b, t, places], dim=0)
        ids = [int(word) if word < build.vocabulary else 0 for word in context.source.ids[b, places]]
        copied = sum(share * known[word] for share, word in zip(shares, ids, strict=True))
        gate = torch.sigmoid(model.generator.gate(step.hidden[b, t]))
        mean[b, t] = gate * generated + (1 - gate) * copied
    inputs = [model.decoder.projection.weight, model.generator.gate.weight, model.generator.vocabulary.weight]
    inputs.append(model.semantic_encoder.projection.weight)
    actual = torch.autograd.grad((reply.vectors * upstream).sum(), inputs, retain_graph=True)
    expected = torch.autograd.grad((mean * upstream).sum(), inputs)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
    assert emotion_words.vectors.requires_grad


def test_parameters_without_embedding_and_output_layer() -> None:
    """The published port's 15,039,164 hold three modules that it never uses: 600 V + V and two heads of 300 x 32."""
    vocabulary = 23_713
    with torch.device("meta"):
        model = EmpDG(EmpDGOptions(), vocabulary)
    counts = Counter[bool]()
    for name, parameter in model.named_parameters():
        counts["discriminator" in name] += parameter.numel()
    assert counts[False] - vocabulary * 601 == 15_039_164 - 601 * vocabulary - 2 * 300 * 32


def test_parameters_of_the_models_page(build: SimpleNamespace) -> None:
    printed, section = build.printed("empdg")
    counted = build.counted(
        EmpDG,
        EmpDGOptions(),
        lambda name: "" if name.startswith(("embedding.", "generator.vocabulary.")) else name.split(".")[0],
    )
    assert printed == {name: n for name, n in counted.items() if name}
    assert f"| {sum(n for name, n in printed.items() if 'discriminator' not in name):,} |" in section


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 1}, "options.size is 1; it must be at least 2"),
        ({"depth": 9}, "options.depth (9) must be a multiple of options.heads (2)"),
        ({"generator_steps": -1}, "options.generator_steps is -1; it must be at least 0"),
        ({"adversarial_every": 0}, "options.adversarial_every is 0; it must be at least 1"),
        ({"label_smoothing": 1.0}, "options.label_smoothing is 1.0"),
        ({"penalty_weight": -0.1}, "options.penalty_weight is -0.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        EmpDGOptions(**changes)
    assert message in str(refused.value)
