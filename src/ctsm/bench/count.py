"""Multiply-adds of one CTSM training step, counted by formula on real tokens: the arithmetic that cannot be avoided.

Only matrix products and convolutions count. With d the width, a the width of queries, keys and values over all heads, f
the convolutions' inner width and n real tokens:

    encoder, i -> d      n i d + layers (4 n d a + 2 n^2 a + 6 n d f)
                         projection; queries, keys, values, output; scores and mixing; two width-3 convolutions
    the same, only its first position is wanted
                         n i d + (layers - 1) (as above) + 2 n d a + 2 p d a + 2 p n a + 6 p d f, p = min(n, 3)
    fusion, d_m wide     S d^2 + K (d^2 + encoder without projection) for each refiner, S (5 d d_m + d_m d) for the MLP:
                         the context half of [context ; knowledge] is the same for all K vectors of a refiner
    emotion head, w wide S (w^2 + w) + w^2 + 32 w
    decoder              T d^2 + layers (6 T d a + 2 T^2 a + 2 S m a + 2 T S a + 6 T d f), m the memory's width
    generator            T (d V + d)
    contrastive loss     5 (2B)^2 d

The backward pass needs two products for each of the forward pass, for the inputs' and for the weights' gradients.

Axes and lengths: B batch, S context tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsm.corpus.batches import Examples, IntArray
from ctsm.models.ctsm import EMOTIONS, CTSMOptions

BACKWARD = 2
"""Backward multiply-adds for each forward one."""

PAIRS = 5
"""Pairs of views in the contrastive loss."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Lengths:
    """Real tokens of each example.

    Attributes:
        context: CLS included [B].
        cognitive: of each of the four relations, CLS included [B, 4].
        reaction: [B].
        target: EOS included [B].
    """

    context: Counts
    cognitive: Counts
    reaction: Counts
    target: Counts

    @classmethod
    def of(cls, examples: Examples, rows: IntArray) -> Lengths:
        """Take the lengths of some examples of a split."""
        context, reaction, target = (
            ragged.lengths[rows].astype(np.int64) for ragged in (examples.context, examples.reaction, examples.target)
        )
        cognitive = examples.cognitive.lengths.reshape(-1, 4)[rows].astype(np.int64)
        return cls(context, cognitive, reaction, target)


def step_multiply_adds(options: CTSMOptions, vocabulary_size: int, lengths: Lengths) -> int:
    """Return the multiply-adds of forward and backward pass over one batch."""
    return (1 + BACKWARD) * forward_multiply_adds(options, vocabulary_size, lengths)


def forward_multiply_adds(options: CTSMOptions, vocabulary_size: int, lengths: Lengths) -> int:
    """Return the multiply-adds of the losses of one batch."""
    d, layers, depth = options.size, options.layers, options.depth
    source, target, count = lengths.context, lengths.target, len(lengths.context)
    trait, state = 4 + options.semantic_size, EMOTIONS + 1 + options.semantic_size
    per_example = [
        _encoder(options, source, d, d),  # eq. 1
        _first_position(options, lengths.cognitive, d, d).sum(axis=1),
        _encoder(options, lengths.reaction, d, d),
        source * d * options.semantic_size,  # eq. 3
        source * d * d + source * d * EMOTIONS,  # eqs. 6-7
        _encoder(options, source, trait, trait),  # eq. 4
        _encoder(options, source, state, state),  # eq. 9
        2 * _fusion(options, source),
        2 * _emotion_head(source, d + trait + state),
        target * d * d,  # eq. 20
        layers * (6 * target * d * depth + 2 * target**2 * depth),
        layers * (2 * source * d * depth + 2 * target * source * depth + 6 * target * d * options.filter_size),
        target * (d * vocabulary_size + d),
        _encoder(options, target, d, d),
    ]
    labels = EMOTIONS * d * d  # eq. 5
    views = count * (trait + state) * d + (PAIRS * (2 * count) ** 2 * d if count > 1 else 0)  # eqs. 22-24
    return int(sum(np.sum(counts) for counts in per_example)) + labels + views


def _encoder(options: CTSMOptions, tokens: Counts, inputs: int, size: int) -> Counts:
    return tokens * inputs * size + _encoder_layers(options, tokens, size)


def _first_position(options: CTSMOptions, tokens: Counts, inputs: int, size: int) -> Counts:
    depth, seen = options.depth, np.minimum(tokens, 3)
    before = tokens * inputs * size + (options.layers - 1) * _encoder_layer(options, tokens, size)
    attention = 2 * tokens * size * depth + 2 * seen * size * depth + 2 * seen * tokens * depth
    return before + attention + 6 * seen * size * options.filter_size


def _encoder_layers(options: CTSMOptions, tokens: Counts, size: int) -> Counts:
    return options.layers * _encoder_layer(options, tokens, size)


def _encoder_layer(options: CTSMOptions, tokens: Counts, size: int) -> Counts:
    attention = 4 * tokens * size * options.depth + 2 * tokens**2 * options.depth
    return attention + 6 * tokens * size * options.filter_size


def _fusion(options: CTSMOptions, source: Counts) -> Counts:
    d = options.size
    refiners = 2 * source * d * d + 5 * (d * d + _encoder_layers(options, source, d))
    return refiners + source * (5 * d * options.fusion_size + options.fusion_size * d)


def _emotion_head(source: Counts, width: int) -> Counts:
    return source * (width * width + width) + width * width + EMOTIONS * width
