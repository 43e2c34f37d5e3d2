from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge.vad import VadLexicon, read_vad

UNIT = st.floats(0, 1, allow_nan=False)
WORDS = st.text(alphabet="abcdefgh' é-", min_size=1, max_size=8).filter(lambda word: word == word.strip())
LEXICA = st.dictionaries(WORDS, st.tuples(UNIT, UNIT, UNIT), min_size=1, max_size=12)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@given(lexicon=LEXICA)
def test_reads_back_what_was_written(tmp_path_factory, lexicon):
    path = tmp_path_factory.mktemp("vad") / "vad.txt"
    lines = ["Word\tValence\tArousal\tDominance"]
    lines += [f"{word}\t{v!r}\t{a!r}\t{d!r}" for word, (v, a, d) in lexicon.items()]
    write(path, "\n".join(lines) + "\n")
    assert read_vad(path).values == lexicon


@given(lexicon=LEXICA, unknown=st.lists(WORDS, max_size=4))
def test_table_agrees_with_the_formula_written_out(lexicon, unknown):
    distances = [math.sqrt((v - 0.5) ** 2 + (a / 2) ** 2) for v, a, _ in lexicon.values()]
    low, high = min(distances), max(distances)
    words = [*unknown, *lexicon]
    table = VadLexicon(lexicon).table(words)
    assert table.values.dtype == np.float32 and table.intensity.dtype == np.float32
    assert table.values.shape == (len(words), 3)
    for row, word in enumerate(words):
        if word in lexicon:
            v, a, _ = lexicon[word]
            distance = math.sqrt((v - 0.5) ** 2 + (a / 2) ** 2)
            # Only a scale wider than rounding errors is compared.
            if high - low > 1e-9:
                assert table.intensity[row] == pytest.approx((distance - low) / (high - low), abs=1e-4)
            assert table.known[row]
            np.testing.assert_allclose(table.values[row], lexicon[word], atol=1e-6)
        else:
            assert not table.known[row]
            assert table.intensity[row] == 0.0
            assert table.values[row].tolist() == [0, 0, 0]


def test_intensity_range_and_ends():
    lexicon = VadLexicon({"calm": (0.5, 0.2, 0.5), "mad": (0.1, 0.8, 0.5), "glad": (0.9, 0.6, 0.4)})
    low, high = lexicon.intensity_range
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(math.hypot(0.4, 0.4))
    assert lexicon.table(["calm", "mad", "table"]).intensity.tolist() == [0.0, 1.0, 0.0]


def test_equally_distant_words_have_no_intensity():
    assert VadLexicon({"only": (0.9, 0.5, 0.5)}).table(["only"]).intensity.tolist() == [0.0]


def test_no_words_give_empty_tables():
    table = VadLexicon({"only": (0.9, 0.5, 0.5)}).table([])
    assert table.values.shape == (0, 3) and table.known.shape == (0,)


def test_gzip_without_header_multi_word_entries_and_repeated_lines(tmp_path):
    path = tmp_path / "vad.txt.gz"
    path.write_bytes(gzip.compress(b"all right\t0.7\t0.3\t0.5\r\nhappy\t1\t0.7\t0.8\r\nhappy\t1.0\t0.70\t0.8\r\n"))
    assert read_vad(path).values == {"all right": (0.7, 0.3, 0.5), "happy": (1.0, 0.7, 0.8)}


def test_byte_order_mark_is_skipped(tmp_path):
    assert read_vad(write(tmp_path / "v.txt", "\ufeffsad\t0.1\t0.3\t0.2\n")).values == {"sad": (0.1, 0.3, 0.2)}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("word\t0.1\t0.2", "3 tab-separated fields"),
        ("word\t0.1\t0.2\t0.3\t0.4", "5 tab-separated fields"),
        ("word\t0.1\tx\t0.3", "'x' is not a number"),
        ("word\t0.1\t\t0.3", "'' is not a number"),
        ("word\tnan\t0.2\t0.3", r"outside \[0, 1\]"),
        ("word\t0.1\t0.2\t1.5", r"1.5 lies outside \[0, 1\]"),
        ("word\t0.1\t-0.2\t0.5", "NRC-VAD v2; give NRC-VAD v1"),
        ("happy\t0.9\t0.5\t0.5", "second time"),
        (" \t0.9\t0.5\t0.5", "word is empty"),
    ],
)
def test_a_broken_line_is_named(tmp_path, bad, said):
    path = write(tmp_path / "vad.txt", f"Word\tValence\tArousal\tDominance\nhappy\t1.0\t0.7\t0.8\n{bad}\n")
    with pytest.raises(CtsmError, match=said) as caught:
        read_vad(path)
    assert f"{path}, line 3:" in str(caught.value)


def test_a_first_line_with_one_broken_number_is_no_header(tmp_path):
    with pytest.raises(CtsmError, match="line 1: 'high' is not a number"):
        read_vad(write(tmp_path / "vad.txt", "happy\thigh\t0.7\t0.8\n"))


@pytest.mark.parametrize("content", ["", "\n\n", "Word\tValence\tArousal\tDominance\n"])
def test_a_file_without_words_is_refused(tmp_path, content):
    with pytest.raises(CtsmError, match="holds no word"):
        read_vad(write(tmp_path / "vad.txt", content))


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "vad.txt"
    path.write_bytes(b"happy\t1.0\t0.7\t0.8\ncaf\xe9\t0.5\t0.5\t0.5\n")
    with pytest.raises(CtsmError, match="line 2: not UTF-8"):
        read_vad(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CtsmError, match="no such file"):
        read_vad(tmp_path / "none.txt")
