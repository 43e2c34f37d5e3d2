"""The rules against repetition, vectorised, against the rules written out word by word."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.repetition import affected_words, candidate_scores, distribution_scores

WORDS = 6


def written_out(log_p: list[float], said: list[int], ngram: int, penalty: float) -> list[float]:
    scores = []
    for word, value in enumerate(log_p):
        score = value * penalty if word in said else value
        if ngram:
            seen = {tuple(said[start : start + ngram]) for start in range(len(said) - ngram + 1)}
            ending = (*said[len(said) - (ngram - 1) :], word) if len(said) >= ngram - 1 else None
            if ending in seen:
                score = -np.inf
        scores.append(score)
    return scores


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], int, float]:
    rows, length = draw(st.integers(1, 4)), draw(st.integers(0, 9))
    numbers = st.floats(-20, 0) | st.just(-np.inf)
    log_p = draw(st.lists(st.lists(numbers, min_size=WORDS, max_size=WORDS), min_size=rows, max_size=rows))
    words = st.integers(0, WORDS - 1)
    said = draw(st.lists(st.lists(words, min_size=length, max_size=length), min_size=rows, max_size=rows))
    return log_p, said, draw(st.integers(0, 5)), draw(st.sampled_from([1.0, 1.3, 2.0]))


@given(case=cases(), order=st.permutations(range(WORDS)))
def test_scores_are_those_of_the_written_out_rules(
    case: tuple[list[list[float]], list[list[int]], int, float], order: list[int]
) -> None:
    log_p, said, ngram, penalty = case
    expected = torch.tensor(
        [written_out(*row, ngram, penalty) for row in zip(log_p, said, strict=True)], dtype=torch.float64
    )
    table, words = torch.tensor(log_p, dtype=torch.float64), torch.tensor(said, dtype=torch.long)
    options = DecodingOptions(no_repeat_ngram=ngram, repetition_penalty=penalty)
    assert torch.equal(distribution_scores(table, words, options), expected)
    candidates = torch.tensor([order] * len(log_p))
    shuffled = candidate_scores(table[:, order], candidates, words, options)
    assert torch.equal(shuffled, expected[:, order])
    changed = (expected != table).sum(dim=1).max()
    assert int(changed) <= affected_words(words.shape[1], options)


def test_the_bounds_on_affected_words_are_reached() -> None:
    said = torch.tensor([[0, 1, 2, 3]])
    log_p = torch.full((1, WORDS), -1.0)
    for options in (DecodingOptions(no_repeat_ngram=1), DecodingOptions(repetition_penalty=2.0)):
        assert int((distribution_scores(log_p, said, options) != log_p).sum()) == 4 == affected_words(4, options)
    # "0" was followed by 1, 2 and 3.
    pairs, options = torch.tensor([[0, 1, 0, 2, 0, 3, 0]]), DecodingOptions(no_repeat_ngram=2)
    blocked = distribution_scores(log_p, pairs, options).isinf()
    assert blocked.tolist() == [[False, True, True, True, False, False]]
    assert affected_words(7, options) == 6
    assert affected_words(7, DecodingOptions()) == 0
