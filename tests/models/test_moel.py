"""MoEL against NumPy loops over one unpadded example and one listener after the other, its gate and its schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import ctsm.models.moel
from ctsm.models.moel import Gate, ListenerLinear, MoEL, MoELOptions

Array = NDArray[np.float64]
SOS = 3
ALWAYS, NEVER = {"oracle_steps": 10**9}, {"oracle_steps": 1}  # the oracle in training, at step 10**6
STEP = 10**6
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def make_moel(build: SimpleNamespace, seed: int = 0, **changes: Any) -> MoEL:
    """A small model in evaluation mode whose norms and biases are neither 1 nor 0, nor the same for each listener."""
    small = {"size": 12, "depth": 8, "filter_size": 5}
    model: MoEL = build.system(MoEL, MoELOptions(**{**small, **changes}), seed, torch.float32)
    for name, parameter in model.decoder.listeners.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, mean=1.0 if "scale" in name else 0.1, std=0.3)
    return model.double()


def make_examples(build: SimpleNamespace) -> list[Any]:
    return [
        replace(build.example(1, words=9, unknown=0), target=[9, 11, 9, 40, 17, 8, 30, 2]),
        replace(build.example(2, words=5, unknown=2), target=[11, 12, 2]),
        replace(build.example(3, words=0), target=[20, 2]),
        build.example(4, words=7, target_words=0),
    ]


def own_values(reference: Any, listener: int) -> str:
    """Give a listener's slices of the stacked tensors the names of a decoder layer of its own; returns its prefix."""
    values, prefix, stacked = reference.values, f"listener{listener}", "decoder.listeners"
    for norm in ("self_norm", "cross_norm", "feed_forward_norm"):
        values[f"{prefix}.{norm}.weight"] = values[f"{stacked}.{norm}.scale.weight"][listener]
        values[f"{prefix}.{norm}.bias"] = values[f"{stacked}.{norm}.shift.weight"][listener]
    for attention in ("self_attention", "cross_attention"):
        for part in ("query", "key", "value", "output"):
            name = f"{attention}.{part}.weight"
            values[f"{prefix}.{name}"] = values[f"{stacked}.{name}"][listener]
    widen = values[f"{stacked}.widen.weight"][listener]  # [3 F, D], tap by tap
    narrow = values[f"{stacked}.narrow.weight"][listener]  # [D, 3 F]
    values[f"{prefix}.feed_forward.widen.weight"] = np.stack(np.split(widen, 3, axis=0), axis=2)
    values[f"{prefix}.feed_forward.narrow.weight"] = np.stack(np.split(narrow, 3, axis=1), axis=2)
    for part in ("widen", "narrow"):
        values[f"{prefix}.feed_forward.{part}.bias"] = values[f"{stacked}.{part}_bias.weight"][listener]
    return prefix


def layer(reference: Any, name: str, x: Array, memory: Array) -> Array:
    """One decoder layer over a whole sequence."""
    normed = reference.norm(f"{name}.self_norm", x)
    x = x + reference.attend(f"{name}.self_attention", normed, normed, causal=True)[0]
    x = x + reference.attend(f"{name}.cross_attention", reference.norm(f"{name}.cross_norm", x), memory)[0]
    fed = reference.norm(f"{name}.feed_forward_norm", x)
    return x + reference.feed_forward(f"{name}.feed_forward", fed, (-2, -1, 0))


def run(build: SimpleNamespace, model: MoEL, example: Any, weights: dict[int, float] | None = None) -> SimpleNamespace:
    """The paper's model for one example; `weights` of listeners override those of its own gate."""
    reference = build.reference(model)
    words = reference.embed(example.context) + reference.embed(example.speakers)
    memory = reference.encoder("emotion_tracker", words)
    logits = reference.linear("listener_keys", memory[0])
    if weights is None:
        best = np.argsort(-logits)[: model.options.active_listeners]
        weights = dict(zip(best.tolist(), reference.softmax(logits[best]), strict=True))
    x = reference.linear("decoder.projection", reference.embed([SOS, *example.target[:-1]]))
    x = x + reference.positions(*x.shape)
    mixed = layer(reference, "decoder.shared", x, memory)
    for listener, weight in weights.items():
        mixed = mixed + weight * layer(reference, own_values(reference, listener), x, memory)
    for index in range(model.options.layers):
        mixed = layer(reference, f"decoder.meta.{index}", mixed, memory)
    hidden = reference.norm("decoder.norm", mixed)
    probabilities = np.array([reference.softmax(reference.linear("generator.vocabulary", row)) for row in hidden])
    return SimpleNamespace(memory=memory, logits=logits, weights=weights, hidden=hidden, words=probabilities)


@pytest.mark.parametrize("changes", [{}, {"layers": 2, "heads": 4, "active_listeners": 2}, {"active_listeners": 32}])
def test_states_emotion_gate_and_scores(build: SimpleNamespace, changes: dict[str, Any]) -> None:
    model, examples = make_moel(build, seed=1, **changes), make_examples(build)
    batch = build.batch(examples, padding=2)
    with torch.no_grad():
        context = model.encode(batch)
        step = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
        scores = model.score(batch)
    for b, example in enumerate(examples):
        expected = run(build, model, example)
        np.testing.assert_allclose(scores.emotion_logits[b], expected.logits, **CLOSE)
        gate = dict(zip(context.gate.listeners[b].tolist(), context.gate.weights[b].tolist(), strict=True))
        assert gate == pytest.approx(expected.weights, rel=1e-5)
        np.testing.assert_allclose(step.hidden[b, : len(example.target)], expected.hidden, **CLOSE)
        nll = -sum(math.log(row[word]) for row, word in zip(expected.words, example.target, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize(
    ("oracle", "training"), [(ALWAYS, True), (NEVER, True), (ALWAYS, False)], ids=["oracle", "gate", "evaluation mode"]
)
def test_loss_with_the_gold_emotions_listener_or_the_gates(
    build: SimpleNamespace, oracle: dict[str, int], training: bool
) -> None:
    model = make_moel(build, seed=2, emotion_weight=0.5, label_smoothing=0.2, **oracle).train(training)
    model.step = STEP
    examples = make_examples(build)
    losses = model.loss(build.batch(examples, padding=1))
    by_gold = training and oracle is ALWAYS
    expected = [run(build, model, example, {example.emotion: 1.0} if by_gold else None) for example in examples]
    reference = build.reference(model)
    pairs = list(zip(examples, expected, strict=True))
    nll = [-math.log(row[word]) for one, e in pairs for row, word in zip(e.words, one.target, strict=True)]
    emotion = [-math.log(reference.softmax(e.logits)[one.emotion]) for one, e in pairs]
    wanted = {"generation": sum(nll) / len(nll), "emotion": sum(emotion) / len(emotion)}
    assert {name: term.item() for name, term in losses.terms.items()} == pytest.approx(wanted, rel=1e-5)
    total = sum(reference.smoothed_loss(e.words, one.target, 0.2) for one, e in pairs) + 0.5 * wanted["emotion"]
    assert losses.total.item() == pytest.approx(total, rel=1e-5)


def test_the_oracle_becomes_rarer_with_the_steps(build: SimpleNamespace) -> None:
    """From 1 towards 0.0001, by a factor e in 10,000 steps; one draw decides for the whole batch."""
    model = make_moel(build)
    emotion = torch.tensor([4, 31, 9])
    gate = Gate.by_scores(torch.randn(3, 32), 5)
    torch.manual_seed(0)
    for step, expected in ((0, 1.0), (1_000, 0.9048), (10_000, 0.3679), (14_000, 0.2467), (100_000, 0.0001454)):
        model.step = step
        assert model.oracle_probability() == pytest.approx(0.0001 + 0.9999 * math.exp(-step / 10_000))
        assert model.oracle_probability() == pytest.approx(expected, rel=1e-3)
        drawn = [model._with_oracle(gate, emotion) for _ in range(300)]
        oracles = [one for one in drawn if one.weights[:, 0].eq(1).all()]
        others = [one for one in drawn if torch.equal(one.listeners, gate.listeners)]
        assert len(oracles) + len(others) == len(drawn)
        assert all(one.listeners[:, 0].tolist() == emotion.tolist() for one in oracles)
        spread = math.sqrt(300 * expected * (1 - min(expected, 0.999)))
        assert abs(len(oracles) - 300 * expected) <= 4 * spread + 1


def test_gates() -> None:
    scores = torch.tensor([[0.0] * 32, [*range(32)]], dtype=torch.float64)
    gate = Gate.by_scores(scores, 3)
    assert gate.listeners.tolist() == [[0, 1, 2], [31, 30, 29]]  # of equals the first
    assert gate.weights[0].tolist() == pytest.approx([1 / 3] * 3)
    total = 1 + math.exp(-1) + math.exp(-2)
    assert gate.weights[1].tolist() == pytest.approx([1 / total, math.exp(-1) / total, math.exp(-2) / total])
    gold = Gate.by_emotion(torch.tensor([0, 30]), 5)
    assert gold.weights.tolist() == [[1, 0, 0, 0, 0]] * 2
    assert gold.listeners[:, 0].tolist() == [0, 30]
    assert all(len(set(row)) == 5 for row in gold.listeners.tolist())
    assert gate.rows(torch.tensor([1, 1])).listeners.tolist() == [[31, 30, 29]] * 2


def test_only_the_listeners_of_the_gate_learn(build: SimpleNamespace) -> None:
    model = make_moel(build, active_listeners=2, **NEVER).train()
    model.step = STEP
    batch = build.batch(make_examples(build))
    active = set(model.encode(batch).gate.listeners.flatten().tolist())
    assert 0 < len(active) < 32
    model.loss(batch).total.backward()
    for name, parameter in model.decoder.listeners.named_parameters():
        learning = {listener for listener in range(32) if parameter.grad[listener].any()}
        assert learning == active, name


def test_the_gold_gate_is_for_evaluation_and_off_by_default(build: SimpleNamespace) -> None:
    """The published code's fault: the label chooses the listener; the emotion's own logits do not change."""
    clean, faulty = make_moel(build, seed=1, **NEVER), make_moel(build, seed=1, gold_gate=True, **NEVER)
    examples = make_examples(build)
    batch = build.batch(examples, padding=1)
    with torch.no_grad():
        first, second = clean.score(batch), faulty.score(batch)
    assert not MoELOptions().gold_gate
    assert torch.equal(first.emotion_logits, second.emotion_logits)
    for b, example in enumerate(examples):
        words = run(build, faulty, example, {example.emotion: 1.0}).words
        nll = -sum(math.log(row[word]) for row, word in zip(words, example.target, strict=True))
        assert second.nll[b].item() == pytest.approx(nll, rel=1e-5)
        assert first.nll[b].item() != pytest.approx(nll, rel=1e-5)
    totals = []
    for model in (clean, faulty):
        model.train().step = STEP
        totals.append(model.loss(batch).total.item())
    assert totals[0] == totals[1]


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (2, 7), (9, 1), (9, 4), (9, 5)])
def test_listeners_maps_are_applied_one_by_one(rows: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way they are computed, values and gradients are those of a loop."""
    torch.manual_seed(rows)
    linear = ListenerLinear(6, 3, fans=9).double()
    linear.initialise()
    x = torch.randn(rows, 4, steps, 6, dtype=torch.float64, requires_grad=True)
    listeners = torch.stack([torch.randperm(32)[:4] for _ in range(rows)])
    upstream = torch.randn(rows, 4, steps, 3, dtype=torch.float64)
    expected = torch.stack(
        [torch.stack([x[b, k] @ linear.weight[listeners[b, k]].T for k in range(4)]) for b in range(rows)]
    )
    wanted = torch.autograd.grad((expected * upstream).sum(), (x, linear.weight))
    for few in (0, ctsm.models.moel.FEW_POSITIONS, 99):
        monkeypatch.setattr(ctsm.models.moel, "FEW_POSITIONS", few)
        mapped = linear(x, listeners)
        torch.testing.assert_close(mapped, expected)
        found = torch.autograd.grad((mapped * upstream).sum(), (x, linear.weight))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_each_listener_starts_like_a_layer_of_its_own() -> None:
    """Xavier's bound by its own widths, also after the model's general initialisation; norms 1 and 0, biases 0."""
    torch.manual_seed(0)
    listeners = MoEL(MoELOptions(), 50).decoder.listeners
    widths = {"output": 340, "query": 340, "key": 340, "value": 340, "widen": 3 * 350, "narrow": 3 * 350}
    for name, parameter in listeners.named_parameters():
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if kind in widths:
            bound = math.sqrt(6 / widths[kind])
            largest = parameter.detach().abs().flatten(1).amax(dim=1)
            assert ((largest > 0.99 * bound) & (largest <= bound)).all(), name
            assert parameter.detach().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        else:
            assert (parameter == (1.0 if kind == "scale" else 0.0)).all(), name


def test_parameters_without_embedding_and_output_layer() -> None:
    """The published code's 6,746,951 include a copy gate (301) and an embedding (64 x 300) that it never uses."""
    with torch.device("meta"):
        model = MoEL(MoELOptions(), 23_713)
    assert sum(parameter.numel() for parameter in model.parameters()) - 23_713 * 601 == 6_746_951 - 301 - 19_200


def test_parameters_of_the_models_page(build: SimpleNamespace) -> None:
    printed, section = build.printed("moel")
    counted = build.counted(
        MoEL, MoELOptions(), lambda name: ".".join(name.split(".")[: 2 if name.startswith("decoder") else 1])
    )
    assert printed == {name: n for name, n in counted.items() if name not in ("embedding", "generator")}
    assert f"| {sum(printed.values()):,} |" in section


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"active_listeners": 0}, "options.active_listeners is 0"),
        ({"active_listeners": 33}, "options.active_listeners is 33; there are 32 listeners"),
        ({"oracle_steps": 0}, "options.oracle_steps is 0"),
        ({"depth": 9}, "options.depth (9) must be a multiple of options.heads (2)"),
        ({"label_smoothing": -0.1}, "options.label_smoothing is -0.1"),
        ({"emotion_weight": -1.0}, "options.emotion_weight is -1.0"),
        ({"gold_gate": 1}, "options.gold_gate is 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        MoELOptions(**changes)
    assert message in str(refused.value)
