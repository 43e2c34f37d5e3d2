"""Beam search: the replies with the highest length-normalised scores among those that a beam of prefixes reaches.

The score of a reply y_1..y_L is (sum of the scores of its words) / L^alpha, where EOS, which the sum holds, counts as a
word: an empty reply has length 1. Without rules against repetition a word's score is its log-probability. At each
step, with beam size b:

1. All prefixes are continued by all words, and the continuations ranked by the sum of their scores.
2. Those among the best b that end with EOS are finished replies; the n best finished ones of each example are kept.
3. The best b that do not end with EOS are the next prefixes.

At the length limit the remaining prefixes are finished as they are. An example ends before that when no prefix can
become better than its n-th best finished reply: scores of words are never positive, so a prefix with sum s becomes at
best s / limit^alpha (alpha >= 0). With b = 1 and alpha = 0 the result is that of greedy decoding. Of equal scores the
one that was finished earlier, or whose prefix ranks higher, comes first.

Axes: A active examples, P prefixes of each (1 at first, then b), R = A P rows of the decoder, K continuations,
T words said, N replies kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ctsm.decoding.next_words import Candidates, NextWords
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.single import Hypothesis, hypotheses
from ctsm.models.base import Context, EmpatheticModel
from ctsm.nn.top_k import top_k
from ctsm.text.vocabulary import EOS, PAD

NONE = float("-inf")
"""Score of a place that holds nothing."""


class Prefixes(NamedTuple):
    """Replies or their beginnings, best first.

    Attributes:
        words: extended word ids [A, P, T].
        score: sum of the words' scores [A, P]; NONE where there is no prefix.
        log_probability: sum of the model's log-probabilities [A, P].
        parent: the prefix of the step before that was continued [A, P].
    """

    words: Tensor
    score: Tensor
    log_probability: Tensor
    parent: Tensor


class Kept:
    """The best finished replies of each example of the batch.

    Args:
        count: examples.
        options: how many replies to keep, their length limit and alpha.
        device: where they are kept.
    """

    def __init__(self, count: int, options: DecodingOptions, device: torch.device) -> None:
        self._options = options
        self._score = torch.full((count, options.n_best), NONE, dtype=torch.float64, device=device)
        self._log_probability = torch.zeros_like(self._score)
        self._words = torch.full((count, options.n_best, options.max_tokens), EOS, device=device)

    def add(self, examples_A: Tensor, replies: Prefixes, length: int) -> None:
        """Keep the best of what is kept and of `replies`, which have this length; those with score NONE are none."""
        padding = (0, self._options.max_tokens - replies.words.shape[2])
        words = torch.cat([self._words[examples_A], F.pad(replies.words, padding, value=EOS)], dim=1)
        log_probability = torch.cat([self._log_probability[examples_A], replies.log_probability], dim=1)
        scores = torch.cat([self._score[examples_A], self._normalised(replies.score, length)], dim=1)
        self._score[examples_A], order = top_k(scores, self._options.n_best)
        self._log_probability[examples_A] = log_probability.gather(1, order)
        self._words[examples_A] = words.gather(1, order[:, :, None].expand(-1, -1, words.shape[2]))

    def can_improve(self, examples_A: Tensor, prefixes: Prefixes) -> Tensor:
        """Return for which examples a prefix could still become better than the worst reply kept [A]."""
        return self._normalised(prefixes.score[:, 0], self._options.max_tokens) > self._score[examples_A, -1]

    def replies(self) -> list[list[Hypothesis]]:
        """Return the replies of each example, best first."""
        flat = hypotheses(self._words.flatten(0, 1), self._log_probability.flatten())
        there = (self._score > NONE).tolist()
        n = self._options.n_best
        return [[flat[row * n + place] for place in range(n) if there[row][place]] for row in range(len(there))]

    def _normalised(self, scores: Tensor, length: int) -> Tensor:
        return scores / float(length) ** self._options.length_penalty


@torch.inference_mode()
def beam_search(model: EmpatheticModel, context: Context, options: DecodingOptions) -> list[list[Hypothesis]]:
    """Return the n best replies to each context, best first (fewer where there are not as many).

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        options: with the method "beam".
    """
    *_, replies = beam_steps(model, context, options)
    return replies or []


def beam_steps(
    model: EmpatheticModel, context: Context, options: DecodingOptions
) -> Iterator[list[list[Hypothesis]] | None]:
    """Search step by step, so that a caller can do other things in between; arguments as for `beam_search`.

    Yields:
        None after each step, and the replies at last.
    """
    device = context.memory.device
    next_words = NextWords.of(model, options, device)
    count = context.memory.shape[0]
    kept = Kept(count, options, device)
    examples, source, cache = torch.arange(count, device=device), context.source, model.start_decoding(context)
    prefixes = _empty_prefixes(count, device)
    for length in range(1, options.max_tokens + 1):
        width = prefixes.score.shape[1]
        said_RT = prefixes.words.flatten(0, 1)
        state = model.decode(said_RT[:, -1:], context, cache)
        # Of one prefix at most b continuations go on, and one ends.
        candidates = next_words.best(state, source, said_RT, options.beam_size + 1)
        finished, prefixes = _continue(prefixes, candidates, options.beam_size)
        kept.add(examples, finished, length)
        if length == options.max_tokens:
            kept.add(examples, prefixes, length)
            break
        going = kept.can_improve(examples, prefixes).nonzero().squeeze(1)
        if going.numel() == 0:
            break
        parents_R = (going[:, None] * width + prefixes.parent[going]).flatten()
        cache = cache.select(parents_R)
        if len(going) < len(examples) or width < options.beam_size:
            source = source.rows(parents_R)
        examples, prefixes = examples[going], Prefixes(*(field[going] for field in prefixes))
        yield None
    yield kept.replies()


def _empty_prefixes(count: int, device: torch.device) -> Prefixes:
    """Return one prefix without words for each example."""
    zeros = torch.zeros((count, 1), dtype=torch.float64, device=device)
    nothing = torch.empty((count, 1, 0), dtype=torch.long, device=device)
    return Prefixes(nothing, zeros, zeros, torch.zeros((count, 1), dtype=torch.long, device=device))


def _continue(prefixes: Prefixes, candidates: Candidates, beam_size: int) -> tuple[Prefixes, Prefixes]:
    """Continue all prefixes by one word; returns the finished replies (without EOS) and the next prefixes, b of each.

    Args:
        prefixes: of the step before.
        candidates: for each prefix [R, K].
        beam_size: b.
    """
    shape = (*prefixes.score.shape, -1)
    score_AC = (prefixes.score[:, :, None] + candidates.score.double().reshape(shape)).flatten(1)
    log_AC = (prefixes.log_probability[:, :, None] + candidates.log_probability.double().reshape(shape)).flatten(1)
    ids_AC = candidates.ids.reshape(shape).flatten(1)
    # Room for b prefixes also where there are fewer words.
    missing = (0, max(0, 2 * beam_size - score_AC.shape[1]))
    score_AC = F.pad(score_AC, missing, value=NONE)
    # At most b continuations end, one of each prefix, so that at least b of the best 2 b go on.
    score_AC, order_AC = top_k(score_AC, 2 * beam_size)
    log_AC = F.pad(log_AC, missing).gather(1, order_AC)
    ids_AC = F.pad(ids_AC, missing, value=PAD).gather(1, order_AC)
    parent_AC = (order_AC // candidates.ids.shape[1]).clamp_max(prefixes.score.shape[1] - 1)
    ends_AC = ids_AC == EOS
    said_ACT = prefixes.words.gather(1, parent_AC[:, :, None].expand(-1, -1, prefixes.words.shape[2]))
    ranked = Prefixes(said_ACT, score_AC, log_AC, parent_AC)
    finished = Prefixes(*(field[:, :beam_size] for field in ranked))
    finished = finished._replace(score=finished.score.masked_fill(~ends_AC[:, :beam_size], NONE))
    on_AP = ends_AC.to(torch.uint8).sort(dim=1, stable=True).indices[:, :beam_size]
    words_ACT = torch.cat([said_ACT, ids_AC[:, :, None]], dim=2)
    following = Prefixes(
        words_ACT.gather(1, on_AP[:, :, None].expand(-1, -1, words_ACT.shape[2])),
        score_AC.gather(1, on_AP),
        log_AC.gather(1, on_AP),
        parent_AC.gather(1, on_AP),
    )
    return finished, following
