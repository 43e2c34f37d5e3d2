"""How sure a score or a difference of two scores is, from per-example files (numpy and scipy only).

Turns of one conversation are alike, so the bootstrap draws whole conversations (Koehn 2004 draws sentences). Dist has
no bootstrap interval: drawing a reply twice repeats its n-grams and lowers the ratio. Its test swaps replies between
the two systems (approximate randomisation, Noreen 1989).

Legend: N examples, C conversations, R resamples, K columns of sums, G different n-grams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctsm.evaluation.records import Interval, PerExample

RESAMPLES = 10_000
SEED = 2024
LEVEL = 0.95
CHUNK = 250  # resamples at a time: bounds the memory

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of a system minus that of the reference, on the same examples.

    `interval` is None for Dist; `p` is two-sided and not corrected for other comparisons.
    """

    metric: str
    difference: float
    interval: Interval | None
    p: float


def sampling_intervals(
    examples: Sequence[PerExample], resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[Interval | None, Interval]:
    """Return the 95 % intervals of Acc (None without emotions) and of PPL by example, over conversations.

    Args:
        examples: at least one.
        resamples: how many sets of conversations are drawn.
        seed: of the draws.
    """
    sums = resampled_sums(_columns(examples), _conversations(examples), resamples, seed)
    acc = None if examples[0].correct is None else _interval(_acc(sums))
    return acc, _interval(_ppl(sums))


def differences(
    reference: Sequence[PerExample], other: Sequence[PerExample], resamples: int = RESAMPLES, seed: int = SEED
) -> list[Difference]:
    """Compare two systems on the same examples in the same order: Acc where both have it, PPL, Dist-1 and Dist-2.

    Args:
        reference: what is subtracted.
        other: the other system's examples.
        resamples: sets of conversations drawn, and random swaps tried.
        seed: of both.

    Raises:
        ValueError: the examples or their conversations differ.
    """
    if [(one.id, one.conversation_id) for one in reference] != [(one.id, one.conversation_id) for one in other]:
        raise ValueError("the two systems must have replied to the same examples in the same order")
    columns, conversations = (_columns(reference), _columns(other)), _conversations(reference)
    both = resampled_sums(np.concatenate(columns, axis=1), conversations, resamples, seed)
    width = columns[0].shape[1]
    drawn, observed = (both[:, :width], both[:, width:]), [column.sum(axis=0)[None] for column in columns]
    found = [
        _bootstrapped(name, float((score(observed[1]) - score(observed[0]))[0]), score(drawn[1]) - score(drawn[0]))
        for name, score in (("Acc", _acc), ("PPL", _ppl))
        if name != "Acc" or (reference[0].correct is not None and other[0].correct is not None)
    ]
    replies = [[one.reply_tokens for one in examples] for examples in (reference, other)]
    return found + [randomised_dist(replies[0], replies[1], n, resamples, seed) for n in (1, 2)]


def resampled_sums(values_NK: Floats, conversations_N: NDArray[np.int64], resamples: int, seed: int) -> Floats:
    """Sum columns over sets of C conversations drawn with replacement from the C there are: [R, K].

    Args:
        values_NK: what is summed.
        conversations_N: number of each example's conversation, 0..C-1.
        resamples: R.
        seed: of the draws.
    """
    count = int(conversations_N.max()) + 1
    sums_CK = np.zeros((count, values_NK.shape[1]))
    np.add.at(sums_CK, conversations_N, values_NK)
    random = np.random.default_rng(seed)
    parts = []
    for rows in _chunks(resamples):
        drawn = random.integers(0, count, size=(rows, count))
        flat = np.bincount((drawn + np.arange(rows)[:, None] * count).ravel(), minlength=rows * count)
        parts.append(flat.reshape(rows, count) @ sums_CK)
    return np.concatenate(parts)


def randomised_dist(
    reference: Sequence[Sequence[str]],
    other: Sequence[Sequence[str]],
    n: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Test the difference of two Dist-n (in percent) by swapping the two replies to an example with probability 1/2.

    The p-value is the share of swaps with a difference at least as large, the observed one counted among them.

    Args:
        reference: the tokens of each reply [N].
        other: the other system's replies to the same examples [N].
        n: the length of the n-grams.
        resamples: swaps that are tried.
        seed: of the swaps.
    """
    holds_first, holds_second = _occurrences(reference, other, n)
    change_NG = (holds_second - holds_first).tocsc()
    types_first, types_second = (np.asarray(one.sum(axis=0)).ravel() for one in (holds_first, holds_second))
    totals_first, totals_second = (_totals(one, n) for one in (reference, other))
    moved_N = totals_second - totals_first

    def difference(swaps_RN: NDArray[np.float32]) -> Floats:
        gained_RG = swaps_RN @ change_NG
        first = _ratio(types_first + gained_RG, totals_first.sum() + swaps_RN @ moved_N)
        second = _ratio(types_second - gained_RG, totals_second.sum() - swaps_RN @ moved_N)
        return second - first

    observed = float(difference(np.zeros((1, len(reference)), dtype=np.float32))[0])
    random = np.random.default_rng(seed)
    as_large = 0
    for rows in _chunks(resamples):
        swaps = random.integers(0, 2, size=(rows, len(reference)), dtype=np.int8).astype(np.float32)
        # The same difference reached by other sums may come out a rounding error smaller.
        as_large += int(np.sum(np.abs(difference(swaps)) >= abs(observed) - 1e-9))
    return Difference(metric=f"Dist-{n}", difference=observed, interval=None, p=(1 + as_large) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): each compares with the level itself.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than one before it.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(scaled)
    return [float(value) for value in corrected]


def _columns(examples: Sequence[PerExample]) -> Floats:
    """Return what the scores are sums of [N, 3]: one, correct (0 without emotions), mean negative log-likelihood."""
    return np.array([(1.0, float(one.correct or 0), one.nll / one.tokens) for one in examples])


def _acc(sums_RK: Floats) -> Floats:
    return 100.0 * sums_RK[:, 1] / sums_RK[:, 0]


def _ppl(sums_RK: Floats) -> Floats:
    return np.exp(sums_RK[:, 2] / sums_RK[:, 0])


def _conversations(examples: Sequence[PerExample]) -> NDArray[np.int64]:
    """Number the conversations from 0 on."""
    return np.unique([one.conversation_id for one in examples], return_inverse=True)[1].astype(np.int64)


def _interval(values: Floats) -> Interval:
    """Return the percentile interval."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def _bootstrapped(metric: str, observed: float, drawn_R: Floats) -> Difference:
    """Turn resampled differences into an interval and the p-value that fits it: small when they keep one sign."""
    rarer = min(int(np.sum(drawn_R <= 0)), int(np.sum(drawn_R >= 0)))
    p = min(1.0, 2 * (1 + rarer) / (1 + len(drawn_R)))
    return Difference(metric=metric, difference=observed, interval=_interval(drawn_R), p=p)


def _occurrences(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]], n: int) -> tuple[Any, Any]:
    """Return two sparse matrices [N, G] that are 1 where a reply has an n-gram, over the n-grams of both systems."""
    from scipy import sparse  # tables, which only name the method, need not wait for it

    numbers: dict[tuple[str, ...], int] = {}
    pairs: list[tuple[list[int], list[int]]] = []
    for replies in (first, second):
        rows, grams = list[int](), list[int]()
        for row, reply in enumerate(replies):
            for gram in set(_grams(reply, n)):
                rows.append(row)
                grams.append(numbers.setdefault(gram, len(numbers)))
        pairs.append((rows, grams))
    shape = (len(first), max(1, len(numbers)))
    one, two = (sparse.csr_array((np.ones(len(rows), np.float32), (rows, grams)), shape) for rows, grams in pairs)
    return one, two


def _grams(reply: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(reply[start:] for start in range(n)), strict=False)


def _totals(replies: Sequence[Sequence[str]], n: int) -> Floats:
    """Count each reply's n-grams [N]."""
    return np.array([max(0, len(reply) - n + 1) for reply in replies], dtype=np.float64)


def _ratio(holders_RG: ArrayLike, totals_R: Floats) -> Floats:
    """Return Dist in percent [R] from the number of replies that hold each n-gram and the number of n-grams."""
    different = np.sum(np.asarray(holders_RG) > 0.5, axis=1)
    ratios: Floats = 100.0 * different / np.maximum(totals_R, 1.0)
    return ratios


def _chunks(resamples: int) -> Iterator[int]:
    """Yield sizes that add up to the number of resamples."""
    for start in range(0, resamples, CHUNK):
        yield min(CHUNK, resamples - start)
