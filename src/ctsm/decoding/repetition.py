"""Rules against repetition: what a reply has said changes the scores of what it may say next.

With y_1..y_t the words said and log p the model's log-probabilities, the score of a word w is

    -inf            if y_{t-n+2}..y_t w occurs in y_1..y_t already   (no_repeat_ngram n; n = 1: if w was said)
    theta * log p   if w was said                                    (repetition_penalty theta >= 1)
    log p           otherwise.

The penalty is that of Keskar et al. (2019, CTRL), section 4.1, on log-probabilities instead of logits: these are never
positive, so multiplying always lowers them, and p becomes p^theta. EOS is never said, so a reply can always end.

Axes: N replies, T words said, K candidates, X extended vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctsm.decoding.options import DecodingOptions


def affected_words(said: int, options: DecodingOptions) -> int:
    """Return how many words at most have another score than log p after `said` words."""
    if options.repetition_penalty > 1:
        return said
    return max(0, said - options.no_repeat_ngram + 1) if options.no_repeat_ngram else 0


def candidate_scores(log_probability_NK: Tensor, ids_NK: Tensor, said_NT: Tensor, options: DecodingOptions) -> Tensor:
    """Score candidate words [N, K].

    Args:
        log_probability_NK: of each candidate, by the model.
        ids_NK: extended word ids of the candidates.
        said_NT: extended word ids of the reply so far.
        options: the rules.
    """
    penalised = (ids_NK[:, :, None] == said_NT[:, None, :]).any(dim=2)
    blocked = (ids_NK[:, :, None] == _completions(said_NT, options.no_repeat_ngram)[:, None, :]).any(dim=2)
    scores_NK = torch.where(penalised, log_probability_NK * options.repetition_penalty, log_probability_NK)
    return scores_NK.masked_fill(blocked, float("-inf"))


def distribution_scores(log_probability_NX: Tensor, said_NT: Tensor, options: DecodingOptions) -> Tensor:
    """Score the whole extended vocabulary [N, X]; the same as `candidate_scores` with every word a candidate."""
    penalised_NT = log_probability_NX.gather(1, said_NT) * options.repetition_penalty
    scores_NX = log_probability_NX.scatter(1, said_NT, penalised_NT)
    completions_NC = _completions(said_NT, options.no_repeat_ngram)
    blocked_NC = torch.where(completions_NC == NO_WORD, 0.0, float("-inf")).to(scores_NX)
    return scores_NX.scatter_add(1, completions_NC.clamp_min(0), blocked_NC)


NO_WORD = -1


def _completions(said_NT: Tensor, n: int) -> Tensor:
    """Return the words that would repeat an n-gram [N, C]: those that followed the last n - 1 words; else NO_WORD."""
    if not 0 < n <= said_NT.shape[1]:
        return said_NT[:, :0]
    ngrams_NCn = said_NT.unfold(1, n, 1)
    last_N1n = said_NT[:, None, said_NT.shape[1] - n + 1 :]
    repeated_NC = (ngrams_NCn[:, :, :-1] == last_N1n).all(dim=2)
    return ngrams_NCn[:, :, -1].masked_fill(~repeated_NC, NO_WORD)
