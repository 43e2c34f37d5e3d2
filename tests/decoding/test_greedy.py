"""Greedy decoding against its definition: at every step the arg-max of the dense mixture over the whole prefix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.corpus.batches import Batch
from ctsm.decoding.greedy import NEVER_SAID, greedy
from ctsm.models.ctsm import CTSM
from ctsm.text.vocabulary import CLS, EOS, PAD, SYS, USR

V = 40


@pytest.fixture(scope="module")
def model(small_model: Callable[..., CTSM]) -> CTSM:
    """In single precision."""
    return small_model(V, sharpness=6.0, eos_bias=2.0, first_label=8).float()


def make_batch(contexts: list[list[int]]) -> Batch:
    width = max(map(len, contexts)) + 1
    rows = [[CLS, *context] + [PAD] * (width - 1 - len(context)) for context in contexts]
    context = torch.tensor(rows)
    roles = [[CLS, *[USR if place < len(words) // 2 else SYS for place in range(len(words))]] for words in contexts]
    speakers = torch.tensor([row + [PAD] * (width - len(row)) for row in roles])
    count = len(contexts)
    return Batch(
        index=torch.arange(count),
        context=context,
        speakers=speakers,
        emotion=torch.zeros(count, dtype=torch.long),
        cognitive=torch.full((count, 4, 2), CLS),
        reaction=torch.full((count, 1), PAD),
        target=torch.full((count, 1), PAD),
        target_positions=torch.zeros(0, dtype=torch.long),
    )


def by_definition(model: CTSM, context_ids: list[int], max_tokens: int) -> list[int]:
    """No cache, batch of one: run the decoder over the whole prefix, build the mixture, take its best allowed word."""
    batch = make_batch([context_ids])
    encoded = model.encode(batch)
    extended = max([V - 1, *context_ids]) + 1
    reply: list[int] = []
    while len(reply) < max_tokens:
        state = model.decode(torch.tensor([reply], dtype=torch.long), encoded, model.start_decoding(encoded))
        hidden = state.hidden[0, -1].double().numpy()
        logits = (
            model.generator.vocabulary.weight.double().numpy() @ hidden
            + model.generator.vocabulary.bias.double().numpy()
        )
        gate = 1 / (
            1 + np.exp(-(model.generator.gate.weight.double().numpy()[0] @ hidden + model.generator.gate.bias.item()))
        )
        mixture = np.zeros(extended)
        probabilities = np.exp(logits - logits.max())
        scores = state.copy_scores[0, -1].double().numpy()[1:]  # CLS is not copied
        copies = np.exp(scores - scores.max()) if len(scores) else scores
        if not len(scores):
            gate = 1.0
        mixture[:V] = gate * probabilities / probabilities.sum()
        for word, weight in zip(context_ids, copies, strict=True):
            mixture[word] += (1 - gate) * weight / copies.sum()
        mixture[list(NEVER_SAID)] = -1
        best = int(mixture.argmax())
        if best == EOS:
            break
        reply.append(best)
    return reply


word_ids = st.integers(min_value=7, max_value=V + 2)  # ids from V on are words only the context has


@settings(max_examples=25, deadline=None)
@given(contexts=st.lists(st.lists(word_ids, min_size=0, max_size=9), min_size=1, max_size=6), limit=st.integers(1, 12))
def test_batched_cached_replies_equal_the_definition(model: CTSM, contexts: list[list[int]], limit: int) -> None:
    with torch.no_grad():
        expected = [by_definition(model, context, limit) for context in contexts]
        actual = greedy(model, model.encode(make_batch(contexts)), limit)
    assert actual == expected


def test_the_fixture_gives_replies_of_different_lengths_and_copies_unknown_words(model: CTSM) -> None:
    generator = torch.Generator().manual_seed(0)
    contexts = [
        torch.randint(7, V + 3, (int(n),), generator=generator).tolist()
        for n in torch.randint(1, 9, (40,), generator=generator)
    ]
    replies = greedy(model, model.encode(make_batch(contexts)), 12)
    assert len({len(reply) for reply in replies}) > 3
    assert any(word >= V for reply in replies for word in reply)
    assert any(len(reply) == 12 for reply in replies)


def test_special_tokens_are_never_said(model: CTSM) -> None:
    forced = CTSM(model.options, V)
    forced.load_state_dict(model.state_dict())
    with torch.no_grad():
        forced.generator.vocabulary.bias[list(NEVER_SAID)] = 50.0
    replies = greedy(forced.eval(), forced.encode(make_batch([[9, 10], [11]])), 8)
    assert not {word for reply in replies for word in reply} & set(NEVER_SAID)
