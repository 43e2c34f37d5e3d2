from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge.vectors import random_vectors, read_vectors

TEXT = "the 0.1 -0.2 3e-1\ndog 1 2 3\n. . . 7 8 9\ncat 4 5 6\n"


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


WORDS = st.text(alphabet="abcdé.1-", min_size=1, max_size=5)
VALUES = st.floats(-100, 100, width=32)


@given(table=st.dictionaries(WORDS, st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=1, max_size=8), data=st.data())
def test_reads_back_what_was_written(tmp_path_factory, table, data):
    path = tmp_path_factory.mktemp("vectors") / "v.txt"
    write(path, "".join(f"{word} {' '.join(repr(value) for value in row)}\n" for word, row in table.items()))
    known = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, unique=True))
    others = data.draw(st.lists(WORDS.filter(lambda word: word not in table), unique=True, max_size=3))
    result = read_vectors(path, others + known, 4, seed=1)
    assert result.values.dtype == np.float32
    assert result.found.tolist() == [False] * len(others) + [True] * len(known)
    for row, word in zip(result.values[len(others) :], known, strict=True):
        assert row.tolist() == list(table[word])


@pytest.mark.parametrize("packing", ["plain", "gz", "zip", "header", "trailing space", "no final newline"])
def test_every_packing_gives_the_same(tmp_path, packing):
    path = tmp_path / "v.txt"
    if packing == "gz":
        path = tmp_path / "v.txt.gz"
        path.write_bytes(gzip.compress(TEXT.encode()))
    elif packing == "zip":
        path = tmp_path / "v.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("v.3d.txt", TEXT)
            archive.writestr("v.30d.txt", "the" + " 1" * 30 + "\n")
    elif packing == "header":
        write(path, "4 3\n" + TEXT)
    elif packing == "trailing space":
        write(path, TEXT.replace("\n", " \r\n"))
    else:
        write(path, TEXT.rstrip("\n") if packing == "no final newline" else TEXT)
    result = read_vectors(path, ["cat", "bird", "the"], 3, seed=0)
    assert result.found.tolist() == [True, False, True]
    np.testing.assert_array_equal(result.values[0], np.float32([4, 5, 6]))
    np.testing.assert_array_equal(result.values[2], np.float32([0.1, -0.2, 0.3]))


def test_words_without_a_vector_get_small_seeded_noise(tmp_path):
    path = write(tmp_path / "v.txt", "the" + " 0.5" * 50 + "\n")
    words = ["the", *(f"word{index}" for index in range(400))]
    first, again, other = (read_vectors(path, words, 50, seed).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[1:], other[1:])
    assert first[1:].std() == pytest.approx(0.01, rel=0.05)
    assert abs(first[1:].mean()) < 0.001
    np.testing.assert_array_equal(first[1:], random_vectors(401, 50, 1)[1:])


def test_the_size_is_taken_from_the_file_when_not_given(tmp_path):
    assert read_vectors(write(tmp_path / "a.txt", TEXT), ["dog"], None, 0).values.shape == (1, 3)
    assert read_vectors(write(tmp_path / "b.txt", "4 3\n" + TEXT), ["dog"], None, 0).values.shape == (1, 3)


def test_the_first_of_two_lines_counts_and_special_tokens_are_not_looked_up(tmp_path):
    path = write(tmp_path / "v.txt", "PAD 9 9\ndog 1 2\ndog 3 4\n")
    result = read_vectors(path, ["PAD", "dog"], 2, 0)
    assert result.found.tolist() == [False, True]
    assert result.values[1].tolist() == [1, 2]


def test_a_spaced_word_that_begins_with_a_wanted_word_is_another_word(tmp_path):
    path = write(tmp_path / "v.txt", "at home 1 2\nat 3 4\n")
    assert read_vectors(path, ["at"], 2, 0).values.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the 1 2 3\ndog 1 2\n", "line 2: 2 numbers after 'dog', expected 3"),
        ("the 1 2 3\ndog 1 2 3 4\n", "line 2: 4 numbers after 'dog', expected 3"),
        ("the 1 2 3\nother 1 2\n", "line 2: 2 numbers after 'other'"),
        ("the 1 2 3\ndog 1 x 3\n", "line 2: could not convert"),
        ("the 1 2 3\ndog 1 inf 3\n", "line 2: an infinite or undefined"),
        ("the 1 2 3\ndog 1 nan 3\n", "line 2: an infinite or undefined"),
        ("the 1 2 3\ndog 1 1e60 3\n", "line 2: an infinite or undefined"),
        ("the 1 2\n", "line 1: 2 numbers after 'the', expected 3"),
        ("2 5\nthe 1 2 3 4 5\n", "line 1: vectors of size 5, but size 3 was asked for"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("cat 1 2 3\n", "none of the 2 words"),
        ("2 3\n", "is empty"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, said):
    path = write(tmp_path / "v.txt", text)
    with pytest.raises(CtsmError, match=said) as caught:
        read_vectors(path, ["the", "dog"], 3, 0)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["the 1 2 3\ndog 1 2\n", "2 3\nthe 1 2 3\ndog 1 2\n"])
def test_the_width_of_the_first_line_holds_for_all(tmp_path, text):
    with pytest.raises(CtsmError, match="2 numbers after 'dog', expected 3"):
        read_vectors(write(tmp_path / "v.txt", text), ["the", "dog"], None, 0)


def test_a_line_without_numbers_is_refused(tmp_path):
    with pytest.raises(CtsmError, match="line 1: not a word followed by numbers"):
        read_vectors(write(tmp_path / "v.txt", "the\n"), ["the"], None, 0)


@pytest.mark.parametrize(("names", "size"), [(["g.50d.txt", "g.100d.txt"], 300), (["a.txt", "b.txt"], None), ([], 50)])
def test_an_archive_without_the_one_fitting_member_is_refused(tmp_path, names, size):
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.md", "nothing")
        for name in names:
            archive.writestr(name, "the 1\n")
    with pytest.raises(CtsmError, match="give a size it has"):
        read_vectors(path, ["the"], size, 0)


def test_random_vectors_are_seeded():
    assert random_vectors(3, 4, 7).shape == (3, 4)
    assert random_vectors(3, 4, 7).dtype == np.float32
    np.testing.assert_array_equal(random_vectors(3, 4, 7), random_vectors(3, 4, 7))
