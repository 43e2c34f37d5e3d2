"""Sampling: each word is drawn from the model's distribution, sharpened and cut as the options say.

With s(w) the scores of the words that may be said (`next_words`), a word is drawn by

    q(w) ~ exp(s(w) / temperature)                       over the words that may be said,
    then over its top_k most probable words,
    then over the fewest most probable words that have at least the probability top_p together (Holtzman et al. 2020),

each time divided by the sum. Of equally probable words at a border those are kept that come first in `next_words`.
Each reply has its own random numbers, so other replies in the batch do not change it.

Axes: N unfinished replies, K candidates, X extended vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctsm.decoding.next_words import Candidates, NextWords
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.single import Hypothesis, follow
from ctsm.models.base import Context, DecoderStep, EmpatheticModel
from ctsm.nn.pointer import CopySource
from ctsm.nn.top_k import top_k

FIRST_LOOK = 64
"""Words among which a nucleus is sought first; eight times as many each time that this is too few."""


@torch.inference_mode()
def sample(
    model: EmpatheticModel, context: Context, options: DecodingOptions, seeds: Sequence[int]
) -> list[Hypothesis]:
    """Draw one reply to each context.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        options: with the method "sample".
        seeds: of each reply; with the seed of the options they decide its random numbers.
    """
    device = context.memory.device
    next_words = NextWords.of(model, options, device)
    extended_size = max(model.vocabulary_size, int(context.source.ids.max()) + 1)
    uniform_BT = torch.from_numpy(random_numbers(options.seed, seeds, options.max_tokens)).to(device)

    def choose(state: DecoderStep, source: CopySource, said_NT: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if options.top_k:
            candidates = next_words.best(state, source, said_NT, options.top_k)
        else:
            candidates = next_words.all(state, source, said_NT, extended_size)
        weights_NK = tempered(candidates.score, options.temperature)
        if options.top_p < 1:
            weights_NK, candidates = nucleus(weights_NK, candidates, options.top_p)
        if options.top_k or options.top_p < 1:
            weights_NK, candidates = by_id(weights_NK, candidates)
        place_N1 = draw(weights_NK, uniform_BT[rows, said_NT.shape[1]])[:, None]
        return candidates.ids.gather(1, place_N1)[:, 0], candidates.log_probability.gather(1, place_N1)[:, 0]

    return follow(model, context, options.max_tokens, choose)


def random_numbers(seed: int | None, seeds: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """Return numbers uniform in [0, 1) [B, count]; a row depends on the seed and its own seed alone.

    Without a seed they are new each time.
    """
    base = np.random.SeedSequence(seed).entropy
    streams = [np.random.default_rng(np.random.SeedSequence(base, spawn_key=(own,))) for own in seeds]
    return np.stack([stream.random(count) for stream in streams])


def tempered(scores_NK: Tensor, temperature: float) -> Tensor:
    """Return the probabilities by exp(score / temperature) [N, K]; -inf becomes 0."""
    # The difference comes first: scores divided by a tiny temperature would all be -inf.
    return torch.softmax((scores_NK - scores_NK.amax(dim=1, keepdim=True)) / temperature, dim=1)


def nucleus(weights_NK: Tensor, candidates: Candidates, top_p: float) -> tuple[Tensor, Candidates]:
    """Keep the fewest most probable words that have at least `top_p` of the probability; others get weight 0 or go.

    Args:
        weights_NK: probabilities, in any order.
        candidates: their words.
        top_p: less than 1.
    """
    size = weights_NK.shape[1]
    k = min(FIRST_LOOK, size)
    best_NK, order_NK = top_k(weights_NK, k)
    while k < size and not bool((best_NK.sum(dim=1, dtype=torch.float64) >= top_p).all()):
        k = min(8 * k, size)
        best_NK, order_NK = top_k(weights_NK, k)
    before_NK = best_NK.cumsum(dim=1, dtype=torch.float64) - best_NK
    return best_NK.masked_fill(before_NK >= top_p, 0.0), _reordered(candidates, order_NK)


def by_id(weights_NK: Tensor, candidates: Candidates) -> tuple[Tensor, Candidates]:
    """Put the words in the order of their ids, which unlike an order by probability does not depend on rounding."""
    order_NK = candidates.ids.argsort(dim=1)
    return weights_NK.gather(1, order_NK), _reordered(candidates, order_NK)


def draw(weights_NK: Tensor, uniform_N: Tensor) -> Tensor:
    """Draw one place of each row [N] by its weights: where their sum up to there exceeds `uniform` times the total."""
    cumulative_NK = weights_NK.cumsum(dim=1, dtype=torch.float64)
    total_N = cumulative_NK[:, -1]
    # Below the total even after rounding, so that a word with weight 0 is never drawn.
    target_N = torch.minimum(uniform_N * total_N, torch.nextafter(total_N, torch.zeros_like(total_N)))
    return torch.searchsorted(cumulative_NK, target_N[:, None], right=True)[:, 0]


def _reordered(candidates: Candidates, order_NK: Tensor) -> Candidates:
    return Candidates(*(field.gather(1, order_NK) for field in candidates))
