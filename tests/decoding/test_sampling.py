"""Sampling: the filters against loops, whole replies against a plain sampler, frequencies against probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ctsm.decoding.decode import decode
from ctsm.decoding.greedy import greedy
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.sampling import draw, nucleus, random_numbers, sample, tempered
from ctsm.models.ctsm import CTSM
from ctsm.text.vocabulary import EOS


def filtered(scores: np.ndarray, options: DecodingOptions) -> np.ndarray:
    """The distribution that the options define over all words, from scores of which some are -inf."""
    weights = [float(np.exp((score - scores.max()) / options.temperature)) for score in scores]
    ranked = sorted(range(len(weights)), key=lambda word: -weights[word])
    if options.top_k:
        for word in ranked[options.top_k :]:
            weights[word] = 0.0
    total, mass = sum(weights), 0.0
    for word in ranked:
        if mass >= options.top_p * total:
            weights[word] = 0.0
        mass += weights[word]
    return np.array(weights) / sum(weights)


sampling_settings = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 0.7, 1.0, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 0, 1, 3, 20, 1000]),
        "top_p": st.sampled_from([1.0, 1.0, 0.05, 0.5, 0.9]),
        "no_repeat_ngram": st.sampled_from([0, 0, 1, 2]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.7]),
        "seed": st.integers(0, 2**63 - 1),
    }
)
contexts_of_words = st.lists(st.lists(st.integers(7, 42), max_size=7), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(contexts=contexts_of_words, values=sampling_settings, limit=st.integers(1, 6), data=st.data())
def test_whole_replies_are_those_of_a_plain_sampler(
    model: CTSM, definition: Any, contexts: list[list[int]], values: dict[str, Any], limit: int, data: st.DataObject
) -> None:
    """The plain one: no batch, no cache, the whole distribution; the word where its sum by id passes the number."""
    options = DecodingOptions(method="sample", max_tokens=limit, **values)
    seeds = data.draw(st.lists(st.integers(0, 2**40), min_size=len(contexts), max_size=len(contexts)))
    replies = sample(model, definition.encode(model, contexts), options, seeds)
    for context, own, reply in zip(contexts, seeds, replies, strict=True):
        sequence = np.random.SeedSequence(options.seed, spawn_key=(own,))
        numbers = np.random.default_rng(sequence).random(limit)
        after = definition.log_distribution(model, context)
        words: list[int] = []
        ended = False
        while len(words) < limit and not ended:
            scores = definition.rules(after(words), words, options.no_repeat_ngram, options.repetition_penalty)
            passed = np.flatnonzero(filtered(scores, options).cumsum() > numbers[len(words)])
            word = int(passed[0])
            ended = word == EOS
            words += [] if ended else [word]
        assert reply.words == words
        assert reply.log_probability == pytest.approx(definition.total(after, words, ended), rel=1e-9)


def test_the_penalty_changes_what_is_drawn_but_not_the_log_probability(model: CTSM, definition: Any) -> None:
    contexts = [[word, 41, word + 1] for word in range(7, 37)]
    options = DecodingOptions(method="sample", max_tokens=8, repetition_penalty=1.1, seed=2)
    replies = sample(model, definition.encode(model, contexts), options, range(30))
    assert sum(len(set(reply.words)) < len(reply.words) for reply in replies) > 5
    for context, reply in zip(contexts, replies, strict=True):
        after = definition.log_distribution(model, context)
        total = definition.total(after, reply.words, ended=len(reply.words) < 8)
        assert reply.log_probability == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 6},
        {"top_p": 0.8},
        {"temperature": 1.6, "top_k": 15, "top_p": 0.7},
    ],
)
def test_frequencies_are_the_filtered_probabilities(model: CTSM, definition: Any, values: dict[str, Any]) -> None:
    context, count = [7, 41, 9, 7], 20_000
    options = DecodingOptions(method="sample", max_tokens=1, seed=5, **values)
    one = definition.encode(model, [context])
    many = type(one)(
        memory=one.memory.expand(count, -1, -1),
        real=one.real.expand(count, -1),
        source=one.source.rows(torch.zeros(count, dtype=torch.long)),
        start=one.start.expand(count, -1),
        emotion_logits=one.emotion_logits,
    )
    drawn = [reply.words[0] if reply.words else EOS for reply in sample(model, many, options, range(count))]
    scores = definition.rules(definition.log_distribution(model, context)([]), [], 0, 1.0)
    expected = filtered(scores, options) * count
    counts = np.bincount(drawn, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    frequent = expected >= 5
    observed = [*counts[frequent], counts[~frequent].sum()]
    awaited = [*expected[frequent], expected[~frequent].sum()]
    if awaited[-1] == 0:
        observed, awaited = observed[:-1], awaited[:-1]
    assert len(awaited) >= 3
    assert chisquare(observed, awaited).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(contexts=contexts_of_words, values=sampling_settings, data=st.data())
def test_batching_does_not_change_a_sample(
    model: CTSM, definition: Any, contexts: list[list[int]], values: dict[str, Any], data: st.DataObject
) -> None:
    options = DecodingOptions(method="sample", max_tokens=8, **values)
    seeds = data.draw(st.lists(st.integers(0, 99), min_size=len(contexts), max_size=len(contexts)))
    together = sample(model, definition.encode(model, contexts), options, seeds)
    order = data.draw(st.permutations(range(len(contexts))))
    shuffled = sample(
        model, definition.encode(model, [contexts[row] for row in order]), options, [seeds[row] for row in order]
    )
    for place, row in enumerate(order):
        (alone,) = sample(model, definition.encode(model, [contexts[row]]), options, [seeds[row]])
        assert alone.words == together[row].words == shuffled[place].words


@settings(max_examples=20, deadline=None)
@given(contexts=contexts_of_words, values=sampling_settings, temperature=st.sampled_from([1e-4, 1e-9, 1e-300]))
def test_without_heat_it_is_greedy(
    model: CTSM, definition: Any, contexts: list[list[int]], values: dict[str, Any], temperature: float
) -> None:
    values = values | {"temperature": temperature, "no_repeat_ngram": 0, "repetition_penalty": 1.0}
    encoded = definition.encode(model, contexts)
    replies = sample(model, encoded, DecodingOptions(method="sample", max_tokens=9, **values), range(len(contexts)))
    assert [reply.words for reply in replies] == greedy(model, encoded, 9)


def test_seeds_decide_what_is_drawn(model: CTSM, definition: Any) -> None:
    encoded = definition.encode(model, [[7, 8, 9]] * 30)

    def drawn(seed: int | None, seeds: list[int] | None = None) -> list[list[int]]:
        options = DecodingOptions(method="sample", seed=seed)
        return [found[0].words for found in decode(model, encoded, options, seeds)]

    assert drawn(1) == drawn(1) == drawn(1, list(range(30)))
    assert drawn(1) != drawn(2)
    assert len({tuple(words) for words in drawn(1, [4] * 30)}) == 1
    assert len({tuple(words) for words in drawn(1)}) > 20
    assert drawn(None) != drawn(None)


def test_random_numbers_differ_between_seeds_and_rows() -> None:
    pairs = [(0, 1), (1, 0), (0, 0), (2**32, 1), (0, 2**32 + 1), (1, 2**32), (2**62, 5)]
    rows = [random_numbers(seed, [own], 4)[0] for seed, own in pairs]
    assert len({tuple(row) for row in rows}) == len(pairs)
    assert random_numbers(3, [8, 9], 4)[1].tolist() == random_numbers(3, [9], 7)[0, :4].tolist()


def smallest_nucleus(weights: list[float], top_p: float) -> list[float]:
    kept, mass = [0.0] * len(weights), 0.0
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        if mass < top_p:
            kept[place] = weights[place]
        mass += weights[place]
    return kept


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 3000),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.001, 0.1, 1.0, 6.0, 40.0]),
    impossible=st.floats(0, 1),
    top_p=st.floats(0.001, 0.999),
)
def test_the_nucleus_is_the_smallest_that_has_the_probability(
    size: int, seed: int, scale: float, impossible: float, top_p: float
) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(3, size)) * scale
    scores[:, 1:][random.random((3, size - 1)) < impossible] = -np.inf
    weights = tempered(torch.from_numpy(scores), 1.0)
    assert nucleus(weights, top_p).tolist() == [smallest_nucleus(row, top_p) for row in weights.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("top_p", [0.25, 0.3, 0.5, 0.75, 0.875, 0.9, float(np.nextafter(1.0, 0.0))])
def test_the_nucleus_among_equal_probabilities_has_the_first_ones(dtype: torch.dtype, top_p: float) -> None:
    rows = [[0.25, 0.25, 0.25, 0.25], [0.125, 0.5, 0.125, 0.25], [0.0, 0.0, 1.0, 0.0], [0.125, 0.125, 0.25, 0.5]]
    found = nucleus(torch.tensor(rows, dtype=dtype), top_p)
    assert found.tolist() == [smallest_nucleus(row, top_p) for row in rows]


def test_rounding_never_leaves_a_nucleus_without_its_words() -> None:
    """Probabilities in float32 whose sum stays below top_p: all of them are needed."""
    weights = torch.full((2, 5_000), 1 / 5_003)
    assert torch.equal(nucleus(weights, 0.99999), weights)


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.25, 0.5, 3.0]), min_size=1, max_size=9).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_where_the_sum_passes_the_number(weights: list[float], uniform: float) -> None:
    (place,) = draw(torch.tensor([weights], dtype=torch.float64), torch.tensor([uniform], dtype=torch.float64)).tolist()
    before, total = sum(weights[:place]), sum(weights)
    assert weights[place] > 0
    assert before <= uniform * total * (1 + 1e-12)
    assert before + weights[place] >= uniform * total * (1 - 1e-12)


def test_the_largest_random_number_draws_the_last_possible_word() -> None:
    weights = torch.tensor([[0.5, 0.1, 0.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
    largest = torch.full((2,), np.nextafter(1.0, 0.0), dtype=torch.float64)
    assert draw(weights, largest).tolist() == [1, 0]
    assert draw(weights.flip(1), torch.zeros(2, dtype=torch.float64)).tolist() == [1, 2]
