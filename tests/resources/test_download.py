from __future__ import annotations

import email.message
import hashlib
import itertools
import random
import socket
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.resources import connection
from ctsm.resources.connection import Dropped, network_error
from ctsm.resources.download import Patience, download

QUICK = Patience(attempts=3, pause=0.0, timeout=5.0)
CONTENT = random.Random(5).randbytes(10_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int | None]] = []
        self.bytes = 0
        self.lines: list[str] = []

    def begin(self, name: str, done: int, total: int | None) -> None:
        assert name == "thing.bin"
        self.begun.append((done, total))

    def advance(self, count: int) -> None:
        self.bytes += count

    def note(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None:
        pass


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "thing.bin"


def get(address: str, target: Path, notes: Notes | None = None, **options) -> str:
    return download(address, target, notes or Notes(), **{"patience": QUICK, **options})


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_whole_file_with_its_hash_and_progress(publisher, target):
    address, notes = publisher.put("/a/thing.bin", CONTENT), Notes()
    assert get(address, target, notes, sha256=DIGEST) == DIGEST
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["thing.bin"]
    assert notes.begun == [(0, 10_000)]
    assert notes.bytes == 10_000
    assert publisher.header("Range") == [None]
    assert publisher.header("Accept-Encoding") == ["identity"]


@pytest.mark.parametrize("sent", [1, 1000, 9_999])
def test_dropped_connection_goes_on_with_range(publisher, behave, target, sent):
    address, notes = publisher.put("/thing.bin", CONTENT), Notes()
    publisher.plan = [behave.drop(sent)]
    get(address, target, notes)
    assert target.read_bytes() == CONTENT
    assert publisher.header("Range") == [None, f"bytes={sent}-"]
    assert publisher.header("If-Range") == [None, publisher.marks["ETag"]]
    assert notes.bytes == 10_000
    assert notes.begun == [(0, 10_000), (sent, 10_000)]
    assert "attempt 2 of 3" in notes.lines[0]


def test_drop_before_the_first_byte_asks_for_everything(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(0)]
    get(address, target)
    assert publisher.header("Range") == [None, None]
    assert target.read_bytes() == CONTENT


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drops=st.lists(st.integers(0, 4000), max_size=5))
def test_any_sequence_of_drops_gives_the_same_bytes(publisher, behave, drops):
    publisher.requests.clear()
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(sent) for sent in drops]
    needed, here = 1, 0
    for sent in drops:
        here += sent
        if here >= len(CONTENT):
            break
        needed += 1
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "thing.bin"
        get(address, target, patience=Patience(attempts=6, pause=0.0, timeout=5.0))
        assert target.read_bytes() == CONTENT
    assert len(publisher.requests) == needed


def test_a_later_run_goes_on_where_the_first_stopped(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(2000), behave.drop(500), behave.drop(1)]
    with pytest.raises(CtsmError, match=r"7499 bytes before the end .* 3 attempts.*2501 bytes in .*part stay"):
        get(address, target)
    assert leftovers(target) == ["thing.bin.part", "thing.bin.part.json"]
    get(address, target)
    assert publisher.header("Range")[-1] == "bytes=2501-"
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["thing.bin"]


def test_a_part_that_is_already_complete_needs_no_request(publisher, target, monkeypatch):
    address = publisher.put("/thing.bin", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr("ctsm.resources.download.sync_file", lambda _: (_ for _ in ()).throw(OSError(5, "broken")))
        with pytest.raises(OSError, match="broken"):
            get(address, target)
    get(address, target)
    assert len(publisher.requests) == 1
    assert target.read_bytes() == CONTENT


def test_server_that_ignores_range_starts_again_from_zero(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(3000), behave.ignore_range]
    get(address, target)
    assert publisher.header("Range")[1] == "bytes=3000-"
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("obey_if_range", [True, False])
def test_file_changed_between_two_attempts_is_never_mixed(publisher, behave, target, obey_if_range):
    address = publisher.put("/thing.bin", CONTENT)
    changed = random.Random(6).randbytes(10_000)

    def drop_then_change(handler):
        behave.drop(4000)(handler)
        publisher.put("/thing.bin", changed)

    publisher.plan = [drop_then_change, lambda handler: behave.serve(handler, obey_if_range=obey_if_range)]
    get(address, target)
    assert target.read_bytes() == changed
    assert len(publisher.requests) == (2 if obey_if_range else 3)


def test_partial_answer_at_the_wrong_place_is_thrown_away(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(4000), behave.unlike]
    get(address, target)
    assert target.read_bytes() == CONTENT
    assert publisher.header("Range") == [None, "bytes=4000-", None]


def test_partial_answer_that_stops_early_is_completed(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(4000), lambda handler: behave.serve(handler, span=1000)]
    get(address, target)
    assert publisher.header("Range") == [None, "bytes=4000-", "bytes=5000-"]
    assert target.read_bytes() == CONTENT


def test_weak_etag_is_not_used_but_the_date_is(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.marks["ETag"] = 'W/"1"'
    publisher.plan = [behave.drop(4000)]
    get(address, target)
    assert publisher.header("If-Range") == [None, publisher.marks["Last-Modified"]]
    assert target.read_bytes() == CONTENT


def test_without_any_mark_of_the_version_it_starts_again(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.marks = {}
    publisher.plan = [behave.drop(4000)]
    get(address, target)
    assert publisher.header("Range") == [None, None]
    assert target.read_bytes() == CONTENT


def test_part_of_another_address_or_without_a_note_is_not_used(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.put("/other/thing.bin", CONTENT[::-1])
    publisher.plan = [behave.drop(100)]
    with pytest.raises(CtsmError):
        get(publisher.root + "/other/thing.bin", target, patience=Patience(attempts=1))
    get(address, target)
    assert target.read_bytes() == CONTENT
    second = target.with_name("second.bin")
    second.with_name("second.bin.part").write_bytes(b"from somewhere")
    second.with_name("second.bin.part.json").write_text("[1]")
    download(address, second, Quiet(), patience=QUICK)
    assert second.read_bytes() == CONTENT
    assert set(publisher.header("Range")) == {None}


class Quiet(Notes):
    def begin(self, name: str, done: int, total: int | None) -> None:
        pass


def test_part_longer_than_the_file_starts_again(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.drop(4000)]
    with pytest.raises(CtsmError):
        get(address, target, patience=Patience(attempts=1))
    with target.with_name("thing.bin.part").open("ab") as stream:
        stream.write(bytes(7000))
    get(address, target)
    assert publisher.header("Range") == [None, "bytes=11000-", None]
    assert target.read_bytes() == CONTENT


def test_wrong_hash_removes_the_part_and_names_both(publisher, target):
    address, other = publisher.put("/thing.bin", CONTENT), "0" * 64
    with pytest.raises(CtsmError) as caught:
        get(address, target, sha256=other)
    assert DIGEST in str(caught.value)
    assert other in str(caught.value)
    assert leftovers(target) == []


def test_web_page_instead_of_the_file_is_refused(publisher, target):
    address = publisher.put("/thing.bin", b"<!doctype html><p>We have moved.")
    with pytest.raises(CtsmError, match="web page"):
        get(address, target, signature=b"PK\x03\x04")
    assert leftovers(target) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410, 501])
def test_final_refusals_are_not_tried_again(publisher, behave, target, code):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.status(code)]
    with pytest.raises(CtsmError, match=f"{address}: the server answered {code}"):
        get(address, target)
    assert len(publisher.requests) == 1
    assert leftovers(target) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_refusals_are_tried_again_a_bounded_number_of_times(publisher, behave, target, code):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.status(code)] * 2
    get(address, target)
    assert target.read_bytes() == CONTENT
    target.unlink()
    publisher.requests.clear()
    publisher.plan = [behave.status(code)] * 99
    with pytest.raises(CtsmError, match=rf"answered {code}.*last of 3 attempts"):
        get(address, target)
    assert len(publisher.requests) == 3


def test_an_answer_that_is_no_file_is_refused(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.status(204)]
    with pytest.raises(CtsmError, match="204"):
        get(address, target)


def test_the_pauses_double(publisher, behave, target, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.status(500)] * 4
    get(address, target, patience=Patience(attempts=5, pause=1.0))
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_silent_server_counts_as_dropped(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.silent(4.0)]
    get(address, target, notes := Notes(), patience=Patience(attempts=2, pause=0.0, timeout=1.0))
    assert "did not answer in time" in notes.lines[0]
    assert target.read_bytes() == CONTENT


def test_no_such_host(target, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("socket.getaddrinfo", fail)
    with pytest.raises(CtsmError, match=r"host nowhere\.invalid cannot be found"):
        get("http://nowhere.invalid/thing.bin", target)


def test_nobody_listens(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/thing.bin"
        with pytest.raises(CtsmError, match=r"connection failed.*last of 3 attempts"):
            get(address, target)
    assert leftovers(target) == []


def test_bad_certificate_is_final_and_other_faults_are_not():
    bad = ssl.SSLCertVerificationError(1, "certificate verify failed")
    bad.verify_message = "self-signed certificate"
    assert isinstance(network_error("https://x/y", urllib.error.URLError(bad)), CtsmError)
    assert isinstance(network_error("https://x/y", urllib.error.URLError(ConnectionResetError())), Dropped)
    assert isinstance(network_error("ftp://x/y", urllib.error.URLError("unknown url type: ftp")), CtsmError)


def test_other_kinds_of_address_are_refused(target, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    for address in (secret.as_uri(), "ftp://127.0.0.1/x", "data:,x"):
        with pytest.raises(CtsmError):
            get(address, target)
    assert not target.exists()


def test_redirect_keeps_the_range(publisher, behave, target):
    address = publisher.put("/new/thing.bin", CONTENT).replace("/new", "/old")
    publisher.plan = [behave.redirect("/new/thing.bin"), behave.drop(10), behave.redirect("/new/thing.bin")]
    get(address, target)
    assert [path for path, _ in publisher.requests] == ["/old/thing.bin", "/new/thing.bin"] * 2
    assert publisher.header("Range") == [None, None, "bytes=10-", "bytes=10-"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_redirect_to_another_kind_of_address_is_refused(publisher, behave, target, place):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.redirect(place)]
    with pytest.raises(CtsmError, match=r"[Rr]edirect"):
        get(address, target)
    assert leftovers(target) == []


def test_redirect_from_https_to_http_is_refused():
    request = urllib.request.Request("https://host/x")
    follow = connection._Redirects().redirect_request
    headers = email.message.Message()
    with pytest.raises(CtsmError, match="not a safe address"):
        follow(request, None, 302, "Found", headers, "http://host/x")
    assert follow(request, None, 302, "Found", headers, "https://other/x").full_url == "https://other/x"


def test_endless_redirects_end(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.redirect("/thing.bin")] * 50
    with pytest.raises(CtsmError, match="302"):
        get(address, target)
    assert len(publisher.requests) <= 12


def test_body_without_length_needs_a_known_hash(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.without_length] * 2
    with pytest.raises(CtsmError, match="how long the file is"):
        get(address, target)
    get(address, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_chunked_body_must_have_its_end(publisher, behave, target):
    address = publisher.put("/thing.bin", CONTENT)
    publisher.plan = [behave.chunked(finish=True)]
    get(address, target)
    assert target.read_bytes() == CONTENT
    target.unlink()
    publisher.plan = [behave.chunked(finish=False)] * 3
    publisher.marks = {}
    with pytest.raises(CtsmError, match="connection failed"):
        get(address, target)
    assert not target.exists()


def test_too_little_space_is_seen_before_the_first_byte(publisher, target, monkeypatch):
    address = publisher.put("/thing.bin", CONTENT)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 9_999}))
    with pytest.raises(CtsmError, match="10000 bytes are needed and 9999 bytes are free"):
        get(address, target, notes := Notes())
    assert notes.bytes == 0
    assert not target.exists()


def test_full_disk_at_every_step_leaves_nothing_under_the_final_name(publisher, target, disk, monkeypatch):
    monkeypatch.setattr("ctsm.resources.download.BLOCK", 1500)
    address = publisher.put("/thing.bin", CONTENT)
    for budget in itertools.count():
        target.unlink(missing_ok=True)
        publisher.requests.clear()
        disk.restart(budget)
        try:
            get(address, target)
            break
        except (CtsmError, OSError) as error:
            said = str(error)
        assert "space" in said
        assert not target.exists() or target.read_bytes() == CONTENT
        part = target.with_name("thing.bin.part")
        kept = part.read_bytes() if part.exists() else b""
        assert CONTENT.startswith(kept)
        disk.restart(None)
        if not target.exists():
            get(address, target)
        assert target.read_bytes() == CONTENT
        assert leftovers(target) == ["thing.bin"]
        if 0 < len(kept) < len(CONTENT):
            assert publisher.header("Range")[-1] == f"bytes={len(kept)}-"
            assert f"{len(kept)} bytes in" in said
    assert budget >= 7 + 3  # seven blocks, the note, the syncs and the renames
