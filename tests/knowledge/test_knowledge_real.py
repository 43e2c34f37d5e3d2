"""Checks on the real lexicon, vectors and events; they need the folder named by CTSM_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ctsm.knowledge.inference import load_source, open_source
from ctsm.knowledge.vad import read_vad
from ctsm.knowledge.vectors import read_vectors

DATA = os.environ.get("CTSM_DATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(DATA is None, reason="CTSM_DATA does not name a folder of real data"),
]


@pytest.fixture
def data():
    return Path(DATA or "")


def test_nrc_vad(data):
    lexicon = read_vad(data / "lexicons" / "NRC-VAD-Lexicon.txt")
    assert len(lexicon.values) == 19_971
    assert lexicon.intensity_range == pytest.approx((0.0557, 0.6905), abs=1e-4)
    table = lexicon.table(list(lexicon.values))
    assert table.known.all() and table.intensity.min() == 0.0 and table.intensity.max() == 1.0


def test_vectors(data):
    words = ["happy", "sad", "joyful", "UNK", "qzxqzx"]
    vectors = read_vectors(data / "vectors" / "glove840b-space.300d.txt.gz", words, None, seed=0)
    assert vectors.found.tolist() == [True, True, True, False, False]
    unit = vectors.values / np.linalg.norm(vectors.values, axis=1, keepdims=True)
    assert unit[0] @ unit[2] > unit[0] @ unit[3]


def test_atomic(data, tmp_path):
    source = open_source(f"atomic:{data / 'atomic' / 'atomic.tsv.gz'}")
    assert 23_000 < source.describe()["events"] < 24_101
    source.save(tmp_path / "saved")
    assert sum(path.stat().st_size for path in (tmp_path / "saved").iterdir()) < 20e6
    utterances = ["I was robbed at gunpoint and my wallet is gone.", "We celebrate our wedding next week!"]
    afraid, glad = source.infer(utterances)
    assert {"scared", "angry", "upset", "sad", "afraid"} & set(afraid[4])
    assert {"happy", "excited", "loved", "joyful"} & set(glad[4])
    assert load_source(tmp_path / "saved").infer(utterances) == [afraid, glad]
