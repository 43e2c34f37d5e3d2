"""KEMP against NumPy loops over one unpadded example: graph, emotional signal, emotional cross-attention, losses."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ctsm.config import TrainingOptions
from ctsm.corpus.batches import Batch
from ctsm.models.kemp import KEMP, ContextGraph, KEMPOptions, graph_edges

Array = NDArray[np.float64]
PAD, EOS, CLS = 1, 2, 6
ROOT = Path(__file__).parents[2]
# for each example the concepts and the context place of the word that each belongs to
CONCEPTS = [[(20, 4), (21, 1), (22, 4)], [(25, 2)], [], [], [(30, 7), (31, 7)]]


def make_kemp(build: SimpleNamespace, seed: int = 0, **changes: Any) -> KEMP:
    """A small model in evaluation mode whose norms and biases are neither 1 nor 0."""
    return build.system(KEMP, KEMPOptions(**{"size": 12, "depth": 8, "filter_size": 5, **changes}), seed)


def make_examples(build: SimpleNamespace) -> list[Any]:
    """Long, with a word outside the vocabulary, short, CLS alone, and an empty gold reply (EOS only)."""
    examples = [
        build.example(1, words=9, target_words=6),
        build.example(2, words=5, unknown=2),
        build.example(3, words=2, target_words=3, unknown=0),
        build.example(4, words=0, target_words=2, unknown=0),
        build.example(5, words=7, target_words=0, unknown=0),
    ]
    # a concept is said, too; the copy of a word that stands in context and concepts adds up
    examples[0] = replace(examples[0], target=[21, *examples[0].target])
    examples[4].context[3] = 31
    return examples


def concepts_of(examples: list[Any]) -> list[list[tuple[int, int]]]:
    """(concept, word it belongs to) of each example."""
    return [
        [(concept, example.context[place]) for concept, place in found]
        for example, found in zip(examples, CONCEPTS, strict=True)
    ]


def make_batch(build: SimpleNamespace, examples: list[Any], padding: int = 0) -> Batch:
    rows = concepts_of(examples)
    width = max(len(row) for row in rows) + padding
    columns = [[[pair[part] for pair in row] + [PAD] * (width - len(row)) for row in rows] for part in (0, 1)]
    concepts, words = (torch.tensor(column) for column in columns)
    return replace(build.batch(examples, padding), concepts=concepts, concept_words=words)


def neighbours(context: list[int], concept_words: list[int]) -> list[set[int]]:
    """The paper's edges: CLS and everything, a word and the one before it, a word and its concepts."""
    length = len(context)
    found: list[set[int]] = []
    for place, word in enumerate(context):
        if place == 0:
            found.append(set(range(length + len(concept_words))))
            continue
        own = {length + number for number, other in enumerate(concept_words) if other == word}
        found.append({0, place - 1} | own)
    return found


def read_graph(reference: Any, vertices: Array, edges: list[set[int]], open_graph: bool) -> Array:
    """The context's words after reading their neighbours."""
    queries, keys, values = (reference.linear(f"graph.{name}", vertices) for name in ("query", "key", "value"))
    rows = []
    for place, seen in enumerate(edges):
        scores = (keys @ queries[place]) / math.sqrt(vertices.shape[1])
        if open_graph:
            scores = np.array([score if other in seen else 1e-24 for other, score in enumerate(scores)])
            weights = reference.softmax(scores)
        else:
            chosen = sorted(seen)
            weights = np.zeros(len(vertices))
            weights[chosen] = reference.softmax(scores[chosen])
        rows.append(
            vertices[place] + reference.linear("graph.output", sum(w * v for w, v in zip(weights, values, strict=True)))
        )
    return np.asarray(reference.norm("graph.norm", np.array(rows)))


def decode(reference: Any, words: list[int], memory: Array, start: Array, signal: Array) -> tuple[Array, Array]:
    """States and copy scores; each cross-attention is joined with the signal."""
    x = reference.linear("decoder.projection", np.concatenate([start[None], reference.embed(words)]))
    x = x + reference.positions(*x.shape)
    scores = np.zeros(0)
    for index in range(reference.options.layers):
        layer = f"decoder.layers.{index}"
        normed = reference.norm(f"{layer}.self_norm", x)
        x = x + reference.attend(f"{layer}.self_attention", normed, normed, causal=True)[0]
        mixed, scores = reference.attend(f"{layer}.cross_attention", reference.norm(f"{layer}.cross_norm", x), memory)
        x = x + np.array([reference.linear(f"{layer}.join", np.concatenate([row, signal])) for row in mixed])
        fed = reference.norm(f"{layer}.feed_forward_norm", x)
        x = x + reference.feed_forward(f"{layer}.feed_forward", fed, (-2, -1, 0))
    return reference.norm("decoder.norm", x), scores


def run(build: SimpleNamespace, model: KEMP, example: Any, concepts: list[tuple[int, int]]) -> SimpleNamespace:
    """The model for one example: no batch, no padding."""
    reference = build.reference(model)
    options, ids = model.options, [*example.context, *(concept for concept, _ in concepts)]
    state = reference.values["concept_state"] * math.sqrt(options.size)
    vertices = np.concatenate([
        reference.embed(example.context) + reference.embed(example.speakers),
        reference.embed([concept for concept, _ in concepts]) + state,
    ])  # fmt: skip
    edges = neighbours(example.context, [word for _, word in concepts])
    words = read_graph(reference, vertices, edges, options.open_graph)
    memory = reference.encoder("encoder", np.concatenate([words, vertices[len(words) :]]))
    table = reference.values["intensity"]
    intensity = reference.softmax(np.array([table[word] if word < len(table) else 0.0 for word in ids]))
    signal = sum(share * row for share, row in zip(intensity, memory, strict=True))
    logits = reference.linear("emotion", signal)
    hidden, scores = decode(reference, example.target[:-1], memory, reference.linear("emotion_start", logits), signal)
    attention = np.array([reference.softmax(row) for row in scores])
    source = replace(example, context=ids)
    copied = attention if options.open_graph else scores
    return SimpleNamespace(
        words=words, memory=memory, intensity=intensity, signal=signal, logits=logits, hidden=hidden, scores=scores,
        attention=attention,
        mixture=np.array([reference.mixture(source, h, a) for h, a in zip(hidden, copied, strict=True)]),
    )  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[{}, {"layers": 2, "heads": 4}, {"open_graph": True}],
    ids=["one layer", "two layers", "open graph"],
)
def ran(request: pytest.FixtureRequest, build: SimpleNamespace) -> SimpleNamespace:
    """A loss without dropout and the reference of each example."""
    model = make_kemp(build, seed=1, **request.param)
    examples = make_examples(build)
    batch = make_batch(build, examples, padding=2)
    expected = [run(build, model, *pair) for pair in zip(examples, concepts_of(examples), strict=True)]
    return SimpleNamespace(model=model, examples=examples, batch=batch, losses=model.loss(batch), expected=expected)


def close(actual: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-5, atol=2e-5)


def test_memory_is_the_encoded_graph(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    for b, (example, pairs) in enumerate(zip(ran.examples, concepts_of(ran.examples), strict=True)):
        close(context.memory[b][context.real[b]], ran.expected[b].memory)
        ids = [*example.context, *(concept for concept, _ in pairs)]
        assert context.source.ids[b][context.real[b]].tolist() == ids
        assert context.source.copyable[b][context.real[b]].tolist() == [word != CLS for word in ids]
        assert not bool(context.source.copyable[b][~context.real[b]].any())


def test_the_emotion_is_read_from_the_signal(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    for b, expected in enumerate(ran.expected):
        close(context.intensity[b][context.real[b]], expected.intensity)
        close(context.signal[b], expected.signal)
        close(context.emotion_logits[b], expected.logits)


def test_the_decoder_joins_the_signal_in_every_layer(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    hidden_BTD, scores_BTN = ran.model.decoder(
        torch.cat([context.start[:, None], ran.model._look_up(ran.batch.target[:, :-1])[0]], dim=1),
        ran.model.start_decoding(context),
    )
    for b, expected in enumerate(ran.expected):
        close(hidden_BTD[b][: len(expected.hidden)], expected.hidden)
        close(scores_BTN[b][: len(expected.hidden)][:, context.real[b]], expected.scores)


def test_scores_are_those_of_the_mixture(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(math.log(row[word]) for word, row in zip(example.target, expected.mixture, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)


def test_the_losses(ran: SimpleNamespace, build: SimpleNamespace) -> None:
    """The smoothed loss and the emotion loss are sums over the batch, the attention loss is a mean over vertices."""
    nll, smoothed, emotion, squares = [], [], [], []
    for example, expected in zip(ran.examples, ran.expected, strict=True):
        for word, row in zip(example.target, expected.mixture, strict=True):
            others = [other for other in range(build.vocabulary) if other not in (word, PAD)]
            nll.append(-math.log(row[word]))
            smoothed.append(-0.9 * math.log(row[word]) - 0.1 * sum(math.log(row[o]) for o in others) / len(others))
        emotion.append(math.log(np.exp(expected.logits).sum()) - expected.logits[example.emotion])
        squares.extend((expected.attention.mean(axis=0) - expected.intensity) ** 2)
    wanted = {"generation": np.mean(nll), "emotion": np.mean(emotion), "attention": np.mean(squares)}
    assert {name: term.item() for name, term in ran.losses.terms.items()} == pytest.approx(wanted, rel=1e-5)
    total = sum(smoothed) + sum(emotion) + 0.1 * np.mean(squares)
    assert ran.losses.total.item() == pytest.approx(total, rel=1e-6)


@given(
    st.lists(st.integers(7, 12), max_size=7),
    st.lists(st.tuples(st.integers(20, 30), st.integers(0, 6)), max_size=4),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_edges_follow_the_rules(words: list[int], found: list[tuple[int, int]], more: int, extra: int) -> None:
    context = [CLS, *words]
    pairs = [(concept, words[place]) for concept, place in found if place < len(words)]
    ids = torch.tensor([context + [PAD] * more])
    concepts = torch.tensor([[concept for concept, _ in pairs] + [PAD] * (extra + 1)])
    owners = torch.tensor([[word for _, word in pairs] + [PAD] * (extra + 1)])
    edges = graph_edges(ids, concepts, owners)[0]
    assert edges.shape == (len(context) + more, len(context) + more + len(pairs) + extra + 1)
    for place, seen in enumerate(neighbours(context, [word for _, word in pairs])):
        expected = {other if other < len(context) else other + more for other in seen}
        assert set(edges[place].nonzero().flatten().tolist()) == expected
    assert edges.any(dim=1).all(), "every position can attend"


@pytest.mark.parametrize("open_graph", [False, True])
def test_the_graph_mask_is_a_real_mask(open_graph: bool) -> None:
    """What is no neighbour has no influence; the published mask lets everything through."""
    torch.manual_seed(0)
    graph = ContextGraph(8, dropout=0.0, open_graph=open_graph).double()
    context = torch.tensor([[CLS, 10, 11, 12, PAD]])
    edges = graph_edges(context, torch.tensor([[20, 21]]), torch.tensor([[11, 12]]))
    real = torch.tensor([[True] * 4 + [False] + [True] * 2])
    vertices = torch.randn(1, 7, 8, dtype=torch.float64, requires_grad=True)
    read = graph(vertices, edges, real)
    for place in range(1, 4):
        (slope,) = torch.autograd.grad(read[0, place].square().sum(), vertices, retain_graph=True)
        reached = set(slope[0].abs().sum(dim=-1).nonzero().flatten().tolist())
        allowed = {1: {0, 1}, 2: {0, 1, 2, 5}, 3: {0, 2, 3, 6}}[place]
        assert reached == ({0, 1, 2, 3, 5, 6} if open_graph else allowed), "itself only through the residual"


def test_softmax_of_a_softmax_copies_almost_evenly(build: SimpleNamespace) -> None:
    """Why the published pointer hardly points: its scores lie in [0, 1]."""
    model = make_kemp(build, open_graph=True)
    batch = make_batch(build, make_examples(build))
    context = model.encode(batch)
    step = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
    copy = torch.softmax(step.copy_scores[0][:, context.source.copyable[0]], dim=-1)
    assert (copy.amax(dim=-1) / copy.amin(dim=-1)).max() <= math.e


def test_encoding_reads_neither_label_nor_reply(build: SimpleNamespace) -> None:
    model, batch = make_kemp(build), make_batch(build, make_examples(build))
    nothing: Any = None
    silent = replace(batch, emotion=nothing, target=nothing, target_positions=nothing)
    assert torch.equal(model.encode(batch).memory, model.encode(silent).memory)


def test_dropout_is_in_the_graph_and_in_training_only(build: SimpleNamespace) -> None:
    model, batch = make_kemp(build, graph_dropout=0.5), make_batch(build, make_examples(build))
    assert torch.equal(model.encode(batch).memory, model.encode(batch).memory)
    model.train()
    assert not torch.equal(model.encode(batch).memory, model.encode(batch).memory)
    without = make_kemp(build, graph_dropout=0.0).train()
    assert torch.equal(without.encode(batch).memory, without.encode(batch).memory)


def test_gradients_reach_every_parameter(build: SimpleNamespace) -> None:
    model = make_kemp(build).train()
    model.loss(make_batch(build, make_examples(build))).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_install_takes_vectors_and_intensities(build: SimpleNamespace) -> None:
    tables = build.tables(12)
    model = KEMP(KEMPOptions(size=12, depth=8), build.vocabulary)
    model.install(tables)
    assert torch.equal(model.intensity, tables.intensity)
    others = [word for word in range(build.vocabulary) if word != PAD]
    assert torch.equal(model.embedding.weight[others], tables.vectors[others])
    assert not model.embedding.weight[PAD].any()


def test_parameters_of_the_page(build: SimpleNamespace) -> None:
    printed, section = build.printed("kemp")
    counted = build.counted(
        KEMP, KEMPOptions(), lambda name: "gate" if name.startswith("generator.gate") else name.split(".")[0]
    )
    for name in ("embedding", "generator"):
        del counted[name]
    assert printed == counted
    total = sum(counted.values())
    assert f"{total:,}" in section
    # the published code without embedding and output layer, and what of it is not here
    assert total == 15_691_617 - 23_713 * 601 - 2 * 600 * 300 - 300 * 32 - 3 + 300


def test_the_configuration_lists_every_setting() -> None:
    written = yaml.safe_load((ROOT / "configs" / "kemp.yaml").read_text(encoding="utf-8"))
    assert (written["model"], written["variant"]) == ("kemp", "")
    assert list(written["options"]) == [field.name for field in fields(KEMPOptions)]
    assert list(written["training"]) == [field.name for field in fields(TrainingOptions)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "options.size is 0; it must be at least 1"),
        ({"heads": 3}, r"options.depth \(40\) must be a multiple of options.heads \(3\)"),
        ({"graph_dropout": 1.0}, "options.graph_dropout is 1.0; it must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, "options.label_smoothing is -0.1; it must be at least 0 and below 1"),
        ({"attention_weight": -1.0}, "options.attention_weight is -1.0; it must not be negative"),
    ],
)
def test_senseless_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KEMPOptions(**changes)
