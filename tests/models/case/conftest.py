"""Examples, batches and small models of CASE, and the model written out once more in NumPy, one example at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsm.corpus.batches import Batch
from ctsm.models.case import CASE, CASEOptions

Array = NDArray[np.float64]
PAD, SOS, SYS, CLS = 1, 3, 5, 6
SELF, CONTAINS, TEMPORAL, INFERRED = 1, 2, 3, 4


@dataclass(frozen=True)
class Case:
    """One example with what CASE needs beyond CTSM's data.

    Attributes:
        base: context, speakers, emotion, target.
        concepts: (concept, word of the context it belongs to).
        utterances: word ids with CLS, the whole utterance first.
        reactions: words of each utterance's xReact.
        phrases: (relation, utterance, word ids with CLS).
    """

    base: Any
    concepts: list[tuple[int, int]]
    utterances: list[list[int]]
    reactions: list[list[int]]
    phrases: list[tuple[int, int, list[int]]]


def make_example(
    build: SimpleNamespace, seed: int, parts: int = 1, phrases: int = 5, concepts: int = 3, **sizes: Any
) -> Case:
    """`parts` sub-utterances (none if 1) and `phrases` phrases for each utterance."""
    random = np.random.default_rng(seed)
    base = build.example(seed, **sizes)
    base = replace(base, target=[word if word < build.vocabulary else 11 for word in base.target])

    def words(most: int, least: int = 0) -> list[int]:
        return [int(word) for word in random.integers(7, build.vocabulary, size=random.integers(least, most + 1))]

    count = 1 if parts == 1 else 1 + parts
    known = [word for word in base.context[1:] if word < build.vocabulary]
    sayings = [[CLS, *words(3, 1)] for _ in range(count * phrases)]
    sayings[-1:] = sayings[:1]  # a phrase that is inferred twice
    return Case(
        base=base,
        concepts=[(words(1, 1)[0], int(random.choice(known))) for _ in range(concepts if known else 0)],
        utterances=[[CLS, *words(5)] for _ in range(count)],
        reactions=[words(3) for _ in range(count)],
        phrases=[(int(random.integers(4)), place // phrases, saying) for place, saying in enumerate(sayings)],
    )


def make_examples(build: SimpleNamespace) -> list[Case]:
    """Sentences, no phrase, no concept and no reaction, a context of CLS alone, an empty gold reply."""
    return [
        make_example(build, 1, parts=3, words=9, target_words=6, unknown=0),
        make_example(build, 2, phrases=0, words=5, unknown=2),
        replace(make_example(build, 3, concepts=0, words=1, target_words=3, unknown=0), reactions=[[]]),
        make_example(build, 4, parts=2, phrases=1, words=0, target_words=2),
        make_example(build, 5, words=7, target_words=0, concepts=5),
    ]


def rectangle(rows: list[list[int]], fill: int, padding: int = 0, width: int = 1) -> Tensor:
    width = max([width, *(len(row) for row in rows)]) + padding
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], dtype=torch.long).reshape(-1, width)


def collate(build: SimpleNamespace, examples: list[Case], padding: int = 0) -> Batch:
    """The batch of `corpus.batches`, from lists: utterances one after the other, each different phrase once."""
    count = 0
    utterance_rows, phrase_rows = list[list[int]](), list[list[int]]()
    different: dict[tuple[int, ...], int] = {}
    for example in examples:
        utterance_rows.append(list(range(count, count + len(example.utterances))))
        count += len(example.utterances)
        phrase_rows.append([different.setdefault(tuple(row), len(different)) for _, _, row in example.phrases])
    return replace(
        build.batch([example.base for example in examples], padding),
        concepts=rectangle([[concept for concept, _ in example.concepts] for example in examples], PAD, padding),
        concept_words=rectangle([[word for _, word in example.concepts] for example in examples], PAD, padding),
        utterances=rectangle([row for example in examples for row in example.utterances], PAD, padding),
        utterance_row=rectangle(utterance_rows, -1, padding),
        reactions=rectangle([row for example in examples for row in example.reactions], PAD, padding),
        phrases=rectangle([list(row) for row in different], PAD, padding),
        phrase_row=rectangle(phrase_rows, -1, padding),
        phrase_relation=rectangle([[kind for kind, _, _ in example.phrases] for example in examples], -1, padding),
        phrase_owner=rectangle([[owner for _, owner, _ in example.phrases] for example in examples], -1, padding),
    )


def make_model(build: SimpleNamespace, seed: int = 0, **changes: Any) -> CASE:
    """A small model without dropout, in double precision, whose norms and biases are neither 1 nor 0."""
    small = {"size": 12, "depth": 8, "filter_size": 5, "graph_filter_size": 7, "dropout": 0.0}
    return build.system(CASE, CASEOptions(**{**small, **changes}), seed)


class Reference:
    """The model for one example: no batch, no padding, no mask, one pair of vertices at a time."""

    def __init__(self, build: SimpleNamespace, model: CASE) -> None:
        self.blocks = build.reference(model)
        self.size, self.heads = model.options.size, model.options.heads
        self.layers = model.options.layers
        self.known = build.vocabulary

    def graph(self, name: str, x: Array, kinds: dict[tuple[int, int], int], relations: bool) -> Array:
        """A layer of a graph Transformer over the edges that `kinds` names."""
        b, width = self.blocks, self.size // self.heads
        rows = []
        for i in range(len(x)):
            joined = np.zeros(self.size)
            for head in range(self.heads):
                part = slice(head * width, (head + 1) * width)
                scores = {}
                for j in range(len(x)):
                    if (i, j) in kinds:
                        query = b.linear(f"{name}.attention.query", x[i])[part] / math.sqrt(width)
                        key = b.linear(f"{name}.attention.key", x[j])[part]
                        if relations:
                            vector = b.values[f"{name}.attention.kinds"][kinds[i, j] - 1] * math.sqrt(self.size)
                            both = b.linear(f"{name}.attention.kind_map", vector)
                            query, key = query + both[: self.size][part], key + both[self.size :][part]
                        scores[j] = float(query @ key)
                for j, share in zip(scores, b.softmax(np.array(list(scores.values()))), strict=True):
                    joined[part] += share * b.linear(f"{name}.attention.value", x[j])[part]
            rows.append(x[i] + b.linear(f"{name}.attention.output", joined))
        middle = b.norm(f"{name}.attention_norm", np.array(rows))
        wide = b.linear(f"{name}.widen", middle)
        wide = np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))(wide)
        result: Array = b.norm(f"{name}.feed_forward_norm", middle + b.linear(f"{name}.narrow", wide))
        return result

    def cognition(self, example: Case) -> Array:
        """The phrases in the commonsense cognition graph [P, D]."""
        first, b = len(example.utterances), self.blocks
        kinds = {(i, i): SELF for i in range(first + len(example.phrases))}
        for i in range(first):
            for j in range(first):
                if i != j:
                    kinds[i, j] = CONTAINS if 0 in (i, j) else TEMPORAL
        for place, (relation, owner, _) in enumerate(example.phrases):
            kinds[owner, first + place] = kinds[first + place, owner] = INFERRED + relation
        rows = [*example.utterances, *(row for _, _, row in example.phrases)]
        vertices = np.array([b.encoder("cognition_encoder", b.embed(row))[0] for row in rows])
        return self.graph("cognition_graph", vertices, kinds, relations=True)[first:]

    def affection(self, example: Case) -> Array:
        """Words and concepts in the emotional concept graph [S + C, D]."""
        b, context = self.blocks, example.base.context
        kinds = {(i, i): 1 for i in range(len(context) + len(example.concepts))}
        for i in range(1, len(context)):
            for j in {0, i - 1}:
                kinds[i, j] = kinds[j, i] = 1
        for place, (_, word) in enumerate(example.concepts, start=len(context)):
            for i in {0, *(i for i, other in enumerate(context) if other == word)}:
                kinds[i, place] = kinds[place, i] = 1
        words = b.embed(context) + b.embed(example.base.speakers)
        concepts = b.embed([concept for concept, _ in example.concepts]) + b.values["concept_mark"]
        nodes = self.graph("concept_graph", np.concatenate([words, concepts]), kinds, relations=False)
        ids = [word if word < self.known else 0 for word in [*context, *(concept for concept, _ in example.concepts)]]
        share = b.softmax(b.values["intensity"][ids])
        weighted: Array = b.norm("intensity_norm", share[:, None] * nodes)
        return weighted

    def select(self, query: Array, memory: Array) -> tuple[Array, Array]:
        """What dot-product attention takes of tanh(memory), and its weights."""
        if not len(memory):
            return np.zeros(self.size), np.zeros(0)
        weights: Array = self.blocks.softmax(np.array([query @ np.tanh(row) for row in memory]))
        return sum(weight * np.tanh(row) for weight, row in zip(weights, memory, strict=True)), weights

    def react(self, words: list[int], context: Array) -> Array:
        """A reaction in the light of the context [D]."""
        b = self.blocks
        mean = b.encoder("reaction_encoder", b.embed(words)).mean(axis=0) if words else np.zeros(self.size)
        both = np.array([np.concatenate([row, mean]) for row in context])
        result: Array = b.linear("reaction", b.encoder("reaction_refiner", both)[0])
        return result

    def decode(self, words: list[int], memories: list[Array]) -> Array:
        """Decoder states: attention to cognition, affection and context, in this order."""
        b = self.blocks
        x = b.linear("decoder.projection", b.embed(words))
        x = x + b.positions(*x.shape)
        for index in range(self.layers):
            layer = f"decoder.layers.{index}"
            normed = b.norm(f"{layer}.self_norm", x)
            x = x + b.attend(f"{layer}.self_attention", normed, normed, causal=True)[0]
            for place, memory in enumerate(memories):
                if len(memory):
                    x = x + b.attend(f"{layer}.attentions.{place}", b.norm(f"{layer}.norms.{place}", x), memory)[0]
            x = x + b.feed_forward(f"{layer}.feed_forward", b.norm(f"{layer}.feed_forward_norm", x), (-2, -1, 0))
        result: Array = b.norm("decoder.norm", x)
        return result

    def run(self, example: Case) -> SimpleNamespace:
        """Everything of one example that does not depend on others."""
        b, base = self.blocks, example.base
        context = b.encoder("context_encoder", b.embed(base.context) + b.embed(base.speakers))
        cognition, affection = self.cognition(example), self.affection(example)
        query = np.tanh(b.linear("prior_query", context[0]))
        by_context = self.select(query, cognition), self.select(query, affection)
        reply = b.embed([CLS, *base.target[:-1]]) + b.embed([CLS, *[SYS] * (len(base.target) - 1)])
        by_reply = (
            self.select(b.encoder("cognition_encoder", reply)[0], cognition),
            self.select(b.encoder("context_encoder", reply)[0], affection),
        )
        hidden = np.tanh(b.linear("bag.0", np.concatenate([by_reply[1][0], by_reply[0][0]])))
        bag = np.log(b.softmax(b.linear("bag.2", hidden)))
        reactions = [self.react(words, context) for words in example.reactions]
        concepts = by_context[1][0]
        gate = b.linear("emotion_gate", b.linear("emotion_mix", np.concatenate([concepts, reactions[0]])))
        gate = 1 / (1 + math.exp(-float(gate[0])))
        emotion = gate * concepts + (1 - gate) * reactions[0]
        merged = np.array([np.concatenate([row, by_context[0][0], emotion]) for row in context])
        memory = b.linear("fused", np.maximum(b.linear("fusion", merged), 0.0))
        states = self.decode([SOS, *base.target[:-1]], [cognition, affection, memory])
        words = np.array([np.log(b.softmax(b.linear("generator.vocabulary", row))) for row in states])
        return SimpleNamespace(
            cognition=cognition, affection=affection, by_context=by_context, by_reply=by_reply, bag=bag,
            reactions=reactions, memory=memory, states=states, words=words, logits=b.linear("emotion", emotion),
        )  # fmt: skip


@pytest.fixture(scope="session")
def case(build: SimpleNamespace) -> SimpleNamespace:
    """The builders: example, examples, batch, model, reference."""
    return SimpleNamespace(
        example=partial(make_example, build),
        examples=partial(make_examples, build),
        batch=partial(collate, build),
        model=partial(make_model, build),
        reference=partial(Reference, build),
    )


@pytest.fixture(
    scope="module",
    params=[{}, {"layers": 2, "heads": 4}, {"double_sigmoid": True}],
    ids=["default", "two layers", "double sigmoid"],
)
def ran(request: pytest.FixtureRequest, build: SimpleNamespace, case: SimpleNamespace) -> SimpleNamespace:
    """A training-mode loss from counts that are not zero, and the reference of each example."""
    model = case.model(seed=1, **request.param).train()
    examples = case.examples()
    batch = case.batch(examples, padding=2)
    model.diversity.counts[:] = torch.arange(build.vocabulary) % 4
    before = model.diversity.counts.tolist()
    losses = model.loss(batch)
    reference = case.reference(model)
    return SimpleNamespace(
        model=model, examples=examples, batch=batch, losses=losses, counts_before=before,
        expected=[reference.run(example) for example in examples],
    )  # fmt: skip
