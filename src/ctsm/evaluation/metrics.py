"""The numbers of the paper's Tables 1 and 3, as `docs/metrics.md` defines them (numpy only).

Legend: N examples (one per listener turn), E emotions. Accuracies, Dist and BLEU are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctsm.errors import MissingExtraError


@dataclass(frozen=True)
class Distinct:
    """Dist-n of a set of replies: `ratio_percent` = 100 * `distinct` / `total` n-grams, 0.0 when there are none."""

    ratio_percent: float
    distinct: int
    total: int


@dataclass(frozen=True)
class Bleu:
    """A corpus BLEU-4 in percent and the sacrebleu signature that says how it was computed."""

    score: float
    signature: str


@dataclass(frozen=True)
class ReplyStatistics:
    """Mean length in tokens, number of different replies, and number of replies without a token."""

    mean_length: float
    distinct_replies: int
    empty: int


def distinct(replies: Sequence[Sequence[str]], n: int) -> Distinct:
    """Return Dist-n over a whole set of replies (Li et al. 2016; the paper's section 4.3).

    N-grams never cross the border between two replies. The ratio falls as the number of replies grows, so it
    means nothing without that number.

    Args:
        replies: the tokens of each reply.
        n: the length of the n-grams, at least 1.
    """
    if n < 1:
        raise ValueError(f"n-grams have at least one token, not {n}")
    seen: set[tuple[str, ...]] = set()
    total = 0
    for reply in replies:
        seen.update(zip(*(reply[start:] for start in range(n)), strict=False))
        total += max(0, len(reply) - n + 1)
    return Distinct(100.0 * len(seen) / total if total else 0.0, len(seen), total)


def perplexity_by_example(nll: ArrayLike, tokens: ArrayLike) -> float:
    """Return exp of the mean over examples of each example's mean negative log-likelihood per token.

    This is what the papers of this family print as PPL (their test batches hold one example).

    Args:
        nll: [N] natural-log likelihoods, negated and summed over an example's target tokens, EOS included.
        tokens: [N] number of those tokens.
    """
    sums, counts = _likelihoods(nll, tokens)
    return float(np.exp(np.mean(sums / counts)))


def perplexity_by_token(nll: ArrayLike, tokens: ArrayLike) -> float:
    """Return exp of the mean negative log-likelihood over all tokens: the usual definition, and a higher number.

    Args:
        nll: [N] as for `perplexity_by_example`.
        tokens: [N] as for `perplexity_by_example`.
    """
    sums, counts = _likelihoods(nll, tokens)
    return float(np.exp(sums.sum() / counts.sum()))


def accuracy(predicted: ArrayLike, gold: ArrayLike) -> float:
    """Return the percentage of examples whose predicted emotion is the conversation's label.

    Args:
        predicted: [N] emotion ids.
        gold: [N] emotion ids.
    """
    ours, labels = np.asarray(predicted), np.asarray(gold)
    if ours.shape != labels.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"predicted and gold must be two [N] arrays with N >= 1, not {ours.shape} and {labels.shape}")
    return float(100.0 * np.mean(ours == labels))


def top_k_accuracy(scores: ArrayLike, gold: ArrayLike, k: int) -> float:
    """Return the percentage of examples whose label is among the k highest scores.

    Among equal scores the smaller emotion id ranks first, as in a stable sort and in argmax, so k = 1 equals
    `accuracy` of the argmax.

    Args:
        scores: [N, E] logits or probabilities, none of them NaN.
        gold: [N] emotion ids in 0..E-1.
        k: how many emotions count, at least 1.
    """
    table, labels = np.asarray(scores, dtype=np.float64), np.asarray(gold)
    if table.ndim != 2 or labels.shape != table.shape[:1] or not len(labels) or k < 1:
        raise ValueError(f"need [N, E] scores, [N] labels and k >= 1, not {table.shape}, {labels.shape} and {k}")
    if np.isnan(table).any():
        raise ValueError("a score is NaN, so there is no ranking")
    if labels.min() < 0 or labels.max() >= table.shape[1]:
        raise ValueError(f"labels must be in 0..{table.shape[1] - 1}")
    own = np.take_along_axis(table, labels[:, None], axis=1)
    earlier = np.arange(table.shape[1])[None, :] < labels[:, None]
    rank = np.sum((table > own) | ((table == own) & earlier), axis=1)
    return float(100.0 * np.mean(rank < k))


def bleu4(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Bleu:
    """Return the corpus BLEU-4 of tokenised replies against one tokenised reference each (sacrebleu, no tokeniser).

    Args:
        hypotheses: the tokens of each reply; an empty reply is allowed.
        references: the tokens of each reference, none of them empty.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"need as many references as replies, not {len(references)} for {len(hypotheses)}")
    if not all(references):
        raise ValueError("a reference has no token, so BLEU is not defined")
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise MissingExtraError("eval", "BLEU") from None
    # force: the text is tokenised on purpose, sacrebleu need not warn about it
    metric = BLEU(tokenize="none", force=True)
    result = metric.corpus_score([" ".join(tokens) for tokens in hypotheses], [[" ".join(r) for r in references]])
    return Bleu(float(result.score), str(metric.get_signature()))


def reply_statistics(replies: Sequence[Sequence[str]]) -> ReplyStatistics:
    """Return the length and variety of a set of replies; the mean length of no replies is 0.0."""
    lengths = [len(reply) for reply in replies]
    return ReplyStatistics(
        mean_length=sum(lengths) / len(lengths) if lengths else 0.0,
        distinct_replies=len({tuple(reply) for reply in replies}),
        empty=lengths.count(0),
    )


def _likelihoods(nll: ArrayLike, tokens: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both arguments as float64 [N] after checking that every example has a target token."""
    sums, counts = np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if sums.shape != counts.shape or sums.ndim != 1 or not len(sums):
        raise ValueError(f"nll and tokens must be two [N] arrays with N >= 1, not {sums.shape} and {counts.shape}")
    if counts.min() < 1:
        raise ValueError("every example has at least one target token (EOS)")
    return sums, counts
