"""The pointer-generator output layer (See et al. 2017): one distribution over words that are generated or copied.

With h a decoder state, l = W h + b the vocabulary scores, g = sigmoid(v h + c) the gate, a_s the cross-attention
scores of the copyable source positions s and x_s the word there,

    log p(y) = logaddexp(log g + log softmax(l)_y,  log(1 - g) + log sum_{s: x_s = y} softmax(a)_s).

Everything stays in log space and nothing is clamped: a word that is not in the source has exactly the first term, and
with nothing to copy g is 1. Word ids from V upwards name words of one source that the vocabulary lacks; they can only
be copied. Training and greedy decoding never build the [., V] mixture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.masking import MASKED
from ctsm.nn.output import OutputLayer
from ctsm.nn.precision import Linear
from ctsm.nn.top_k import top_k
from ctsm.text.vocabulary import PAD


class Scored(NamedTuple):
    """Per packed position N: log p(target) and the word the mixture likes best."""

    log_probability: Tensor
    best: Tensor


class Smoothed(NamedTuple):
    """Per packed position N: the label-smoothed loss and the plain -log p(target)."""

    loss: Tensor
    nll: Tensor


class CopySource(NamedTuple):
    """What may be copied, one row for each example or packed position.

    Attributes:
        ids: extended word ids [., S].
        copyable: False at padding and CLS [., S].
        first: for each position, the first position that holds the same word [., S].
    """

    ids: Tensor
    copyable: Tensor
    first: Tensor

    @classmethod
    def of(cls, ids_BS: Tensor, copyable_BS: Tensor) -> CopySource:
        """Find the repeated words of a batch once; every step of decoding then needs only look-ups."""
        same_BSS = ids_BS[:, :, None] == ids_BS[:, None, :]
        return cls(ids_BS, copyable_BS, same_BSS.to(torch.uint8).argmax(dim=-1))

    def rows(self, index: Tensor) -> CopySource:
        """Select or repeat rows."""
        return CopySource(self.ids[index], self.copyable[index], self.first[index])


class PointerGenerator(nn.Module):
    """Vocabulary projection, copy gate and their exact mixture.

    Args:
        size: width of the decoder states.
        vocabulary_size: V.
    """

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary = OutputLayer(size, vocabulary_size)
        self.gate = Linear(size, 1)

    def score(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, target_N: Tensor) -> Scored:
        """Score target words and find the mixture's best words, in one pass over the vocabulary scores.

        Args:
            hidden_ND: decoder states of real target positions [N, D].
            copy_scores_NS: cross-attention scores of those positions [N, S].
            source: each position's source (rows repeated as needed) [N, S].
            target_N: extended word ids [N].
        """
        log_words_NV = F.log_softmax(self.vocabulary(hidden_ND), dim=-1)
        log_gates = self._log_gate(hidden_ND, source)
        with torch.no_grad():
            best = self._best(log_words_NV, *log_gates, copy_scores_NS, source, source.copyable)[0]
        return Scored(self._log_target(log_words_NV, *log_gates, copy_scores_NS, source, target_N), best)

    def smoothed(
        self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, target_N: Tensor, smoothing: float
    ) -> Smoothed:
        """Return the cross-entropy of the mixture with the label-smoothed target, and without smoothing.

        The smoothed target has 1 - smoothing on the word and the rest evenly on the other words of the vocabulary but
        PAD; the loss is its divergence from the mixture plus a constant, its own entropy. The mixture's sum over the
        vocabulary is the generated part's plus what copying adds at the words of the source.
        """
        log_words_NV = F.log_softmax(self.vocabulary(hidden_ND), dim=-1)
        size = log_words_NV.shape[-1]
        log_generate, log_copy = self._log_gate(hidden_ND, source)
        log_target_N = self._log_target(log_words_NV, log_generate, log_copy, copy_scores_NS, source, target_N)
        known_NS = _earliest(source) & (source.ids < size)
        generated_NS = log_generate[:, None] + log_words_NV.gather(1, source.ids.where(known_NS, 0))
        odds_NS = log_copy[:, None] + _log_word_mass(copy_scores_NS, source) - generated_NS
        added_NS = torch.logaddexp(odds_NS.new_zeros(()), odds_NS.masked_fill(~known_NS, float("-inf")))
        known_N = target_N < size
        others_N = (size - 1) * log_generate + log_words_NV.sum(dim=-1) - log_words_NV[:, PAD] + added_NS.sum(dim=-1)
        others_N = others_N - log_target_N.where(known_N, 0.0)
        share_N = smoothing / (size - 1 - known_N.to(others_N.dtype))
        return Smoothed(-(1.0 - smoothing) * log_target_N - share_N * others_N, -log_target_N)

    @torch.no_grad()
    def best_word(
        self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, banned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable extended word id [N] and its log-probability [N].

        Args:
            hidden_ND: decoder states [N, D].
            copy_scores_NS: cross-attention scores [N, S].
            source: what may be copied.
            banned: vocabulary ids that are never chosen (special tokens); the probabilities are not renormalised.
        """
        log_allowed_NV = self.vocabulary.log_probabilities(hidden_ND).index_fill_(1, banned, float("-inf"))
        log_generate, log_copy = self._log_gate(hidden_ND, source)
        allowed_NS = source.copyable & ~torch.isin(source.ids, banned)
        return self._best(log_allowed_NV, log_generate, log_copy, copy_scores_NS, source, allowed_NS)

    @torch.no_grad()
    def top_words(
        self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, banned: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Return the k most probable extended word ids [N, k] and their log-probabilities [N, k], best first.

        Every word appears once. Of equally probable words those of the source come first, in its order, then the
        others by id; so the first word is the one that `best_word` returns. If fewer words are possible, the entries
        left over have log-probability -inf and name no word. At most V + S entries are returned.

        Args:
            hidden_ND: decoder states [N, D].
            copy_scores_NS: cross-attention scores [N, S].
            source: what may be copied.
            banned: vocabulary ids that are never chosen (special tokens); the probabilities are not renormalised.
            k: number of words.
        """
        log_words_NV = self.vocabulary.log_probabilities(hidden_ND)
        log_generate, log_copy = self._log_gate(hidden_ND, source)
        mixture_NS = self._source_mixtures(log_words_NV, log_generate, log_copy, copy_scores_NS, source)
        allowed_NS = _earliest(source) & ~torch.isin(source.ids, banned)
        # The source's words leave the vocabulary part. Their -inf is added, not set: a word that the vocabulary lacks
        # borrows column 0 and must leave it as it is.
        known_NS = source.copyable & (source.ids < log_words_NV.shape[-1])
        removed_NS = torch.zeros_like(mixture_NS).masked_fill_(known_NS, float("-inf"))
        log_words_NV.scatter_add_(1, source.ids.where(known_NS, 0), removed_NS).index_fill_(1, banned, float("-inf"))
        value_NK, word_NK = top_k(log_words_NV, min(k, log_words_NV.shape[-1]))
        value_NC = torch.cat(
            [mixture_NS.masked_fill(~allowed_NS, float("-inf")), value_NK + log_generate[:, None]], dim=1
        )
        value_NK, place_NK = top_k(value_NC, min(k, value_NC.shape[1]))
        return torch.cat([source.ids, word_NK], dim=1).gather(1, place_NK), value_NK

    def distribution(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, extended_size: int) -> Tensor:
        """Return the whole log-distribution [N, extended_size] (at least V): for sampling, beam search and tests."""
        log_generate, log_copy = self._log_gate(hidden_ND, source)
        vocabulary_NV = log_generate[:, None] + self.vocabulary.log_probabilities(hidden_ND)
        generated = F.pad(vocabulary_NV, (0, extended_size - vocabulary_NV.shape[-1]), value=float("-inf"))
        nowhere = torch.full_like(generated, float("-inf"))
        copied = nowhere.scatter_reduce(1, source.ids, _log_word_mass(copy_scores_NS, source), "amax")
        return torch.logaddexp(generated, log_copy[:, None] + copied)

    def copy_weights(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource) -> Tensor:
        """Return the probability of copying from each source position [N, S]; a row sums to 1 - g."""
        log_copy_N = self._log_gate(hidden_ND, source)[1]
        weights_NS = torch.softmax(copy_scores_NS.masked_fill(~source.copyable, MASKED), dim=-1)
        return log_copy_N.exp()[:, None] * weights_NS.masked_fill(~source.copyable, 0.0)

    @staticmethod
    def _log_target(
        log_words_NV: Tensor,
        log_generate: Tensor,
        log_copy: Tensor,
        copy_scores_NS: Tensor,
        source: CopySource,
        target_N: Tensor,
    ) -> Tensor:
        """Log-probability of the target words under the mixture [N]."""
        known = target_N < log_words_NV.shape[-1]
        generated = log_generate - F.nll_loss(log_words_NV, target_N.where(known, 0), reduction="none")
        match_NS = (source.ids == target_N[:, None]) & source.copyable
        copied = match_NS.any(dim=-1)
        # Where nothing matches, every position counts as a match: the branch that is not taken stays finite.
        copy_term = log_copy + _log_copy_mass(copy_scores_NS, source, match_NS | ~copied[:, None])
        mixed = torch.where(known, torch.logaddexp(generated, copy_term), copy_term)
        return torch.where(copied, mixed, generated.masked_fill(~known, float("-inf")))

    def _log_gate(self, hidden_ND: Tensor, source: CopySource) -> tuple[Tensor, Tensor]:
        """Return log g and log(1 - g) [N]; 0 and -inf-like where there is nothing to copy."""
        gate_N = self.gate(hidden_ND).squeeze(-1)
        nothing = ~source.copyable.any(dim=-1)
        return F.logsigmoid(gate_N).masked_fill(nothing, 0.0), F.logsigmoid(-gate_N).masked_fill(nothing, float("-inf"))

    @staticmethod
    def _best(
        log_words_NV: Tensor,
        log_generate: Tensor,
        log_copy: Tensor,
        copy_scores_NS: Tensor,
        source: CopySource,
        allowed_NS: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Arg-max of the mixture: the best of the vocabulary part and of the source words' mixtures.

        Copying only adds probability, so the best word is either the vocabulary part's best or a source word.
        """
        mixture_NS = PointerGenerator._source_mixtures(log_words_NV, log_generate, log_copy, copy_scores_NS, source)
        copy_value, position = mixture_NS.masked_fill(~allowed_NS, float("-inf")).max(dim=-1)
        best_value, best_word = top_k(log_words_NV, 1)
        word_value, word = best_value.squeeze(1) + log_generate, best_word.squeeze(1)
        take_copy = copy_value >= word_value
        copied_word = source.ids.gather(1, position[:, None]).squeeze(1)
        return torch.where(take_copy, copied_word, word), torch.where(take_copy, copy_value, word_value)

    @staticmethod
    def _source_mixtures(
        log_words_NV: Tensor, log_generate: Tensor, log_copy: Tensor, copy_scores_NS: Tensor, source: CopySource
    ) -> Tensor:
        """Log-probability of the word at each source position, generated or copied from any of its places [N, S]."""
        known_NS = source.ids < log_words_NV.shape[-1]
        generated_NS = log_generate[:, None] + log_words_NV.gather(1, source.ids.where(known_NS, 0))
        generated_NS = generated_NS.masked_fill(~known_NS, float("-inf"))
        return torch.logaddexp(generated_NS, log_copy[:, None] + _log_word_mass(copy_scores_NS, source))


def _log_word_mass(copy_scores_NS: Tensor, source: CopySource) -> Tensor:
    """Log of the attention mass of the word at each position, over all its occurrences [N, S]; -inf if not copyable."""
    log_weights = torch.log_softmax(copy_scores_NS.masked_fill(~source.copyable, MASKED), dim=-1)
    zeros = torch.zeros_like(log_weights)
    peak = zeros.scatter_reduce(1, source.first, log_weights, "amax", include_self=False).gather(1, source.first)
    total = zeros.scatter_add(1, source.first, torch.exp(log_weights - peak)).gather(1, source.first)
    return (peak + total.log()).masked_fill(~source.copyable, float("-inf"))


def _earliest(source: CopySource) -> Tensor:
    """Return which copyable positions are the first copyable ones of their word [N, S]."""
    places_NS = torch.arange(source.ids.shape[1], device=source.ids.device).expand_as(source.ids)
    copyable_NS = places_NS.masked_fill(~source.copyable, source.ids.shape[1])
    earliest_NS = copyable_NS.scatter_reduce(1, source.first, copyable_NS, "amin").gather(1, source.first)
    return source.copyable & (earliest_NS == places_NS)


def _log_copy_mass(copy_scores_NS: Tensor, source: CopySource, match_NS: Tensor) -> Tensor:
    """Log of the attention mass on the matching positions [N]."""
    matching = torch.logsumexp(copy_scores_NS.masked_fill(~match_NS, MASKED), dim=-1)
    return matching - torch.logsumexp(copy_scores_NS.masked_fill(~source.copyable, MASKED), dim=-1)
