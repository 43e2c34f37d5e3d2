"""Inverse document frequency of words over the training utterances (CTSM eqs. 2 and 8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def inverse_document_frequency(
    documents: Iterable[Sequence[int]], vocabulary_size: int, specials: int
) -> NDArray[np.float32]:
    """Return float32 [V]: idf(w) = ln((1 + N) / (1 + df(w))) + 1 over N documents, divided by its maximum.

    The paper gives neither formula nor document; this is the smoothed form with one training utterance as document,
    scaled into (0, 1] so that it does not dominate the layer norm of a 14-wide encoder. The maximum is taken over the
    words that occur, so a word's value does not depend on which unseen words the vocabulary holds; words that never
    occur get that maximum, 1. Ids below `specials` are special tokens and get 0.

    Args:
        documents: word ids of each training utterance; repeated words in one count once, empty ones count in N.
        vocabulary_size: V; every id is below it.
        specials: number of special tokens, which have the first ids.
    """
    arrays = [np.asarray(document, dtype=np.int64) for document in documents]
    lengths = np.array([array.size for array in arrays], dtype=np.int64)
    words = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
    owners = np.repeat(np.arange(len(arrays), dtype=np.int64), lengths)
    distinct = np.unique(owners * vocabulary_size + words) % vocabulary_size
    frequency = np.bincount(distinct, minlength=vocabulary_size)
    idf = np.log((1 + len(arrays)) / (1 + frequency)) + 1
    seen = frequency > 0
    seen[:specials] = False
    scaled = np.ones(vocabulary_size)
    if seen.any():
        scaled[seen] = idf[seen] / idf[seen].max()
    scaled[:specials] = 0.0
    return scaled.astype(np.float32)
