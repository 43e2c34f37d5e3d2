"""The one way in: every method, its rules and its hypotheses, alone and in a batch."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.decoding.decode import decode, encode_and_decode
from ctsm.decoding.greedy import greedy
from ctsm.decoding.options import DecodingOptions
from ctsm.models.ctsm import CTSM
from ctsm.text.vocabulary import EOS

contexts_of_words = st.lists(st.lists(st.integers(7, 42), max_size=8), min_size=1, max_size=5)
rule_settings = st.fixed_dictionaries(
    {"no_repeat_ngram": st.integers(0, 3), "repetition_penalty": st.sampled_from([1.0, 1.2, 3.0])}
)
METHODS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"beam_size": 4, "n_best": 3},
    "sample": {"seed": 11, "top_k": 12, "top_p": 0.95},
}


@settings(max_examples=30, deadline=None)
@given(contexts=contexts_of_words, rules=rule_settings, limit=st.integers(1, 10))
def test_greedy_with_rules_is_the_best_word_of_the_whole_mixture(
    model: CTSM, definition: Any, contexts: list[list[int]], rules: dict[str, Any], limit: int
) -> None:
    options = DecodingOptions(max_tokens=limit, **rules)
    for context, (reply,) in zip(contexts, decode(model, definition.encode(model, contexts), options), strict=True):
        after = definition.log_distribution(model, context)
        words: list[int] = []
        while EOS not in words and len(words) < limit:
            scores = definition.rules(after(words), words, options.no_repeat_ngram, options.repetition_penalty)
            words.append(int(scores.argmax()))
        ended = words[-1] == EOS
        assert reply.words == [word for word in words if word != EOS]
        assert reply.log_probability == pytest.approx(definition.total(after, reply.words, ended), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(contexts=contexts_of_words, rules=rule_settings)
def test_a_reply_does_not_depend_on_the_others_in_the_batch(
    model: CTSM, definition: Any, method: str, contexts: list[list[int]], rules: dict[str, Any]
) -> None:
    options = DecodingOptions(method=method, max_tokens=9, **METHODS[method], **rules)  # type: ignore[arg-type]
    together = decode(model, definition.encode(model, contexts), options)
    for row, context in enumerate(contexts):
        (alone,) = decode(model, definition.encode(model, [context]), options, seeds=[row])
        assert [reply.words for reply in alone] == [reply.words for reply in together[row]]
        assert [reply.log_probability for reply in alone] == pytest.approx(
            [reply.log_probability for reply in together[row]], rel=1e-9
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_no_ngram_occurs_twice(model: CTSM, definition: Any, method: str, ngram: int) -> None:
    random = np.random.default_rng(0)
    contexts = [random.integers(7, 43, size=int(size)).tolist() for size in random.integers(1, 8, size=25)]
    encoded = definition.encode(model, contexts)

    def repeats(n: int) -> bool:
        options = DecodingOptions(method=method, max_tokens=20, no_repeat_ngram=n, **METHODS[method])  # type: ignore[arg-type]
        replies = [reply.words for found in decode(model, encoded, options) for reply in found]
        ngrams = [[tuple(words[at : at + ngram]) for at in range(len(words) - ngram + 1)] for words in replies]
        return any(len(set(found)) < len(found) for found in ngrams)

    assert repeats(0)
    assert not repeats(ngram)


def test_the_methods_are_those_asked_for(model: CTSM, definition: Any) -> None:
    encoded = definition.encode(model, [[7, 8, 41], [9, 9, 10]])
    replies = {
        method: decode(model, encoded, DecodingOptions(method=method, max_tokens=9, **METHODS[method]))  # type: ignore[arg-type]
        for method in METHODS
    }
    assert [found[0].words for found in replies["greedy"]] == greedy(model, encoded, 9)
    assert {method: [len(found) for found in rows] for method, rows in replies.items()} == {
        "greedy": [1, 1],
        "beam": [3, 3],
        "sample": [1, 1],
    }
    assert len({str(rows) for rows in replies.values()}) == 3


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10, deadline=None)
@given(contexts=contexts_of_words)
def test_contexts_are_encoded_and_answered_in_one_call(
    model: CTSM, definition: Any, method: str, contexts: list[list[int]]
) -> None:
    options = DecodingOptions(method=method, max_tokens=6, **METHODS[method])  # type: ignore[arg-type]
    encoded, replies = encode_and_decode(model, definition.batch(contexts), options, perceive=True)
    assert encoded.perception is not None
    assert torch.equal(encoded.memory, definition.encode(model, contexts).memory)
    assert replies == decode(model, definition.encode(model, contexts), options)


@settings(max_examples=20, deadline=None)
@given(contexts=contexts_of_words)
def test_in_bf16_every_word_said_is_nearly_the_best(model: CTSM, definition: Any, contexts: list[list[int]]) -> None:
    """Words and log-probabilities against the definition in float64, with what bf16 may lose: far less than a tenth."""
    options = DecodingOptions(max_tokens=8, precision="bf16")
    with patch("ctsm.nn.precision.SMALLEST", 1):  # a tiny model has no large products
        _, replies = encode_and_decode(deepcopy(model).float(), definition.batch(contexts), options)
    for context, (reply,) in zip(contexts, replies, strict=True):
        after = definition.log_distribution(model, context)
        total = 0.0
        for place, word in enumerate([*reply.words, EOS][: options.max_tokens]):
            said = reply.words[:place]
            log_p = definition.rules(after(said), said, 0, 1.0)
            assert log_p[word] >= log_p.max() - 0.1
            total += log_p[word]
        assert reply.log_probability == pytest.approx(total, abs=0.1)


def test_the_precision_of_a_call_does_not_stay(model: CTSM, definition: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctsm.nn.precision.SMALLEST", 1)
    model, batch = deepcopy(model).float(), definition.batch([[9, 10, 11], [12, 13]])
    options = DecodingOptions(max_tokens=8)
    before, replies = encode_and_decode(model, batch, options)
    in_bf16, _ = encode_and_decode(model, batch, replace(options, precision="bf16"))
    after, again = encode_and_decode(model, batch, options)
    assert torch.equal(after.memory, before.memory)
    assert again == replies
    assert not torch.equal(in_bf16.memory, before.memory)
    torch.testing.assert_close(in_bf16.memory, before.memory, rtol=0.1, atol=0.1)
