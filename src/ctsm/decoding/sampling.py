"""Sampling: each word is drawn from the model's distribution, sharpened and cut as the options say.

With s(w) the scores of the words that may be said (`next_words`), a word is drawn by

    q(w) ~ exp(s(w) / temperature)                       over the words that may be said,
    then over its top_k most probable words,
    then over the fewest most probable words that have at least the probability top_p together (Holtzman et al. 2020),

each time divided by the sum. Of equally probable words at a border those with the lowest ids are kept, for top_k those
of the source before that. Each reply has its own random numbers, so other replies in the batch do not change it.

Axes: N unfinished replies, K candidates, X extended vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctsm.decoding.next_words import NextWords
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.single import Choose, Hypothesis, follow
from ctsm.models.base import Context, DecoderStep, EmpatheticModel
from ctsm.nn.pointer import CopySource
from ctsm.nn.top_k import top_k

CLASSES, CLASSES_PER_NAT = 4096, 64
"""Classes of probabilities in the search for a nucleus; the last one holds all below e^-64 of the largest."""


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
    numbers_BT = random_numbers(options.seed, seeds, options.max_tokens)
    return follow(model, context, options.max_tokens, sampled_choice(model, context, options, numbers_BT))


def sampled_choice(
    model: EmpatheticModel, context: Context, options: DecodingOptions, numbers_BT: npt.NDArray[np.float64]
) -> Choose:
    """Return what draws a word.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        options: with the method "sample".
        numbers_BT: uniform in [0, 1), one for each reply and step.
    """
    device = context.memory.device
    next_words = NextWords.of(model, options, device)
    extended_size = max(model.vocabulary_size, int(context.source.ids.max()) + 1)
    uniform_BT = torch.from_numpy(numbers_BT).to(device)

    def choose(state: DecoderStep, source: CopySource, said_NT: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if options.top_k:
            # By id, as all words are below: unlike an order by probability it does not depend on rounding.
            candidates = next_words.best(state, source, said_NT, options.top_k).by_id()
        else:
            candidates = next_words.all(state, source, said_NT, extended_size)
        weights_NK = tempered(candidates.score, options.temperature)
        if options.top_p < 1:
            weights_NK = nucleus(weights_NK, options.top_p)
        place_N1 = draw(weights_NK, uniform_BT[rows, said_NT.shape[1]])[:, None]
        return candidates.ids.gather(1, place_N1)[:, 0], candidates.log_probability.gather(1, place_N1)[:, 0]

    return choose


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


def nucleus(weights_NK: Tensor, top_p: float) -> Tensor:
    """Set all probabilities to 0 but the fewest largest ones that are at least `top_p` together (first of equal ones).

    Instead of sorting the vocabulary: collect the probabilities in narrow classes, find the class in which the sum
    reaches `top_p`, and sort that one alone.
    """
    depth_NK = (weights_NK.amax(dim=1, keepdim=True) / weights_NK).log()
    class_NK = (depth_NK * CLASSES_PER_NAT).clamp_max(CLASSES - 1).long()
    masses = torch.zeros((len(weights_NK), CLASSES), dtype=torch.float64, device=weights_NK.device)
    masses.scatter_add_(1, class_NK, weights_NK.double())
    cumulative = masses.cumsum(dim=1)
    border_N1 = (cumulative < top_p).sum(dim=1, keepdim=True).clamp_max(CLASSES - 1)
    at_border_NK = (class_NK == border_N1) & (weights_NK > 0)
    best_NC, places_NC = top_k(weights_NK * at_border_NK, max(1, int(at_border_NK.sum(dim=1).max())))
    better_N1 = (cumulative - masses).gather(1, border_N1)
    before_NC = better_N1 + best_NC.cumsum(dim=1, dtype=torch.float64) - best_NC
    kept_NK = torch.zeros_like(at_border_NK).scatter(1, places_NC, (best_NC > 0) & (before_NC < top_p))
    return weights_NK * (kept_NK | (class_NK < border_N1))


def draw(weights_NK: Tensor, uniform_N: Tensor) -> Tensor:
    """Draw one place of each row [N] by its weights: where their sum up to there exceeds `uniform` times the total."""
    cumulative_NK = weights_NK.cumsum(dim=1, dtype=torch.float64)
    total_N = cumulative_NK[:, -1]
    # Below the total even after rounding, so that a word with weight 0 is never drawn.
    target_N = torch.minimum(uniform_N * total_N, torch.nextafter(total_N, torch.zeros_like(total_N)))
    return torch.searchsorted(cumulative_NK, target_N[:, None], right=True)[:, 0]
