from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.evaluation.lines import read_jsonl, read_lines, write_jsonl

ANY_TEXT = st.text(st.characters(), max_size=20)  # lone surrogates too


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\n", ["a", ""]),
        (b"\na\n", ["", "a"]),
        (b"a\r\nb\r\n", ["a\r", "b\r"]),
        ("a\u2028b\x0cc\x85d\n".encode(), ["a\u2028b\x0cc\x85d"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
    ],
)
def test_only_a_newline_ends_a_line(tmp_path: Path, content: bytes, lines: list[str]):
    path = tmp_path / "f.txt"
    path.write_bytes(content)
    assert read_lines(path, "a test file") == lines


def test_wrong_encoding_names_the_line(tmp_path: Path):
    path = tmp_path / "f.txt"
    path.write_bytes(b"fine\nstill fine\n\xe9t\xe9\n")
    with pytest.raises(CtsmError, match=r"f\.txt, line 3: not UTF-8"):
        read_lines(path, "a test file")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(CtsmError, match=r"none\.txt: no such file \(a test file\)"):
        read_lines(tmp_path / "none.txt", "a test file")
    with pytest.raises(CtsmError, match="is a folder"):
        read_lines(tmp_path, "a test file")


@pytest.mark.parametrize("line", ["", "{", "[" * 100_000, "1" * 5000])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: str):
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(CtsmError, match=r"f\.jsonl, line 2: not valid JSON"):
        list(read_jsonl(path, "a test file"))


@pytest.mark.parametrize("line", ["1", "[]", "null", '"text"'])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str):
    path = tmp_path / "f.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(CtsmError, match=r"f\.jsonl, line 1: not a JSON object"):
        list(read_jsonl(path, "a test file"))


@given(values=st.lists(st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3), max_size=5))
def test_any_text_survives_and_stays_one_line(tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, str]]):
    path = tmp_path_factory.mktemp("lines") / "f.jsonl"
    write_jsonl(path, values)
    assert [value for _, value in read_jsonl(path, "a test file")] == values
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == values


def test_readable_text_is_not_escaped(tmp_path: Path):
    write_jsonl(tmp_path / "f.jsonl", [{"text": "so happy 🎉"}])
    assert (tmp_path / "f.jsonl").read_text(encoding="utf-8") == '{"text": "so happy 🎉"}\n'


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "f.jsonl", [{"a": 1.0}, {"a": float("nan")}])
    assert list(tmp_path.iterdir()) == []
