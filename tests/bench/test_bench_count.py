"""The formula of multiply-adds against the products that PyTorch sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ctsm.bench.count import Lengths, forward_multiply_adds, step_multiply_adds
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.corpus.batches import Batch, Examples, Ragged
from ctsm.models.ctsm import CTSM, CTSMOptions
from ctsm.text.vocabulary import CLS, SYS

V = 60
OPTIONS = [
    CTSMOptions(size=12, depth=8, filter_size=5, semantic_size=4, fusion_size=14),
    CTSMOptions(size=20, layers=2, heads=4, depth=16, filter_size=30, semantic_size=3, fusion_size=9),
]


def unpadded_batch(count: int, context: int, relation: int, reaction: int, target: int) -> Batch:
    """Every row as long as every other one, so that no product is on padding."""
    random = np.random.default_rng(0)

    def words(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(7, V, size=shape))

    ids = words(count, context)
    ids[:, 0] = CLS
    return Batch(
        index=torch.arange(count),
        context=ids,
        speakers=torch.full((count, context), SYS),
        emotion=torch.zeros(count, dtype=torch.long),
        cognitive=words(count, 4, relation),
        reaction=words(count, reaction),
        target=words(count, target),
        target_positions=torch.arange(count * target),
    )


def counted(loss: Callable[[Batch], Tensor], batch: Batch, backward: bool) -> int:
    """Multiply-adds (half the FLOP) that PyTorch sees."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        total = loss(batch)
        if backward:
            total.backward()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sizes", [(3, 9, 4, 5, 6), (1, 17, 3, 2, 11)])
def test_formula_is_what_pytorch_counts_without_padding(
    options: CTSMOptions, sizes: tuple[int, int, int, int, int]
) -> None:
    count, context, relation, reaction, target = sizes
    lengths = Lengths(
        context=np.full(count, context),
        cognitive=np.full((count, 4), relation),
        reaction=np.full(count, reaction),
        target=np.full(count, target),
    )
    batch, plain, fast = unpadded_batch(*sizes), PlainCTSM(options, V).train(), CTSM(options, V).train()
    formula, step = forward_multiply_adds(options, V, lengths), step_multiply_adds(options, V, lengths)
    # The plain path projects [context ; knowledge], 2d wide, for each of the five vectors of both fusions, and computes
    # every position of the four relations where the first one, which sees three, is enough.
    d, tokens = options.size, count * context
    wasted = 2 * (5 * tokens * 2 * d * d - (2 * tokens * d * d + 5 * count * d * d))
    unseen = 4 * count * max(0, relation - 3)
    wasted += unseen * (2 * d * options.depth + 2 * relation * options.depth + 6 * d * options.filter_size)
    assert formula + wasted == counted(lambda batch: plain.loss(batch)[0], batch, False)
    assert step + 3 * wasted == counted(lambda batch: plain.loss(batch)[0], batch, True)
    # The fast path does what is needed; what it saves or wastes beyond the formula is little.
    assert formula == pytest.approx(counted(lambda batch: fast.loss(batch).total, batch, False), rel=0.01)
    assert step == pytest.approx(counted(lambda batch: fast.loss(batch).total, batch, True), rel=0.01)


def test_padding_does_not_count_and_every_word_does() -> None:
    options = OPTIONS[0]
    one = Lengths(np.array([5]), np.array([[2, 2, 2, 2]]), np.array([3]), np.array([4]))
    two = Lengths(np.array([5, 50]), np.array([[2] * 4, [9] * 4]), np.array([3, 0]), np.array([4, 30]))
    other = Lengths(np.array([50]), np.array([[9] * 4]), np.array([0]), np.array([30]))
    apart = forward_multiply_adds(options, V, one) + forward_multiply_adds(options, V, other)
    labels_once = 32 * options.size**2
    contrast = 5 * 4**2 * options.size
    assert forward_multiply_adds(options, V, two) == apart - labels_once + contrast
    for place in range(4):
        fields = [one.context, one.cognitive, one.reaction, one.target]
        fields[place] = fields[place] + 1
        assert forward_multiply_adds(options, V, Lengths(*fields)) > forward_multiply_adds(options, V, one)


def test_lengths_of_some_examples() -> None:
    def rows(*lengths: int) -> Ragged:
        return Ragged.from_rows([[7] * length for length in lengths])

    examples = Examples(
        conversation=np.arange(3),
        emotion=np.zeros(3, dtype=np.int32),
        context=rows(4, 5, 6),
        speakers=rows(4, 5, 6),
        target=rows(1, 2, 3),
        cognitive=rows(*range(12)),
        reaction=rows(0, 7, 8),
    )
    lengths = Lengths.of(examples, np.array([2, 0]))
    assert lengths.context.tolist() == [6, 4]
    assert lengths.cognitive.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert lengths.reaction.tolist() == [8, 0]
    assert lengths.target.tolist() == [3, 1]
