from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.knowledge.idf import inverse_document_frequency

SIZE, SPECIALS = 12, 3
DOCUMENTS = st.lists(st.lists(st.integers(0, SIZE - 1), max_size=8), max_size=8)


@given(documents=DOCUMENTS)
def test_agrees_with_the_formula_written_out(documents):
    raw = {}
    for word in range(SPECIALS, SIZE):
        containing = sum(1 for document in documents if word in document)
        if containing:
            raw[word] = math.log((1 + len(documents)) / (1 + containing)) + 1
    expected = [0.0] * SPECIALS
    for word in range(SPECIALS, SIZE):
        expected.append(raw[word] / max(raw.values()) if word in raw else 1.0)
    result = inverse_document_frequency(documents, SIZE, SPECIALS)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_common_word_weighs_less_than_a_rare_one():
    values = inverse_document_frequency([[3, 4], [3], [3], [3, 5, 5]], 7, 3)
    assert 0 < values[3] < values[4] == values[5] == values[6] == 1.0


def test_accepts_a_generator_of_arrays_and_no_documents_at_all():
    documents = (np.array([3, 4], dtype=np.int32) for _ in range(2))
    assert inverse_document_frequency(documents, 5, 3).tolist() == [0, 0, 0, 1, 1]
    assert inverse_document_frequency([], 5, 3).tolist() == [0, 0, 0, 1, 1]


def test_a_value_does_not_depend_on_unseen_words():
    documents = [[3, 4], [3]]
    small, large = (inverse_document_frequency(documents, size, 3) for size in (5, 50))
    assert small.tolist() == pytest.approx(large[:5].tolist())
