"""CASE against NumPy loops over one unpadded example: both graphs, selection, alignments, losses and pre-training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.models.case import CASE, CASEOptions, alignment_losses, phrases_of_the_example_before, select

Array = NDArray[np.float64]
PAD, EOS, SOS, SYS, CLS = 1, 2, 3, 5, 6
SELF, CONTAINS, TEMPORAL, INFERRED = 1, 2, 3, 4
LATER = ("selection", "coarse", "fine", "generation", "diversity", "emotion")


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
    torch.manual_seed(seed)
    model = CASE(CASEOptions(**{**small, **changes}), build.vocabulary)
    model.install(build.tables(model.options.size, seed))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.4, std=0.4)
    return model.double().eval()


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


@pytest.fixture(
    scope="module",
    params=[{}, {"layers": 2, "heads": 4}, {"double_sigmoid": True}],
    ids=["default", "two layers", "double sigmoid"],
)
def ran(request: pytest.FixtureRequest, build: SimpleNamespace) -> SimpleNamespace:
    """A training-mode loss from counts that are not zero, and the reference of each example."""
    model = make_model(build, seed=1, **request.param).train()
    examples = make_examples(build)
    batch = collate(build, examples, padding=2)
    model.diversity.counts[:] = torch.arange(build.vocabulary) % 4
    before = model.diversity.counts.tolist()
    losses = model.loss(batch)
    reference = Reference(build, model)
    return SimpleNamespace(
        model=model, examples=examples, batch=batch, losses=losses, counts_before=before,
        expected=[reference.run(example) for example in examples],
    )  # fmt: skip


def check_rows(actual: Tensor, expected: list[Array]) -> None:
    """Compare the real rows of each example."""
    for row, wanted in zip(actual.detach().numpy(), expected, strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted.reshape(-1, row.shape[-1]), rtol=1e-5, atol=2e-5)


def test_both_graphs_are_memories_of_the_decoder_beside_the_fused_context(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    check_rows(context.cognition, [expected.cognition for expected in ran.expected])
    for row, present, expected in zip(context.affection, context.vertices, ran.expected, strict=True):
        check_rows(row[present][None], [expected.affection])  # concepts stand after the padded words
    check_rows(context.memory, [expected.memory for expected in ran.expected])
    assert context.phrases.sum(dim=1).tolist() == [len(expected.cognition) for expected in ran.expected]
    assert context.vertices.sum(dim=1).tolist() == [len(expected.affection) for expected in ran.expected]


def test_emotion_mixes_selected_concepts_with_the_reaction_to_the_whole_utterance(ran: SimpleNamespace) -> None:
    check_rows(ran.model.encode(ran.batch).emotion_logits[:, None], [expected.logits for expected in ran.expected])


def test_decoder_states(ran: SimpleNamespace) -> None:
    context = ran.model.encode(ran.batch)
    step = ran.model.decode(ran.batch.target[:, :-1], context, ran.model.start_decoding(context))
    check_rows(step.hidden, [expected.states for expected in ran.expected])


def score(first: Array, second: Array) -> float:
    return 1 / (1 + math.exp(-float(first @ second)))


def bound(ran: SimpleNamespace, own: float, other_first: float, other_second: float) -> float:
    """Two times -log sigmoid of a margin; the published code squashes the margin once more."""
    loss = 0.0
    for margin in (own - other_first, own - other_second):
        if ran.model.options.double_sigmoid:
            margin = 1 / (1 + math.exp(-margin))
        loss += math.log(1 + math.exp(-margin))
    return loss


def coarse_by_hand(ran: SimpleNamespace) -> float:
    """Selected cognition and affection of an example against those of the example before it."""
    total = 0.0
    for b, expected in enumerate(ran.expected):
        (cognition, _), (affection, _) = expected.by_context
        (other_cognition, _), (other_affection, _) = ran.expected[b - 1].by_context
        own = score(cognition, affection)
        total += bound(ran, own, score(other_cognition, affection), score(cognition, other_affection))
    return total / len(ran.expected)


def fine_by_hand(ran: SimpleNamespace) -> float:
    """Each phrase and its utterance's reaction against the r-th phrase of the example before, round and round."""
    losses = []
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        other, other_expected = ran.examples[b - 1], ran.expected[b - 1]
        for r, (_, owner, _) in enumerate(example.phrases):
            if other.phrases:
                place = r % len(other.phrases)
                phrase, reaction = expected.cognition[r], expected.reactions[owner]
                other_phrase = other_expected.cognition[place]
                other_reaction = other_expected.reactions[other.phrases[place][1]]
                own = score(phrase, reaction)
                losses.append(bound(ran, own, score(other_phrase, reaction), score(phrase, other_reaction)))
    return sum(losses) / len(losses)


def selection_by_hand(ran: SimpleNamespace) -> float:
    """KL of posterior and prior of either graph over its vertices, a mean over examples."""
    total = 0.0
    for expected in ran.expected:
        for (_, posterior), (_, prior) in zip(expected.by_reply, expected.by_context, strict=True):
            pairs = list(zip(posterior, prior, strict=True))
            total += sum(p * math.log(p / q) for p, q in pairs) / max(1, len(pairs))
    return total / len(ran.expected)


def weights_by_hand(ran: SimpleNamespace) -> list[float]:
    counts = list(ran.counts_before)
    for expected in ran.expected:
        for row in expected.words:
            if row.argmax() == EOS:
                break
            counts[int(row.argmax())] += 1
    raw = [1 - count / max(counts) for count in counts]
    return [weight * len(raw) / sum(raw) for weight in raw]


def terms_by_hand(ran: SimpleNamespace) -> dict[str, float]:
    pairs = list(zip(ran.examples, ran.expected, strict=True))
    tokens = sum(len(example.base.target) for example, _ in pairs)
    losses = [
        (word, -row[word])
        for example, expected in pairs
        for word, row in zip(example.base.target, expected.words, strict=True)
    ]
    weights = weights_by_hand(ran)
    return {
        "bag_of_words": sum(-expected.bag[word] for example, expected in pairs for word in example.base.target)
        / tokens,
        "selection": selection_by_hand(ran),
        "coarse": coarse_by_hand(ran),
        "fine": fine_by_hand(ran),
        "generation": sum(loss for _, loss in losses) / tokens,
        "diversity": sum(weights[word] * loss for word, loss in losses) / tokens,
        "emotion": sum(
            math.log(np.exp(expected.logits).sum()) - expected.logits[example.base.emotion]
            for example, expected in pairs
        )
        / len(pairs),
    }


def test_losses(ran: SimpleNamespace) -> None:
    wanted = terms_by_hand(ran)
    found = {name: term.item() for name, term in ran.losses.terms.items()}
    assert list(found) == ["bag_of_words", *LATER]
    assert found == pytest.approx(wanted, rel=1e-5)
    weights = {"fine": 0.2, "diversity": 1.5}
    total = sum(weights.get(name, 1.0) * value for name, value in wanted.items())
    assert ran.losses.total.item() == pytest.approx(total, rel=1e-5)


def test_scores_are_sums_of_token_losses(ran: SimpleNamespace) -> None:
    scores = ran.model.score(ran.batch)
    for b, (example, expected) in enumerate(zip(ran.examples, ran.expected, strict=True)):
        nll = -sum(row[word] for word, row in zip(example.base.target, expected.words, strict=True))
        assert scores.nll[b].item() == pytest.approx(nll, rel=1e-5)


# Pre-training.


def losses_at(model: CASE, batch: Batch, step: int) -> dict[str, float]:
    model.step = step
    losses = model.loss(batch)
    return {"total": losses.total.item(), **{name: term.item() for name, term in losses.terms.items()}}


def test_the_first_steps_train_with_the_bag_of_words_alone(build: SimpleNamespace) -> None:
    model = make_model(build, pretrain_steps=3)
    batch = collate(build, make_examples(build))
    whole = losses_at(model, batch, 0)
    assert all(whole[name] > 0 for name in LATER)
    for step in (1, 3):
        found = losses_at(model, batch, step)
        assert found["total"] == found["bag_of_words"] == whole["bag_of_words"]
        assert all(found[name] == 0 for name in LATER)
        assert list(found) == list(whole)  # the log has the same columns in both phases
    assert losses_at(model, batch, 4) == whole
    model.options = replace(model.options, pretrain_steps=0)
    assert losses_at(model, batch, 1) == whole


def trained_in(model: CASE, batch: Batch, step: int) -> set[str]:
    """Modules whose parameters get a gradient."""
    model.zero_grad()
    model.step = step
    model.loss(batch).total.backward()
    return {
        name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }


def test_pretraining_reaches_encoders_graphs_and_bag_but_neither_prior_nor_decoder(build: SimpleNamespace) -> None:
    model, batch = make_model(build), collate(build, make_examples(build))
    assert trained_in(model, batch, 1) == {
        "embedding", "context_encoder", "cognition_encoder", "cognition_graph", "concept_mark", "concept_graph",
        "intensity_norm", "bag",
    }  # fmt: skip
    assert trained_in(model, batch, 10_065) == {name.split(".")[0] for name, _ in model.named_parameters()}


def test_pretraining_counts_no_predictions_and_spares_the_decoder(build: SimpleNamespace) -> None:
    model, batch = make_model(build).train(), collate(build, make_examples(build))
    with build.captured(model, "decoder", "reaction_refiner", "prior_query") as seen:
        losses_at(model, batch, 10_064)
    assert not seen
    assert model.diversity.counts.sum().item() == 0
    losses_at(model, batch, 10_065)
    assert model.diversity.counts.sum().item() > 0


def test_the_phase_is_four_epochs_of_the_official_split() -> None:
    assert CASEOptions().pretrain_steps == 4 * math.ceil(40_250 / 16)


def test_gradients_reach_every_parameter(build: SimpleNamespace) -> None:
    model = make_model(build, layers=2).train()
    model.loss(collate(build, make_examples(build), padding=1)).total.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert missing == []


def test_the_posterior_is_a_constant_for_the_prior(build: SimpleNamespace) -> None:
    """The selection loss moves what the context asks, not what the reply asks."""
    model, batch = make_model(build), collate(build, make_examples(build))
    model.loss(batch).terms["selection"].backward()
    assert bool(model.prior_query.weight.grad.any())
    assert model.bag[0].weight.grad is None
    before = model.loss(batch).terms
    with torch.no_grad():
        model.prior_query.weight -= 0.05 * model.prior_query.weight.grad
    after = model.loss(batch).terms
    assert after["selection"].item() < before["selection"].item()
    assert after["bag_of_words"].item() == before["bag_of_words"].item()


# Terms and pieces.


def test_bound_is_info_nce_with_one_negative_on_either_side() -> None:
    a, b, c, d = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1)).double() * 0.7
    own, first, second = (torch.sigmoid((x * y).sum(-1)) for x, y in ((a, b), (c, b), (a, d)))
    correct = torch.zeros(6, dtype=torch.long)
    expected = sum(
        F.cross_entropy(torch.stack([own, other], dim=1), correct, reduction="none") for other in (first, second)
    )
    torch.testing.assert_close(alignment_losses((a, b), (c, d), double_sigmoid=False), expected)
    logits = [torch.sigmoid(own - other) for other in (first, second)]
    published = sum(F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none") for x in logits)
    torch.testing.assert_close(alignment_losses((a, b), (c, d), double_sigmoid=True), published)


def test_bound_falls_as_pairs_fit_and_others_do_not() -> None:
    a = torch.tensor([[3.0, 0.0]])
    good = alignment_losses((a, a), (-a, -a), double_sigmoid=False)
    bad = alignment_losses((a, -a), (-a, a), double_sigmoid=False)
    assert good.item() < 2 * math.log(2) < bad.item()
    same = alignment_losses((a, a), (a, a), double_sigmoid=False)
    assert same.item() == pytest.approx(2 * math.log(2))  # a batch of one


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), extra=st.integers(0, 2))
def test_phrases_of_the_example_before(counts: list[int], extra: int) -> None:
    width = max(1, *counts) + extra
    present = torch.tensor([[p < count for p in range(width)] for count in counts])
    place, counted = phrases_of_the_example_before(present)
    for b, count in enumerate(counts):
        before = (b - 1) % len(counts)
        for p in range(width):
            assert bool(counted[b, p]) == (p < count and counts[before] > 0)
            if counted[b, p]:
                assert place[b, p].item() == before * width + p % counts[before]
            assert 0 <= place[b, p].item() < len(counts) * width


def test_selection_ignores_what_is_not_there_and_takes_nothing_of_nothing() -> None:
    memory = torch.randn(2, 4, 3).double()
    real = torch.tensor([[True, True, False, False], [False] * 4])
    vector, log_weights = select(torch.randn(2, 3).double(), memory, real)
    torch.testing.assert_close(log_weights[0].exp().sum(), torch.tensor(1.0).double())
    assert log_weights[0, 2:].exp().tolist() == [0.0, 0.0]
    torch.testing.assert_close(vector[0], log_weights[0, :2].exp() @ memory[0, :2])
    assert vector[1].tolist() == [0.0] * 3


def test_no_phrase_in_the_whole_batch(build: SimpleNamespace) -> None:
    model = make_model(build).train()
    batch = collate(build, [make_example(build, seed, phrases=0) for seed in (1, 2)])
    assert batch.phrases is not None
    assert batch.phrases.shape[0] == 0
    losses = model.loss(batch)
    losses.total.backward()
    assert bool(torch.isfinite(losses.total))
    assert losses.terms["fine"].item() == 0
    assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters() if value.grad is not None)


def test_losses_do_not_depend_on_padding(build: SimpleNamespace) -> None:
    model, examples = make_model(build), make_examples(build)
    first, second = (model.loss(collate(build, examples, padding)).terms for padding in (0, 3))
    for name, term in first.items():
        torch.testing.assert_close(second[name], term, rtol=1e-9, atol=1e-9)


def test_what_an_example_gets_does_not_depend_on_the_others(build: SimpleNamespace) -> None:
    model, examples = make_model(build), make_examples(build)
    together = model.score(collate(build, examples, padding=1))
    for b, example in enumerate(examples):
        alone = model.score(collate(build, [example]))
        torch.testing.assert_close(alone.nll[0], together.nll[b], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone.emotion_logits[0], together.emotion_logits[b], rtol=1e-9, atol=1e-9)


def test_encoding_reads_neither_label_nor_reply(build: SimpleNamespace) -> None:
    model, batch = make_model(build), collate(build, make_examples(build))
    nothing: Any = None
    given = model.encode(batch)
    needed = model.encode(replace(batch, emotion=nothing, target=nothing, target_positions=nothing))
    for field in fields(given):
        if isinstance(getattr(given, field.name), Tensor):
            assert torch.equal(getattr(given, field.name), getattr(needed, field.name))


def test_dropout_is_in_the_graphs_and_in_training_only(build: SimpleNamespace) -> None:
    model, batch = make_model(build, dropout=0.5), collate(build, make_examples(build))
    assert torch.equal(model.loss(batch).total, model.loss(batch).total)
    model.train()
    first, second = model.encode(batch), model.encode(batch)
    assert not torch.equal(first.cognition, second.cognition)
    assert not torch.equal(first.affection, second.affection)
    dropping = {name.split(".")[0] for name, part in model.named_modules() if isinstance(part, nn.Dropout) and part.p}
    assert dropping == {"cognition_graph", "concept_graph"}


# Sizes and options.


def test_parameter_counts() -> None:
    """docs/models/case.md lists the differences from the published 14,613,047 (V = 23,713)."""
    size = 23_713
    with torch.device("meta"):
        model = CASE(CASEOptions(), size)
    total = sum(parameter.numel() for parameter in model.parameters())
    published = 14_613_047
    unused = 2 * (300 * 300 + 300) + 4 * 300 * 300 + (4 * (300 * 300 + 300) + 300 * 600) + 301 + 3 * 300
    assert total - size * 601 == published - unused + 300
    blocks = {
        "context_encoder": 752_400, "cognition_encoder": 752_400, "reaction_encoder": 752_400,
        "reaction_refiner": 842_400,
        "cognition_graph": 541_200 + 2_100 + 181_800, "concept_graph": 360_000 + 181_800, "intensity_norm": 600,
        "reaction": 90_300, "prior_query": 90_300, "bag": 180_300 + 301 * size, "emotion_mix": 180_300,
        "emotion_gate": 301, "emotion": 9_632, "fusion": 270_000, "fused": 90_000, "decoder": 1_114_200,
        "embedding": 300 * size, "generator": 301 * size,
    }  # fmt: skip
    for name, expected in blocks.items():
        assert sum(parameter.numel() for parameter in model.get_submodule(name).parameters()) == expected, name
    assert sum(blocks.values()) + 300 == total  # the mark of concepts


def test_tables_fill_embedding_and_intensity(build: SimpleNamespace) -> None:
    model = CASE(CASEOptions(size=12, depth=8), build.vocabulary)
    tables = build.tables(12)
    model.install(tables)
    assert torch.equal(model.intensity, tables.intensity)
    assert torch.equal(model.embedding.weight[7:], tables.vectors[7:])
    assert not model.embedding.weight[PAD].any()
    assert "intensity" in model.state_dict()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 0}, "size"),
        ({"graph_filter_size": 0}, "graph_filter_size"),
        ({"depth": 9}, "depth"),
        ({"size": 301}, "size"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"pretrain_steps": -1}, "pretrain_steps"),
        ({"coarse_weight": -1.0}, "coarse_weight"),
        ({"fine_weight": math.nan}, "fine_weight"),
        ({"double_sigmoid": "yes"}, "double_sigmoid"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"options\.{named}"):
        CASEOptions(**changes)
