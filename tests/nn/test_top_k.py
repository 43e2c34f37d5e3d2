from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.nn.top_k import top_k


def by_definition(x: np.ndarray, k: int) -> np.ndarray:
    """Columns by falling value, then by rising column."""
    columns = np.arange(x.shape[1])
    return np.stack([np.lexsort((columns, -row))[:k] for row in x])


@settings(deadline=None, max_examples=150)
@given(
    rows=st.integers(1, 3),
    size=st.integers(1, 3000),
    share=st.floats(0, 1),
    values=st.sampled_from([1, 2, 5, 50, 10**6]),
    seed=st.integers(0, 999),
)
def test_the_largest_come_first_and_of_equal_ones_the_lowest_column(
    rows: int, size: int, share: float, values: int, seed: int
) -> None:
    """With few distinct values nearly everything is a tie; -inf and infinity occur."""
    random = np.random.default_rng(seed)
    table = np.array([-np.inf, *random.normal(size=values), np.inf])
    x = table[random.integers(0, len(table) - (seed % 2), size=(rows, size))]
    k = min(size, 1 + int(share**3 * size))
    found, columns = top_k(torch.from_numpy(x), k)
    expected = by_definition(x, k)
    assert columns.tolist() == expected.tolist()
    assert found.tolist() == np.take_along_axis(x, expected, axis=1).tolist()


@pytest.mark.parametrize(("size", "k"), [(23_712, 1), (23_712, 6), (23_712, 60), (23_712, 5_000), (4_097, 1_024)])
def test_sizes_of_real_vocabularies(size: int, k: int) -> None:
    x = np.random.default_rng(k).normal(size=(3, size)).astype(np.float32).round(2)
    assert top_k(torch.from_numpy(x), k)[1].tolist() == by_definition(x, k).tolist()


def test_no_rows() -> None:
    found, columns = top_k(torch.zeros(0, 500), 3)
    assert found.shape == columns.shape == (0, 3)
