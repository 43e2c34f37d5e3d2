"""Beam search against a plain one (one prefix at a time, no batch, cache or early end) and against all replies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.decoding.beam import beam_search
from ctsm.decoding.greedy import greedy
from ctsm.decoding.options import DecodingOptions
from ctsm.models.ctsm import CTSM
from ctsm.text.vocabulary import EOS

Found = tuple[float, float, list[int]]  # normalised score, log p, words


def plain_beam(definition: Any, model: CTSM, context: list[int], options: DecodingOptions) -> list[Found]:
    after = definition.log_distribution(model, context)
    prefixes: list[Found] = [(0.0, 0.0, [])]
    finished: list[Found] = []
    for length in range(1, options.max_tokens + 1):
        continued = []
        for score, total, words in prefixes:
            log_p = after(words)
            scores = definition.rules(log_p, words, options.no_repeat_ngram, options.repetition_penalty)
            for word in np.flatnonzero(np.isfinite(scores)).tolist():
                continued.append((score + scores[word], total + log_p[word], [*words, word]))
        continued.sort(key=lambda found: -found[0])
        for score, total, words in continued[: options.beam_size]:
            if words[-1] == EOS:
                finished.append((score / length**options.length_penalty, total, words[:-1]))
        prefixes = [found for found in continued if found[2][-1] != EOS][: options.beam_size]
    limit = options.max_tokens**options.length_penalty
    finished += [(score / limit, total, words) for score, total, words in prefixes]
    finished.sort(key=lambda found: -found[0])
    return finished[: options.n_best]


def all_replies(definition: Any, model: CTSM, context: list[int], options: DecodingOptions) -> list[Found]:
    """Every reply there is, best first: those that end within the limit, and those that are cut at it."""
    after = definition.log_distribution(model, context)
    found: list[Found] = []

    def visit(words: list[int], score: float, total: float) -> None:
        if len(words) == options.max_tokens:
            found.append((score / len(words) ** options.length_penalty, total, words))
            return
        log_p = after(words)
        scores = definition.rules(log_p, words, options.no_repeat_ngram, options.repetition_penalty)
        ended = (score + scores[EOS]) / (len(words) + 1) ** options.length_penalty
        found.append((ended, total + log_p[EOS], words))
        for word in np.flatnonzero(np.isfinite(scores)).tolist():
            if word != EOS:
                visit([*words, word], score + scores[word], total + log_p[word])

    visit([], 0.0, 0.0)
    return sorted(found, key=lambda reply: -reply[0])


def check(replies: list[Any], expected: list[Found]) -> None:
    assert [reply.words for reply in replies] == [words for _, _, words in expected]
    assert [reply.log_probability for reply in replies] == pytest.approx([total for _, total, _ in expected], rel=1e-9)


word_ids = st.integers(min_value=7, max_value=42)  # ids from 40 on are words only the context has
beam_settings = st.fixed_dictionaries(
    {
        "beam_size": st.integers(1, 6),
        "length_penalty": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "max_tokens": st.integers(1, 7),
        "no_repeat_ngram": st.sampled_from([0, 0, 1, 2]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.5]),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    contexts=st.lists(st.lists(word_ids, min_size=0, max_size=6), min_size=1, max_size=5),
    values=beam_settings,
    share=st.floats(0, 1),
)
def test_beam_search_is_the_plain_one(
    model: CTSM, definition: Any, contexts: list[list[int]], values: dict[str, Any], share: float
) -> None:
    n_best = 1 + int(share * (values["beam_size"] - 1))
    options = DecodingOptions(method="beam", n_best=n_best, **values)
    replies = beam_search(model, definition.encode(model, contexts), options)
    for context, found in zip(contexts, replies, strict=True):
        check(found, plain_beam(definition, model, context, options))


def test_as_many_rows_as_before_but_of_other_examples(model: CTSM, definition: Any) -> None:
    """Of two examples the first ends with its first word, and the other goes on with two prefixes: two rows again."""
    random = np.random.default_rng(1)
    contexts = [random.integers(7, 43, size=int(size)).tolist() for size in random.integers(0, 8, size=60)]
    said = greedy(model, definition.encode(model, contexts), 9)
    silent = next(context for context, words in zip(contexts, said, strict=True) if not words)
    talking = [context for context, words in zip(contexts, said, strict=True) if set(context) & set(words)]
    assert len(talking) >= 3
    options = DecodingOptions(method="beam", beam_size=2, length_penalty=0.0, max_tokens=9)
    for context in talking:
        replies = beam_search(model, definition.encode(model, [silent, context]), options)
        check(replies[0], plain_beam(definition, model, silent, options))
        check(replies[1], plain_beam(definition, model, context, options))


def test_as_many_examples_as_beams(model: CTSM, definition: Any) -> None:
    contexts = [[7, 8, 40], [9, 41, 10, 11], [12], [42, 13, 14], [15, 16, 41]]
    for limit, alpha in itertools.product((2, 8), (0.0, 1.0)):
        options = DecodingOptions(method="beam", beam_size=5, max_tokens=limit, length_penalty=alpha, n_best=2)
        replies = beam_search(model, definition.encode(model, contexts), options)
        for context, found in zip(contexts, replies, strict=True):
            check(found, plain_beam(definition, model, context, options))


@settings(max_examples=12, deadline=None)
@given(
    context=st.lists(st.integers(7, 11), max_size=4),
    limit=st.integers(1, 3),
    alpha=st.sampled_from([0.0, 1.0, 3.0]),
    ngram=st.integers(0, 2),
    penalty=st.sampled_from([1.0, 2.0]),
)
def test_a_beam_that_holds_everything_finds_the_best_of_all_replies(
    tiny_model: CTSM, definition: Any, context: list[int], limit: int, alpha: float, ngram: int, penalty: float
) -> None:
    """At most 5 words and EOS: 6 + 30 + 150 continuations at the third step."""
    options = DecodingOptions(
        method="beam",
        beam_size=200,
        n_best=12,
        max_tokens=limit,
        length_penalty=alpha,
        no_repeat_ngram=ngram,
        repetition_penalty=penalty,
    )
    expected = all_replies(definition, tiny_model, context, options)
    (replies,) = beam_search(tiny_model, definition.encode(tiny_model, [context]), options)
    check(replies, expected[:12])


@settings(max_examples=25, deadline=None)
@given(
    contexts=st.lists(st.lists(word_ids, min_size=0, max_size=8), min_size=1, max_size=6),
    limit=st.integers(1, 12),
)
def test_one_beam_without_normalisation_is_greedy(
    model: CTSM, definition: Any, contexts: list[list[int]], limit: int
) -> None:
    encoded = definition.encode(model, contexts)
    options = DecodingOptions(method="beam", beam_size=1, length_penalty=0.0, max_tokens=limit)
    assert [found[0].words for found in beam_search(model, encoded, options)] == greedy(model, encoded, limit)


def test_the_end_counts_in_the_length(tiny_model: CTSM, definition: Any) -> None:
    """Two replies whose order depends on it: the score is over words and EOS."""
    after = definition.log_distribution(tiny_model, [7, 8])
    options = DecodingOptions(method="beam", beam_size=100, n_best=100, max_tokens=3)
    (replies,) = beam_search(tiny_model, definition.encode(tiny_model, [[7, 8]]), options)
    lengths = [len(reply.words) + (len(reply.words) < 3) for reply in replies]
    scores = [reply.log_probability / length for reply, length in zip(replies, lengths, strict=True)]
    assert scores == sorted(scores, reverse=True)
    without = [reply.log_probability / max(1, len(reply.words)) for reply in replies]
    assert without != sorted(without, reverse=True)
    for reply in replies:
        total = definition.total(after, reply.words, ended=len(reply.words) < 3)
        assert reply.log_probability == pytest.approx(total)


def test_fewer_replies_than_asked_for(tiny_model: CTSM, definition: Any) -> None:
    options = DecodingOptions(method="beam", beam_size=50, n_best=50, max_tokens=1)
    (replies,) = beam_search(tiny_model, definition.encode(tiny_model, [[10, 7]]), options)
    assert sorted(reply.words for reply in replies) == [[], [7], [8], [9], [10]]


def test_an_example_ends_as_soon_as_nothing_better_can_come(
    model: CTSM, definition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With alpha 0 an example ends when its best finished reply is at least as probable as its best prefix."""
    with torch.no_grad():
        certain = CTSM(model.options, 40).double().eval()
        certain.load_state_dict(model.state_dict())
        certain.generator.vocabulary.bias[EOS] = 40.0
        certain.generator.gate.bias.fill_(40.0)
    rows: list[int] = []
    decode = certain.decode
    monkeypatch.setattr(certain, "decode", lambda words, *rest: rows.append(len(words)) or decode(words, *rest))
    options = DecodingOptions(method="beam", beam_size=3, length_penalty=0.0)
    replies = beam_search(certain, definition.encode(certain, [[7], [8, 9]]), options)
    assert [found[0].words for found in replies] == [[], []]
    assert rows == [2]
