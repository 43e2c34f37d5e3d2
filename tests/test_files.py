from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm import files
from ctsm.errors import CtsmError

NUMBERS = (errno.ENOSPC, errno.EIO)


class Faults:
    """Counts the calls that can fail on a bad disk; the call with the number `fail_at` raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at = -1
        self.number = 0
        for name in ("fsync", "replace", "open", "chmod"):
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        monkeypatch.setattr(files.os, "fdopen", self._fdopen(os.fdopen))

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.check(name)
            return function(*arguments, **options)

        return call

    def _fdopen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            stream = function(*arguments, **options)
            return _FailingStream(stream, self)

        return call

    def check(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) - 1 == self.fail_at:
            raise OSError(self.number, os.strerror(self.number))

    def arm(self, fail_at: int, number: int = errno.ENOSPC) -> None:
        self.calls, self.fail_at, self.number = [], fail_at, number


class _FailingStream:
    """A file whose writes and flushes go through `Faults`."""

    def __init__(self, stream: Any, faults: Faults) -> None:
        self._stream, self._faults = stream, faults

    def __enter__(self) -> _FailingStream:
        return self

    def __exit__(self, *details: object) -> None:
        self._stream.close()

    def write(self, data: Any) -> int:
        self._faults.check("write")
        return int(self._stream.write(data))

    def flush(self) -> None:
        self._faults.check("flush")
        self._stream.flush()

    def fileno(self) -> int:
        return int(self._stream.fileno())


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with monkeypatch.context() as patch:
        yield Faults(patch)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder, hidden ones too, with its content (None for folders)."""
    return {
        str(item.relative_to(folder)): item.read_bytes() if item.is_file() else None
        for item in sorted(folder.rglob("*"))
    }


def write_file(path: Path) -> None:
    with files.atomic_file(path) as stream:
        stream.write("new ")
        stream.write("content\n")


def write_folder(path: Path) -> None:
    with files.atomic_directory(path) as folder:
        (folder / "deep").mkdir()
        (folder / "a.txt").write_text("new a")
        (folder / "deep" / "b.txt").write_text("new b")


@pytest.mark.parametrize("old", [None, "old content"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_failed_file_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, faults: Faults, old: str | None, number: int
) -> None:
    path = tmp_path / "home" / "file.txt"
    path.parent.mkdir()
    if old is not None:
        path.write_text(old)
    before = tree(tmp_path)
    faults.arm(-1)
    write_file(tmp_path / "elsewhere" / "file.txt")
    kinds = list(faults.calls)
    assert {"write", "flush", "fsync", "chmod", "replace"} <= set(kinds)
    after_rename = kinds.index("replace") + 1
    before = tree(tmp_path)
    for place in range(len(kinds)):
        faults.arm(place, number)
        with pytest.raises(OSError, match=r".") as caught:
            write_file(path)
        assert caught.value.errno == number
        if place < after_rename:
            assert tree(tmp_path) == before, f"call {place} ({kinds[place]})"
        else:  # the rename was done, only its flush to the disk failed: the whole new file stands there
            assert tree(tmp_path) == before | {"home/file.txt": b"new content\n"}
    faults.arm(-1)
    write_file(path)
    assert path.read_text() == "new content\n"


@pytest.mark.parametrize("swap", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_failed_folder_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, swap: bool, old: bool, number: int
) -> None:
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda _first, _second: False)
    path = tmp_path / "home" / "folder"
    faults.arm(-1)
    path.parent.mkdir()
    if old:
        path.mkdir()
        (path / "a.txt").write_text("old a")
        (path / "gone.txt").write_text("not in the new one")
    write_folder(tmp_path / "elsewhere")
    new_tree = tree(tmp_path / "elsewhere")
    outcomes = set()
    for place in range(100):
        before = tree(tmp_path)
        faults.arm(place, number)
        failed = False
        try:
            write_folder(path)
        except OSError as error:
            failed = True
            assert error.errno == number
        fired = len(faults.calls) > place
        faults.fail_at = -1
        assert failed <= fired
        done = path.exists() and tree(path) == new_tree
        outcomes.add((failed, done))
        if not failed:  # nothing went wrong, or only the removal of the old folder: that is no reason to fail
            assert done
            files.remove_leftovers(path.parent, path.name)
        after = tree(tmp_path)
        assert not [name for name in after if "/." in name], f"call {place} ({faults.calls[-1]})"
        assert done or after == before, f"call {place} ({faults.calls[-1]})"
        if not fired:
            break
    else:
        pytest.fail("never got through")
    # most faults come before the exchange, the flush of the parent folder after it
    assert outcomes == {(True, False), (True, True), (False, True)}


@pytest.mark.skipif(sys.platform != "linux", reason="looks files up in /proc")
def test_all_content_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not find an empty file: contents first, then names, then the new name."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(handle: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def noting_replace(source: Any, target: Any) -> None:
        events.append(f"rename {Path(source).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    write_file(tmp_path / "x")
    temporary = events[0].removeprefix("sync ")
    assert temporary.startswith(".x.")
    assert events == [f"sync {temporary}", f"rename {temporary}", f"sync {tmp_path.name}"]
    events.clear()
    write_folder(tmp_path / "y")
    temporary = events[-2].removeprefix("rename ")
    assert temporary.startswith(".y.")
    assert set(events[:-2]) == {"sync a.txt", "sync b.txt", "sync deep", f"sync {temporary}"}
    assert events[-2:] == [f"rename {temporary}", f"sync {tmp_path.name}"]


def test_an_error_in_the_block_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    before = tree(tmp_path)
    for kind in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), files.atomic_directory(tmp_path / "folder") as folder:
            (folder / "half").write_text("half")
            raise kind
        with pytest.raises(kind), files.atomic_file(tmp_path / "folder" / "old") as stream:
            stream.write("half")
            raise kind
    assert tree(tmp_path) == before


def test_a_replaced_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "x")
    (tmp_path / "x" / "extra").write_text("goes away")
    write_folder(tmp_path / "x")
    assert tree(tmp_path) == {"x": None, "x/a.txt": b"new a", "x/deep": None, "x/deep/b.txt": b"new b"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can exchange two names")
def test_there_is_never_a_moment_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_folder(path)
    seen = list[bool]()

    def looking(call: Callable[..., Any]) -> Callable[..., Any]:
        def look(*arguments: Any, **options: Any) -> Any:
            seen.append((path / "a.txt").exists())
            result = call(*arguments, **options)
            seen.append((path / "a.txt").exists())
            return result

        return look

    for name in ("fsync", "replace", "rename", "rmdir", "unlink"):
        monkeypatch.setattr(os, name, looking(getattr(os, name)))
    write_folder(path)
    assert len(seen) > 10
    assert all(seen)


def test_a_killed_writer_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_folder(path)
    before = tree(path)
    script = (
        "import os, signal, sys; from pathlib import Path; from ctsm.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a.txt').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    assert tree(path) == before
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_leftovers(tmp_path, "x")
    assert [item.name for item in tmp_path.iterdir()] == ["x"]
    assert tree(path) == before


def test_remove_leftovers_touches_nothing_else(tmp_path: Path) -> None:
    keep = ["best", ".best", ".best.config", ".other.abcdefgh", "best.abcdefgh", ".bestx.abcdefgh"]
    for name in [*keep, ".best.abcdefgh", ".best.abcd_123.old"]:
        (tmp_path / name).mkdir()
    (tmp_path / ".best.zyxwvuts").write_text("a file")
    files.remove_leftovers(tmp_path, "best")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(keep)


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_are_those_of_new_files(tmp_path: Path, mask: int, file_mode: int, folder_mode: int) -> None:
    previous = os.umask(mask)
    try:
        write_file(tmp_path / "file")
        with files.atomic_directory(tmp_path / "folder") as folder:
            (folder / "deep").mkdir(mode=0o700)
            (folder / "deep" / "private").touch(mode=0o600)  # as some libraries create their files
    finally:
        os.umask(previous)
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in tmp_path.rglob("*")}
    assert modes == {"file": file_mode, "folder": folder_mode, "deep": folder_mode, "private": file_mode}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    write_folder(tmp_path / "big disk" / "data")
    link = tmp_path / "home" / "data"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "big disk" / "data")
    with files.atomic_directory(link) as folder:
        (folder / "only").write_text("new")
    assert link.is_symlink()
    assert tree(tmp_path / "big disk") == {"data": None, "data/only": b"new"}


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("precious")
    with pytest.raises(NotADirectoryError, match="x"), files.atomic_directory(tmp_path / "x"):
        pass
    assert tree(tmp_path) == {"x": b"precious"}


def test_text_is_utf8_with_newlines_as_given(tmp_path: Path) -> None:
    with files.atomic_file(tmp_path / "deep" / "text") as stream:
        stream.write("é\nü\r\n")
    with files.atomic_file(tmp_path / "bytes", "wb") as stream:
        stream.write(b"\x00\xff")
    assert (tmp_path / "deep" / "text").read_bytes() == "é\nü\r\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # halves of surrogate pairs
        with pytest.raises(UnicodeEncodeError):
            files.write_json(path, value)
        assert not list(path.parent.iterdir())
        return
    files.write_json(path, value)
    assert files.read_json(path, "a value") == value
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1', b"\xff\xfe", b"nope", b"[" * 100_000, b"1" * 5000],
    ids=["empty", "open", "cut", "bytes", "word", "deep", "long number"],
)
def test_read_json_refuses_what_is_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(CtsmError) as caught:
        files.read_json(path, "the manifest")
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "the manifest" in sentence
    assert sentence.endswith("make it again.")


def test_read_json_names_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CtsmError, match=r"missing\.json: no such file \(the manifest\); check the path\."):
        files.read_json(tmp_path / "missing.json", "the manifest")
    with pytest.raises(CtsmError, match="cannot read the manifest"):
        files.read_json(tmp_path, "the manifest")


def test_require_file(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    assert files.require_file(tmp_path / "here", "the lexicon") == tmp_path / "here"
    with pytest.raises(CtsmError, match="is a folder, but the lexicon must be a file"):
        files.require_file(tmp_path, "the lexicon")
    with pytest.raises(CtsmError, match=r"there: no such file \(the lexicon\)"):
        files.require_file(tmp_path / "there", "the lexicon")


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "no such file"),
        (errno.EIO, "input/output error"),
        (errno.ENAMETOOLONG, "name too long"),
    ],
)
def test_os_errors_are_one_sentence(number: int, part: str) -> None:
    with_file = files.describe_os_error(OSError(number, os.strerror(number), "/data/x"))
    assert with_file.startswith("/data/x: ")
    assert part.lower() in with_file.lower()
    without = files.describe_os_error(OSError(number, os.strerror(number)))
    assert with_file == f"/data/x: {without}"
    assert without.endswith(".")
    assert ". " not in without


def test_an_os_error_without_a_number_is_described() -> None:
    assert files.describe_os_error(OSError("the line went dead")) == (
        "the line went dead; check that path and run the command again."
    )


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    """Real faults, not simulated ones: the kernel refuses to write beyond a file size limit."""
    (tmp_path / "x").write_text("old")
    script = (
        "import resource, sys; from pathlib import Path; from ctsm.files import atomic_file, describe_os_error\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with atomic_file(Path(sys.argv[1])) as stream: stream.write('x' * 100_000)\n"
        "except OSError as error: print(describe_os_error(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "x"], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert tree(tmp_path) == {"x": b"old"}


def test_a_folder_can_be_held_by_one_process_only(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ctsm.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])): pass\n"
    )
    again = [sys.executable, "-c", script, str(tmp_path)]
    with files.exclusive(tmp_path):
        blocked = subprocess.run(again, capture_output=True, text=True, check=False)
        assert blocked.returncode != 0
        assert f"{tmp_path}: another process is working in it" in blocked.stderr
    assert subprocess.run(again, check=False).returncode == 0


@given(st.binary(max_size=300))
def test_sha256(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    import hashlib

    path = tmp_path_factory.mktemp("hash") / "x"
    path.write_bytes(content)
    assert files.sha256_of(path) == hashlib.sha256(content).hexdigest()
