"""Graph attention against loops over pairs of vertices, and the edges of both graphs against rules written out."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctsm.nn.graph import GraphAttention, GraphLayer, RelationAttention, cognition_edges, concept_edges

Array = NDArray[np.float64]
PAD = 1
SIZE, HEADS, KINDS = 6, 2, 4


def randomise(module: nn.Module) -> Any:
    """Double precision, no value 0 or 1 by initialisation."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.double().eval()


def values_of(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def linear(values: dict[str, Array], name: str, x: Array) -> Array:
    return values[f"{name}.weight"] @ x + values.get(f"{name}.bias", 0.0)


def attend(values: dict[str, Array], prefix: str, x: Array, edges: Array, kinds: bool) -> Array:
    """One graph [N, D]: each vertex over its neighbours, one head at a time, one pair at a time."""
    width = SIZE // HEADS
    rows = []
    for i in range(len(x)):
        joined = np.zeros(SIZE)
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            neighbours = [j for j in range(len(x)) if edges[i, j]]
            scores = []
            for j in neighbours:
                query = linear(values, f"{prefix}query", x[i])[part] / math.sqrt(width)
                key = linear(values, f"{prefix}key", x[j])[part]
                if kinds:
                    vector = values[f"{prefix}kinds"][edges[i, j] - 1] * math.sqrt(SIZE)
                    both = values[f"{prefix}kind_map.weight"] @ vector  # for the query, then for the key
                    query, key = query + both[:SIZE][part], key + both[SIZE:][part]
                scores.append(float(query @ key))
            powers = [math.exp(score - max(scores)) for score in scores]
            for j, power in zip(neighbours, powers, strict=True):
                joined[part] += power / sum(powers) * linear(values, f"{prefix}value", x[j])[part]
        rows.append(linear(values, f"{prefix}output", joined))
    return np.array(rows)


def random_edges(seed: int, batch: int, count: int) -> Tensor:
    """Kinds 0 ... KINDS, not symmetric, with a loop at every vertex."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, KINDS + 1, (batch, count, count), generator=generator)
    return edges.masked_fill(torch.eye(count, dtype=torch.bool), 1)


@given(seed=st.integers(0, 99), count=st.integers(1, 6))
def test_attention_is_along_edges(seed: int, count: int) -> None:
    attention = randomise(GraphAttention(SIZE, HEADS, dropout=0.5))
    x, edges = torch.randn(2, count, SIZE).double(), random_edges(seed, 2, count)
    found = attention(x, edges > 0).detach().numpy()
    for b in range(2):
        expected = attend(values_of(attention), "", x[b].numpy(), edges[b].numpy(), kinds=False)
        np.testing.assert_allclose(found[b], expected, atol=1e-12)


@given(seed=st.integers(0, 99), count=st.integers(1, 6))
def test_relation_attention_adds_the_edges_vectors_to_queries_and_keys(seed: int, count: int) -> None:
    attention = randomise(RelationAttention(SIZE, HEADS, dropout=0.5, kinds=KINDS))
    x, edges = torch.randn(2, count, SIZE).double(), random_edges(seed, 2, count)
    found = attention(x, edges).detach().numpy()
    for b in range(2):
        expected = attend(values_of(attention), "", x[b].numpy(), edges[b].numpy(), kinds=True)
        np.testing.assert_allclose(found[b], expected, atol=1e-12)


def test_relation_attention_makes_nothing_larger_than_its_scores() -> None:
    """[B, N, N, 2D] would be 10 * 10 * 12 numbers here, the scores are 10 * 10 * 2."""
    largest = 0

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    attention = randomise(RelationAttention(SIZE, HEADS, dropout=0.0, kinds=KINDS))
    x, edges = torch.randn(1, 10, SIZE).double(), random_edges(1, 1, 10)
    with Watch():
        attention(x, edges)
    assert 0 < largest <= 10 * 10 * HEADS


def test_what_is_not_joined_is_not_seen() -> None:
    attention = randomise(RelationAttention(SIZE, HEADS, dropout=0.0, kinds=KINDS))
    edges = torch.tensor([[[1, 2, 0], [3, 1, 0], [4, 0, 1]]])
    x = torch.randn(1, 3, SIZE).double()
    changed = x.clone()
    changed[0, 2] += 5.0
    first, second = attention(x, edges), attention(changed, edges)
    assert torch.equal(first[0, :2], second[0, :2])
    assert not torch.allclose(first[0, 2], second[0, 2])


def test_the_kind_of_an_edge_matters() -> None:
    attention = randomise(RelationAttention(SIZE, HEADS, dropout=0.0, kinds=KINDS))
    x = torch.randn(1, 2, SIZE).double()
    first = attention(x, torch.tensor([[[1, 2], [2, 1]]]))
    second = attention(x, torch.tensor([[[1, 3], [2, 1]]]))
    assert not torch.allclose(first[0, 0], second[0, 0])
    assert torch.equal(first[0, 1], second[0, 1])


def test_a_layer_norms_after_each_part() -> None:
    layer = randomise(GraphLayer(RelationAttention(SIZE, HEADS, 0.5, KINDS), SIZE, 5, 0.5))
    x, edges = torch.randn(1, 4, SIZE).double(), random_edges(2, 1, 4)
    values = values_of(layer)

    def norm(name: str, row: Array) -> Array:
        centred = row - row.mean()
        return centred / math.sqrt((centred**2).mean() + 1e-5) * values[f"{name}.weight"] + values[f"{name}.bias"]

    mixed = attend(values, "attention.", x[0].numpy(), edges[0].numpy(), kinds=True)
    expected = []
    for row, added in zip(x[0].numpy(), mixed, strict=True):
        middle = norm("attention_norm", row + added)
        inner = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in linear(values, "widen", middle)]
        expected.append(norm("feed_forward_norm", middle + linear(values, "narrow", np.array(inner))))
    np.testing.assert_allclose(layer(x, edges)[0].detach().numpy(), np.array(expected), atol=1e-12)


def test_dropout_is_at_work_in_training_only() -> None:
    layer = randomise(GraphLayer(GraphAttention(SIZE, HEADS, 0.5), SIZE, 5, 0.5))
    x, edges = torch.randn(1, 4, SIZE).double(), random_edges(2, 1, 4)
    assert torch.equal(layer(x, edges), layer(x, edges))
    layer.train()
    assert not torch.equal(layer(x, edges), layer(x, edges))


def test_biases_start_at_zero() -> None:
    layer = GraphLayer(RelationAttention(SIZE, HEADS, 0.1, KINDS), SIZE, 5, 0.1)
    biases = [value for name, value in layer.named_parameters() if name.endswith("bias") and "norm" not in name]
    assert len(biases) == 6
    assert all(not bool(value.any()) for value in biases)


# The emotional concept graph.


def padded(rows: list[list[int]], extra: int) -> Tensor:
    width = max(1, *(len(row) for row in rows)) + extra
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


@st.composite
def concept_graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Contexts (CLS is 6) and for each its concepts with the word they belong to."""
    contexts, concepts = [], []
    for _ in range(draw(st.integers(1, 3))):
        words = draw(st.lists(st.integers(7, 11), max_size=5))
        contexts.append([6, *words])
        owners = draw(st.lists(st.sampled_from(words), max_size=4)) if words else []
        concepts.append([(draw(st.integers(7, 15)), owner) for owner in owners])
    return contexts, concepts


@given(drawn=concept_graphs(), extra=st.integers(0, 2))
def test_concept_edges(drawn: tuple[list[list[int]], list[list[tuple[int, int]]]], extra: int) -> None:
    contexts, concepts = drawn
    context = padded(contexts, extra)
    concept = padded([[word for word, _ in row] for row in concepts], extra)
    owner = padded([[word for _, word in row] for row in concepts], extra)
    edges = concept_edges(context, concept, owner)
    length = context.shape[1]
    assert edges.dtype == torch.bool
    assert edges.shape == (len(contexts), length + concept.shape[1], length + concept.shape[1])
    for b, (words, related) in enumerate(zip(contexts, concepts, strict=True)):
        joined = {(i, i) for i in range(edges.shape[1])}
        for i in range(len(words)):
            joined |= {(0, i), (i, 0)}
            if i:
                joined |= {(i - 1, i), (i, i - 1)}
        for c, (_, word) in enumerate(related):
            joined |= {(0, length + c), (length + c, 0)}
            for i in range(1, len(words)):
                if words[i] == word:
                    joined |= {(i, length + c), (length + c, i)}
        assert {(int(i), int(j)) for i, j in edges[b].nonzero()} == joined


# The commonsense cognition graph.

NAMES = {"self": 1, "contains": 2, "temporal": 3, "intent": 4, "need": 5, "want": 6, "effect": 7}


@pytest.mark.parametrize("extra", [0, 2])
def test_cognition_edges(extra: int) -> None:
    """The first example has two sentences, the second one utterance alone, the third no phrase."""
    utterances = [3, 1, 1]
    phrases = [[(0, 0), (3, 0), (1, 1), (2, 2), (3, 2)], [(2, 0)], []]
    rows = max(utterances) + extra
    width = max(map(len, phrases)) + extra
    present = torch.tensor([[u < count for u in range(rows)] for count in utterances])
    relation = torch.tensor([[relation for relation, _ in row] + [-1] * (width - len(row)) for row in phrases])
    owner = torch.tensor([[owner for _, owner in row] + [-1] * (width - len(row)) for row in phrases])
    edges = cognition_edges(present, relation, owner)
    assert edges.shape == (3, rows + width, rows + width)
    for b, count in enumerate(utterances):
        kinds = {(i, i): NAMES["self"] for i in range(rows + width)}
        for i, j in product(range(count), range(count)):
            if i != j:
                kinds[i, j] = NAMES["contains"] if 0 in (i, j) else NAMES["temporal"]
        for p, (relation_of_p, owner_of_p) in enumerate(phrases[b]):
            kind = NAMES[["intent", "need", "want", "effect"][relation_of_p]]
            kinds[owner_of_p, rows + p] = kinds[rows + p, owner_of_p] = kind
        found = {(int(i), int(j)): int(edges[b, i, j]) for i, j in edges[b].nonzero()}
        assert found == kinds
