from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.resources.unpack import extract_members, join_members

LIMIT = 100_000


def write_zip(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "in" / "archive.zip"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_members_are_joined_in_the_order_asked_with_newlines_between(archive, tmp_path):
    members = [("d/test.tsv", b"e\tf"), ("d/train.tsv", b"a\tb\n"), ("d/dev.tsv", b"c\td"), ("d/notes.txt", b"x")]
    write_zip(archive, members)
    join_members(archive, ("train.tsv", "dev.tsv", "test.tsv"), tmp_path / "out" / "all.tsv", LIMIT)
    assert (tmp_path / "out" / "all.tsv").read_bytes() == b"a\tb\nc\td\ne\tf\n"
    assert everything_in(tmp_path / "out") == ["all.tsv"]


def test_the_least_nested_member_is_taken(archive, tmp_path):
    write_zip(
        archive, [("a/old/w.txt", b"old\n"), ("__MACOSX/a/._w.txt", b"?"), ("a/w.txt", b"new\n"), ("w.txt/", b"")]
    )
    join_members(archive, ("w.txt",), tmp_path / "out" / "w.txt", LIMIT)
    assert (tmp_path / "out" / "w.txt").read_bytes() == b"new\n"


def test_optional_members_may_be_missing(archive, tmp_path):
    write_zip(archive, [("m/config.json", b"{}"), ("m/extra.json", b"[]"), ("m/readme", b"hello")])
    extract_members(archive, ("config.json",), ("extra.json", "other.json"), tmp_path / "out", LIMIT)
    assert everything_in(tmp_path / "out") == ["config.json", "extra.json"]
    assert (tmp_path / "out" / "extra.json").read_bytes() == b"[]"


UNSAFE = [
    "../w.txt",
    "a/../../w.txt",
    "/w.txt",
    "..\\w.txt",
    "a\\..\\w.txt",
    "C:\\w.txt",
    "C:w.txt",
    "\\\\host\\s\\w.txt",
]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("beside", [True, False])
def test_paths_that_leave_the_folder_are_refused(archive, tmp_path, name, beside):
    write_zip(archive, [(name, b"evil")] + [("w.txt", b"good\n")] * beside)
    before = everything_in(tmp_path)
    with pytest.raises(CtsmError, match="unsafe path"):
        join_members(archive, ("w.txt",), tmp_path / "out" / "w.txt", LIMIT)
    with pytest.raises(CtsmError, match="unsafe path"):
        extract_members(archive, ("w.txt",), (), tmp_path / "out", LIMIT)
    assert everything_in(tmp_path) == before


def test_declared_bomb_is_refused_before_unpacking(archive, tmp_path):
    write_zip(archive, [("a.txt", bytes(60_000)), ("b.txt", bytes(60_000))])
    assert archive.stat().st_size < 1000
    with pytest.raises(CtsmError, match="would unpack to 120000 bytes, more than the 100000 bytes"):
        join_members(archive, ("a.txt", "b.txt"), tmp_path / "out" / "w", LIMIT)
    join_members(archive, ("a.txt",), tmp_path / "out" / "w", LIMIT)
    with pytest.raises(CtsmError, match="would unpack"):
        extract_members(archive, ("a.txt",), ("b.txt",), tmp_path / "out", LIMIT)


def test_bomb_with_a_lying_size_is_refused(archive, tmp_path):
    write_zip(archive, [("a.txt", bytes(50_000_000))])
    content = archive.read_bytes()
    true, lie = struct.pack("<I", 50_000_000), struct.pack("<I", 50_000)
    assert content.count(true) == 2  # local header and directory
    archive.write_bytes(content.replace(true, lie))
    with pytest.raises(CtsmError, match="not a complete zip archive"):
        join_members(archive, ("a.txt",), tmp_path / "out" / "w", LIMIT)
    assert everything_in(tmp_path / "out") == []


def test_links_and_encrypted_members_are_refused(archive, tmp_path):
    link = zipfile.ZipInfo("a/w.txt")
    link.external_attr = 0o120777 << 16
    write_zip(archive, [(link, b"/etc/hostname")])
    with pytest.raises(CtsmError, match="not a regular file"):
        join_members(archive, ("w.txt",), tmp_path / "out" / "w", LIMIT)
    write_zip(archive, [("w.txt", b"secret")])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the encryption bit in the directory
    content[6] |= 1
    archive.write_bytes(content)
    with pytest.raises(CtsmError, match="encrypted"):
        join_members(archive, ("w.txt",), tmp_path / "out" / "w", LIMIT)


def test_another_version_of_the_archive_is_named(archive, tmp_path):
    write_zip(archive, [("NRC-VAD-Lexicon-v2.1.txt", b"word\t0.1\t-0.2\t0.3\n")])
    with pytest.raises(CtsmError, match=r"holds no NRC-VAD-Lexicon\.txt, so it is another version"):
        join_members(archive, ("NRC-VAD-Lexicon.txt",), tmp_path / "out" / "w", LIMIT)


def test_too_little_space_to_unpack(archive, tmp_path, monkeypatch):
    write_zip(archive, [("a.txt", bytes(1000))])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 999}))
    with pytest.raises(CtsmError, match="1000 bytes are needed"):
        extract_members(archive, ("a.txt",), (), tmp_path / "out", LIMIT)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_ends_in_a_sentence_or_in_the_true_content(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = b"".join(b"word%d\t0.5\n" % number for number in range(50))
    archive = write_zip(folder / "archive.zip", [("a/w.txt", content)])
    raw = bytearray(archive.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    archive.write_bytes(raw)
    target = folder / "w.txt"
    try:
        join_members(archive, ("w.txt",), target, LIMIT)
    except CtsmError:
        assert not target.exists()
    else:
        assert target.read_bytes() == content
    assert everything_in(folder) == sorted({"archive.zip"} | ({"w.txt"} if target.exists() else set()))
