"""Every equation of the paper against NumPy loops over one unpadded example (see `Reference` in conftest.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsm.models.ctsm import CTSMOptions

Array = NDArray[np.float64]
EOS = 2
WATCHED = (
    "context_encoder", "cognitive_encoder", "affective_encoder", "student_fusion", "teacher_fusion", "condense",
    "trait_encoder", "state_encoder", "teacher_head", "student_head", "decoder", "reply_encoder", "emotion_view",
    "diversity",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "two layers": {"layers": 2, "heads": 4},
    "sum_gate and wide memory": {"emotion_pool": "sum_gate", "decoder_memory": "stu+emo"},
    "sum and shared mlp": {"emotion_pool": "sum", "fusion_sharing": "mlp_only"},
    "shared fusion": {"fusion_sharing": "all", "vad_default": "kemp"},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def ran(request: pytest.FixtureRequest, build: SimpleNamespace) -> SimpleNamespace:
    """One training-mode loss with everything that went in and out of the modules, and the reference of each example.

    The examples: long, no reaction words, one context word, context of CLS only, empty gold reply (EOS only).
    """
    model = build.model(build.options(**VARIANTS[request.param]), seed=1).train()
    examples = [
        build.example(1, words=9, target_words=6),
        build.example(2, words=5, reactions=0, unknown=2),
        build.example(3, words=1, target_words=3, unknown=0),
        build.example(4, words=0, target_words=2),
        build.example(5, words=7, target_words=0, reactions=6),
    ]
    batch = build.batch(examples, padding=2)
    model.diversity.counts[:] = torch.arange(len(model.diversity.counts)) % 4
    before = model.diversity.counts.tolist()
    with build.captured(model, *WATCHED) as seen:
        losses = model.loss(batch)
    reference = build.reference(model)
    return SimpleNamespace(
        model=model, examples=examples, batch=batch, seen=seen, losses=losses, counts_before=before,
        reference=reference, expected=[reference.run(example) for example in examples],
    )  # fmt: skip


def check_rows(actual_BSD: Tensor, expected: Sequence[Array]) -> None:
    """Compare the real positions of each example."""
    for row, wanted in zip(actual_BSD.detach().numpy(), expected, strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-5, atol=2e-5)


def of(ran: SimpleNamespace, name: str) -> list[Array]:
    return [getattr(expected, name) for expected in ran.expected]


def log_softmax(x: Array) -> Array:
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def test_eq_1_context_encoder(ran: SimpleNamespace) -> None:
    """E_C is words + positions + speakers; the encoder adds no second position signal."""
    (embedded, _), encoded = ran.seen["context_encoder"]
    check_rows(embedded, of(ran, "e_c"))
    check_rows(encoded, of(ran, "h_c"))


def test_section_3_3_knowledge_vectors(ran: SimpleNamespace) -> None:
    """The CLS position of four cognitive relations and the mean over the real positions of xReact."""
    check_rows(ran.seen["student_fusion"][0][1], of(ran, "knowledge"))


def test_section_3_3_fusion(ran: SimpleNamespace) -> None:
    """Refined by each relation, gated by its own sigmoid, mapped back to D: one result for each branch."""
    check_rows(ran.seen["student_fusion"][1], of(ran, "student"))
    check_rows(ran.seen["teacher_fusion"][1], of(ran, "teacher"))


def test_eq_2_and_3_trait_embedding(ran: SimpleNamespace) -> None:
    check_rows(ran.seen["trait_encoder"][0][0], of(ran, "v_t"))


def test_eq_4_trait_encoder(ran: SimpleNamespace) -> None:
    check_rows(ran.seen["trait_encoder"][1], of(ran, "h_t"))


def test_eq_5_to_7_inclination(ran: SimpleNamespace) -> None:
    perception = ran.model.encode(ran.batch, perceive=True).perception
    check_rows(perception.inclination, of(ran, "v_cos"))
    check_rows(ran.seen["state_encoder"][0][0][..., :32], of(ran, "v_cos"))


def test_eq_5_label_words_are_live_rows_of_the_embedding(ran: SimpleNamespace, build: SimpleNamespace) -> None:
    inclination = ran.model.encode(ran.batch, perceive=True).perception.inclination
    (gradient,) = torch.autograd.grad(inclination[0, 0].square().sum(), ran.model.embedding.weight)
    assert bool((gradient[build.labels].abs().sum(dim=1) > 0).all())


def test_eq_8_state_embedding(ran: SimpleNamespace) -> None:
    check_rows(ran.seen["state_encoder"][0][0], of(ran, "v_s"))


def test_eq_9_state_encoder(ran: SimpleNamespace) -> None:
    check_rows(ran.seen["state_encoder"][1], of(ran, "h_s"))


def test_eq_10_and_16_what_the_heads_read(ran: SimpleNamespace) -> None:
    check_rows(ran.seen["teacher_head"][0][0], of(ran, "v_tchr"))
    check_rows(ran.seen["student_head"][0][0], of(ran, "v_stu"))


def test_eq_11_to_14_and_17_emotion_logits(ran: SimpleNamespace) -> None:
    check_rows(ran.seen["teacher_head"][1][:, None], [row[None] for row in of(ran, "teacher_logits")])
    check_rows(ran.seen["student_head"][1][:, None], [row[None] for row in of(ran, "student_logits")])
    check_rows(ran.model.encode(ran.batch).emotion_logits[:, None], [row[None] for row in of(ran, "student_logits")])


def test_eq_15_teacher_loss(ran: SimpleNamespace) -> None:
    terms = [
        -log_softmax(logits)[example.emotion]
        for logits, example in zip(of(ran, "teacher_logits"), ran.examples, strict=True)
    ]
    assert ran.losses.terms["teacher"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_eq_18_student_loss(ran: SimpleNamespace) -> None:
    terms = []
    for teacher, student in zip(of(ran, "teacher_logits"), of(ran, "student_logits"), strict=True):
        soft, log_student = np.exp(log_softmax(teacher)), log_softmax(student)
        terms.append(-sum(soft[k] * log_student[k] for k in range(32)))
    assert ran.losses.terms["student"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_eq_18_the_teacher_learns_nothing_from_the_student(build: SimpleNamespace) -> None:
    model = build.model().train()
    batch = build.batch([build.example(1), build.example(2, words=3)])
    names = [name for name, _ in model.named_parameters() if name.startswith("teacher_")]
    parameters = [model.get_parameter(name) for name in names]
    assert len(parameters) > 10
    student = torch.autograd.grad(model.loss(batch).terms["student"], parameters, allow_unused=True)
    assert [name for name, gradient in zip(names, student, strict=True) if gradient is not None] == []
    teacher = torch.autograd.grad(model.loss(batch).terms["teacher"], parameters, allow_unused=True)
    assert [name for name, gradient in zip(names, teacher, strict=True) if gradient is None] == []


def test_eq_18_gradient_is_that_of_constant_soft_labels(build: SimpleNamespace) -> None:
    """Also on what both branches share: the student's loss moves it as if the soft labels were data."""
    model = build.model().train()
    batch = build.batch([build.example(1), build.example(2, words=3)])
    with build.captured(model, "teacher_head", "student_head") as seen:
        losses = model.loss(batch)
    constant = torch.softmax(seen["teacher_head"][1].detach().clone(), dim=1)
    mine = -(constant * torch.log_softmax(seen["student_head"][1], dim=1)).sum() / 2
    shared = [model.condense.weight, model.embedding.weight, model.context_encoder.projection.weight]
    for a, b in zip(
        torch.autograd.grad(losses.terms["student"], shared, retain_graph=True),
        torch.autograd.grad(mine, shared),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_eq_20_decoder_states_and_scores(ran: SimpleNamespace) -> None:
    hidden, scores = ran.seen["decoder"][1]
    check_rows(hidden, of(ran, "hidden"))
    for b, wanted in enumerate(of(ran, "scores")):
        np.testing.assert_allclose(scores[b, : wanted.shape[0], : wanted.shape[1]].detach().numpy(), wanted, atol=2e-5)
    check_rows(ran.model.encode(ran.batch).memory, of(ran, "memory"))


def test_eq_20_pointer_mixture(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    step = ran.model.decode(ran.batch.target[:, :-1], context, ran.model.start_decoding(context))
    rows = torch.arange(len(ran.batch)).repeat_interleave(step.hidden.shape[1])
    log_mixture = ran.model.generator.distribution(
        step.hidden.flatten(0, 1), step.copy_scores.flatten(0, 1), context.source.rows(rows), 58
    ).unflatten(0, (len(ran.batch), -1))
    check_rows(log_mixture.exp(), of(ran, "mixture"))


def token_losses(ran: SimpleNamespace) -> list[tuple[int, float]]:
    """(gold word, -log p) of every real target token, EOS included."""
    return [
        (word, -math.log(distribution[word]))
        for example, expected in zip(ran.examples, ran.expected, strict=True)
        for word, distribution in zip(example.target, expected.mixture, strict=True)
    ]


def test_eq_21_generation_loss_is_the_mean_over_real_tokens(ran: SimpleNamespace) -> None:
    losses = [loss for _, loss in token_losses(ran)]
    assert len(losses) == sum(len(example.target) for example in ran.examples)
    assert ran.losses.terms["generation"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_scores_are_sums_of_the_same_token_losses(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(math.log(row[word]) for word, row in zip(example.target, expected.mixture, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)
        assert scores.tokens[b].item() == len(example.target)
    assert scores.nll.dtype == torch.float64


@pytest.mark.parametrize("negatives", ["both_views", "cross_view", "paper"])
def test_eq_22_to_24_contrastive_loss(ran: SimpleNamespace, negatives: str) -> None:
    linear: Callable[[str, Array], Array] = ran.reference.linear
    reply = [expected.h_y.mean(axis=0) for expected in ran.expected]
    emotion = [
        linear("emotion_view", np.concatenate([expected.h_t, expected.h_s], axis=1).mean(axis=0))
        for expected in ran.expected
    ]
    context = [expected.student.mean(axis=0) for expected in ran.expected]
    generated = [expected.hidden.mean(axis=0) for expected in ran.expected]
    pairs = [(reply, emotion), (context, generated), (context, reply), (emotion, generated), (reply, generated)]
    options: CTSMOptions = ran.model.options
    ran.model.options = replace(options, contrastive_negatives=negatives)
    ran.model.eval()
    actual = ran.model.loss(ran.batch).terms["contrastive"].item()
    ran.model.options = options
    ran.model.train()
    expected_loss = sum(info_nce(first, second, negatives) for first, second in pairs) / 5
    assert actual == pytest.approx(expected_loss, rel=1e-4)
    if negatives == "both_views":
        assert ran.losses.terms["contrastive"].item() == pytest.approx(expected_loss, rel=1e-4)


def info_nce(first: list[Array], second: list[Array], negatives: str) -> float:
    """Eq. 23 for one pair of views, anchor by anchor."""

    def similarity(a: Array, b: Array) -> float:
        return math.exp(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / 0.07)

    terms = []
    for i in range(len(first)):
        anchors = [(first, second)] if negatives == "paper" else [(first, second), (second, first)]
        for mine, other in anchors:
            positive = similarity(mine[i], other[i])
            total = sum(similarity(mine[i], other[j]) for j in range(len(first)) if j != i)
            if negatives == "both_views":
                total += sum(similarity(mine[i], mine[j]) for j in range(len(first)) if j != i)
            if negatives != "paper":
                total += positive
            terms.append(-math.log(positive / total))
    return sum(terms) / len(terms)


def test_diversity_loss(ran: SimpleNamespace) -> None:
    """Counts of the mixture's arg-max up to the first predicted EOS, added before this step's weights are taken."""
    counts, cut = list(ran.counts_before), 0
    for expected in ran.expected:
        for distribution in expected.mixture:
            word = int(distribution.argmax())
            if word == EOS:
                cut += 1
                break
            if word < 50:
                counts[word] += 1
    assert ran.model.diversity.counts.tolist() == counts
    raw = [1 - count / max(counts) for count in counts]
    weights = [value / (sum(raw) / len(raw)) for value in raw]
    losses = [weights[word if word < 50 else 0] * loss for word, loss in token_losses(ran)]
    assert ran.losses.terms["diversity"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    np.testing.assert_allclose(ran.seen["diversity"][1].numpy(), weights, rtol=1e-5)


def test_eq_19_and_25_total(ran: SimpleNamespace) -> None:
    terms = {name: term.item() for name, term in ran.losses.terms.items()}
    assert set(terms) == {"teacher", "student", "generation", "contrastive", "diversity"}
    total = terms["teacher"] + terms["student"] + terms["generation"] + terms["contrastive"] + 1.5 * terms["diversity"]
    assert ran.losses.total.item() == pytest.approx(total)


def test_eq_25_uses_its_weights(build: SimpleNamespace) -> None:
    weights = {"emotion_weight": 2.0, "generation_weight": 3.0, "contrastive_weight": 5.0, "diversity_weight": 7.0}
    model, batch = build.model(build.options(**weights)), build.batch([build.example(1), build.example(2)])
    losses = model.loss(batch)
    terms = {name: term.item() for name, term in losses.terms.items()}
    expected = 2 * (terms["teacher"] + terms["student"]) + 3 * terms["generation"]
    assert losses.total.item() == pytest.approx(expected + 5 * terms["contrastive"] + 7 * terms["diversity"])


def test_defaults_are_the_papers() -> None:
    options = CTSMOptions()
    assert (options.size, options.layers, options.heads, options.depth, options.filter_size) == (300, 1, 2, 40, 50)
    assert (options.semantic_size, options.fusion_size, options.temperature) == (10, 900, 0.07)
    assert (options.emotion_weight, options.generation_weight) == (1.0, 1.0)
    assert (options.contrastive_weight, options.diversity_weight) == (1.0, 1.5)
    switches = (options.fusion_sharing, options.vad_default, options.emotion_pool)
    assert switches == ("separate", "paper", "attention")
    assert (options.decoder_memory, options.contrastive_negatives) == ("stu", "both_views")


def test_state_map_is_the_student_head_applied_to_each_position_alone(build: SimpleNamespace) -> None:
    model = build.model()
    examples = [build.example(1, words=6), build.example(2, words=2)]
    perception = model.encode(build.batch(examples), perceive=True).perception
    reference = build.reference(model)
    for b, example in enumerate(examples):
        ran = reference.run(example)
        share = np.exp(ran.intensity) / np.exp(ran.intensity).sum() * len(ran.intensity)
        for s in range(len(example.context)):
            hidden = np.tanh(reference.linear("student_head.hidden", share[s] * ran.v_stu[s]))
            wanted = np.exp(log_softmax(reference.linear("student_head.output", hidden)))
            np.testing.assert_allclose(perception.state[b, s].detach().numpy(), wanted, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(perception.trait[b, : len(example.context)].numpy(), ran.v_t[:, :3])
        listed = [word < 50 and bool(model.in_lexicon[word]) for word in example.context]
        assert perception.in_lexicon[b, : len(example.context)].tolist() == listed
        np.testing.assert_allclose(perception.intensity[b, : len(share)].numpy(), share, rtol=1e-6)
        weighted = share[:, None] * ran.v_stu
        scores = reference.linear("student_head.attention", np.tanh(reference.linear("student_head.inner", weighted)))
        attention = reference.softmax(scores[:, 0])
        np.testing.assert_allclose(perception.attention[b, : len(share)].detach().numpy(), attention, rtol=1e-4)
        assert perception.attention[b, len(share) :].tolist() == [0.0] * (perception.attention.shape[1] - len(share))


@pytest.mark.parametrize("pool", ["sum", "sum_gate"])
def test_a_head_without_attention_has_intensities_that_sum_to_one(build: SimpleNamespace, pool: str) -> None:
    model = build.model(build.options(emotion_pool=pool))
    perception = model.encode(build.batch([build.example(1, words=5)]), perceive=True).perception
    assert perception.attention is None
    assert float(perception.intensity.sum()) == pytest.approx(1.0)


def test_inclination_of_words_is_that_of_the_speakers_first_word(build: SimpleNamespace) -> None:
    model = build.model()
    reference = build.reference(model)
    found = model.inclination_of_words().detach().numpy()
    signal = reference.positions(2, model.options.size)[1]
    for word in range(7, 50, 5):
        vector = reference.embed([word])[0] + reference.embed([4])[0] + signal  # 4: the speaker
        np.testing.assert_allclose(found[word], reference.cosines(vector[None])[0], rtol=1e-5, atol=1e-7)
