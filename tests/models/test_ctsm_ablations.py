"""The ablations of Table 3: what each removes, and what is left, against the equations written out for one example."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctsm.models.ctsm import CTSM, CTSMOptions
from ctsm.text.vocabulary import SOS

Array = NDArray[np.float64]
WITHOUT = ["TEE", "SEE", "EGM", "CCL", "EGM & CCL"]
TRAIT, STATE = 14, 43  # widths of V_t and V_s at the paper's sizes


def parameters_of(without: str) -> int:
    """By the formula of each block at the paper's sizes (d = 300, V = 23,712)."""

    def linear(inputs: int, outputs: int, bias: bool = True) -> int:
        return inputs * outputs + outputs * bias

    def encoder(inputs: int, size: int) -> int:
        attention, convolutions = 4 * size * 40, 2 * 3 * size * 50 + 50 + size
        return inputs * size + attention + convolutions + 3 * 2 * size

    def head(width: int) -> int:
        return linear(width, width) + linear(width, 1, bias=False) + linear(width, width) + linear(width, 32)

    d, vocabulary = 300, 23_712
    emotions = TRAIT * (without != "TEE") + STATE * (without != "SEE")
    fusion = 2 * encoder(2 * d, d) + 1500 * 900 + 900 * d
    count = vocabulary * d + linear(d, vocabulary) + linear(d, 1) + 3 * encoder(d, d) + 278_750 + 3_000
    count += (fusion + head(d + emotions)) * (1 if "EGM" in without else 2)
    count += encoder(TRAIT, TRAIT) * (without != "TEE")
    count += (encoder(STATE, STATE) + 2 * linear(d, d)) * (without != "SEE")
    return count + (encoder(d, d) + linear(emotions, d)) * ("CCL" not in without)


@pytest.mark.parametrize("without", ["", *WITHOUT])
def test_parameter_counts(without: Any) -> None:
    with torch.device("meta"):
        model = CTSM(CTSMOptions(without=without), 23_712)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters_of(without)


@pytest.mark.parametrize(
    ("without", "removed"),
    [
        ("TEE", {"trait_encoder"}),
        ("SEE", {"state_encoder", "label_map", "word_map"}),
        ("EGM", {"teacher_fusion", "teacher_head"}),
        ("CCL", {"reply_encoder", "emotion_view"}),
        ("EGM & CCL", {"teacher_fusion", "teacher_head", "reply_encoder", "emotion_view"}),
    ],
)
def test_exactly_these_parts_are_removed(build: SimpleNamespace, without: Any, removed: set[str]) -> None:
    full, rest = (
        {name for name, _ in build.model(options).named_children()}
        for options in (build.options(), build.options(without=without))
    )
    assert full - rest == removed
    assert rest <= full


def written_out(build: SimpleNamespace, model: CTSM, example: Any) -> SimpleNamespace:
    """What is left of the equations for one example."""
    reference, without = build.reference(model), model.options.without
    words = reference.embed(example.context) + reference.embed(example.speakers)
    e_c = words + reference.positions(*words.shape)
    h_c = reference.encoder("context_encoder", e_c, positions=False)
    knowledge = [reference.encoder("cognitive_encoder", reference.embed(row))[0] for row in example.cognitive]
    knowledge.append(reference.encoder("affective_encoder", reference.embed(example.reaction)).mean(axis=0))
    known = [word if word < build.vocabulary else 0 for word in example.context]
    features, condensed = reference.values["word_features"][known], reference.linear("condense", h_c)
    before, after = [], []
    if without != "TEE":
        before.append(np.concatenate([features[:, :4], condensed], axis=1))
        after.append(reference.encoder("trait_encoder", before[-1]))
    if without != "SEE":
        before.append(np.concatenate([reference.cosines(e_c), features[:, 3:4], condensed], axis=1))
        after.append(reference.encoder("state_encoder", before[-1]))
    student = reference.fusion("student_fusion", h_c, knowledge)
    guided = "EGM" not in without
    intensity = features[:, 4] if guided else np.zeros(len(features))
    hidden, _ = reference.decoder([SOS, *example.target[:-1]], student)
    found = SimpleNamespace(emotion=np.concatenate(after, axis=1), student=student, hidden=hidden, teacher_logits=None)
    found.logits = reference.head("student_head", np.concatenate([student, *after], axis=1), intensity)
    if guided:
        teacher = reference.fusion("teacher_fusion", h_c, knowledge)
        found.teacher_logits = reference.head("teacher_head", np.concatenate([teacher, *before], axis=1), intensity)
    if "CCL" not in without:
        found.reply = reference.encoder("reply_encoder", reference.embed(example.target)).mean(axis=0)
        found.view = reference.linear("emotion_view", found.emotion.mean(axis=0)[None])[0]
    return found


def info_nce(first: list[Array], second: list[Array]) -> float:
    """NT-Xent over both views, anchor by anchor."""
    views = [view / np.sqrt(view @ view) for view in first + second]
    count, total = len(first), 0.0
    for a, anchor in enumerate(views):
        others = [math.exp(anchor @ view / 0.07) for b, view in enumerate(views) if b != a]
        total -= anchor @ views[(a + count) % (2 * count)] / 0.07 - math.log(sum(others))
    return total / (2 * count)


@pytest.mark.parametrize("without", WITHOUT)
def test_what_is_left_is_the_equations(build: SimpleNamespace, without: Any) -> None:
    model = build.model(build.options(without=without))
    examples = [build.example(seed, words=3 + seed, target_words=2 + seed) for seed in range(4)]
    batch = build.batch(examples)
    found = [written_out(build, model, example) for example in examples]
    logits = model.encode(batch).emotion_logits
    assert logits is not None
    np.testing.assert_allclose(logits.detach().numpy(), [one.logits for one in found], atol=1e-6)

    terms = {name: float(term.detach()) for name, term in model.loss(batch).terms.items()}
    logs = [np.log(build.reference.softmax(one.logits)) for one in found]
    golds = [example.emotion for example in examples]
    if "EGM" in without:
        expected = {"emotion": -np.mean([log[gold] for log, gold in zip(logs, golds, strict=True)])}
    else:
        soft = [build.reference.softmax(one.teacher_logits) for one in found]
        expected = {
            "teacher": -np.mean([math.log(share[gold]) for share, gold in zip(soft, golds, strict=True)]),
            "student": -np.mean([share @ log for share, log in zip(soft, logs, strict=True)]),
        }
    if "CCL" not in without:
        reply, view = [one.reply for one in found], [one.view for one in found]
        context, generated = [one.student.mean(axis=0) for one in found], [one.hidden.mean(axis=0) for one in found]
        pairs = [(reply, view), (context, generated), (context, reply), (view, generated), (reply, generated)]
        expected["contrastive"] = float(np.mean([info_nce(a, b) for a, b in pairs]))
    assert terms.keys() == expected.keys() | {"generation", "diversity"}
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("without", WITHOUT)
def test_total_and_gradients(build: SimpleNamespace, without: Any) -> None:
    """Every remaining parameter learns, and the total is the weighted sum of the terms that are left."""
    weights = {"emotion_weight": 0.5, "generation_weight": 2.0, "contrastive_weight": 0.25, "diversity_weight": 3.0}
    model = build.model(build.options(without=without, **weights)).train()
    losses = model.loss(build.batch([build.example(seed, words=3 + seed) for seed in range(4)]))
    losses.total.backward()
    factors = {"generation": 2.0, "contrastive": 0.25, "diversity": 3.0}
    total = sum(factors.get(name, 0.5) * float(term.detach()) for name, term in losses.terms.items())
    assert float(losses.total.detach()) == pytest.approx(total, rel=1e-12)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_without_state_emotions_there_is_no_map(build: SimpleNamespace) -> None:
    batch = build.batch([build.example(1)])
    assert build.model(build.options(without="SEE")).encode(batch, perceive=True).perception is None
    assert build.model(build.options(without="TEE")).encode(batch, perceive=True).perception is not None


def test_unguided_attention_weighs_every_word_alike(build: SimpleNamespace) -> None:
    """Other intensities change nothing where there is no guidance."""
    for without, same in (("EGM", True), ("", False)):
        model, batch = build.model(build.options(without=without)), build.batch([build.example(1, words=8)])
        before = model.encode(batch).emotion_logits
        with torch.no_grad():
            model.word_features[:, 4] = torch.rand(len(model.word_features), dtype=torch.float64)
        after = model.encode(batch).emotion_logits
        assert before is not None and after is not None
        assert torch.allclose(before, after) is same
