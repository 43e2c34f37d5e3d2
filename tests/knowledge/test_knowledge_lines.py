from __future__ import annotations

import gzip
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.knowledge.lines import byte_lines, text_lines, zip_members


@given(lines=st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=8))
def test_plain_gzip_and_zip_hold_the_same_lines(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("lines")
    # A byte order mark at the start is not part of the text, so none is written by accident.
    data = "".join(f"{line}\n" for line in lines).encode().removeprefix("\ufeff".encode())
    (folder / "a.txt").write_bytes(data)
    (folder / "a.txt.gz").write_bytes(gzip.compress(data))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("in/a.txt", data)
    plain = list(text_lines(folder / "a.txt", "it"))
    assert [number for number, _ in plain] == list(range(1, len(lines) + 1))
    assert list(text_lines(folder / "a.txt.gz", "it")) == plain
    assert list(text_lines(folder / "a.zip", "it", "in/a.txt")) == plain
    assert zip_members(folder / "a.zip", "it") == ["in/a.txt"]
    if lines and not lines[0].startswith("\ufeff"):
        assert [text for _, text in plain] == lines


def test_a_truncated_gzip_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "cut.gz"
    whole = gzip.compress("".join(f"word{index * 7919 % 1000}\n" for index in range(5000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CtsmError, match=r"cut.gz, line \d+: damaged compressed data"):
        list(byte_lines(path, "the file"))


def test_a_file_that_is_no_gzip_is_refused(tmp_path):
    path = tmp_path / "plain.gz"
    path.write_bytes(b"happy\n")
    with pytest.raises(CtsmError, match="line 1: damaged compressed data"):
        list(byte_lines(path, "the file"))


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "plain.zip"
    path.write_bytes(b"happy\n")
    with pytest.raises(CtsmError, match="not a readable zip"):
        zip_members(path, "the file")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CtsmError, match="is a folder"):
        list(byte_lines(tmp_path, "the file"))
