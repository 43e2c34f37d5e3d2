"""`make model` from a publisher's server on the loopback interface, killed in each of its steps."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

import ctsm
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.sample import sample_path
from ctsm.resources.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
RESOURCES = ("empatheticdialogues", "glove", "nrc-vad", "atomic")
PARTS = {"train": "train.csv", "dev": "valid.csv", "test": "test.csv"}
COLUMNS = ["conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags"]

# The real `ctsm`, but the hash of the dialogues is that of the archive served here, and the process group (script and
# all) dies by SIGKILL where KILL_AT says: at a line on standard error, or before the n-th chunk of inferences.
PROGRAM = """\
import os, re, signal, sys
from dataclasses import replace
from ctsm.resources.catalogue import CATALOGUE
from ctsm.cli.main import main

def die():
    os.killpg(0, signal.SIGKILL)

class Watched:
    def __init__(self, stream, pattern):
        self.stream, self.pattern = stream, pattern
    def write(self, text):
        if re.search(self.pattern, text):
            die()
        return self.stream.write(text)
    def __getattr__(self, name):
        return getattr(self.stream, name)

def counted(infer, number):
    calls = []
    def watched(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            die()
        return infer(*arguments)
    return watched

name = "empatheticdialogues"
CATALOGUE[name] = replace(CATALOGUE[name], sha256=os.environ["DIALOGUES_SHA256"])
verb, _, place = os.environ.get("KILL_AT", "").partition(" ")
if verb == sys.argv[1]:
    if place.isdigit():
        from ctsm.knowledge.atomic import AtomicSource
        AtomicSource.infer = counted(AtomicSource.infer, int(place))
    else:
        sys.stderr = Watched(sys.stderr, place)
sys.exit(main())
"""


class Publishers(BaseHTTPRequestHandler):
    """Serves `files` with their ETag, whole or from a byte on, and remembers what was asked for."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    requests: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        begin = self.headers.get("Range")
        self.requests.append((self.path, begin))
        content = self.files[self.path]
        tag = f'"{sha256(content).hexdigest()}"'
        start = int(re.findall(r"\d+", begin)[0]) if begin and self.headers["If-Range"] == tag else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        pass


def dialogues_archive() -> bytes:
    """The sample in EmpatheticDialogues' layout: three CSV files that are not quoted."""
    tables = {name: io.StringIO() for name in PARTS.values()}
    writers = {
        split: csv.writer(tables[name], quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        for split, name in PARTS.items()
    }
    for writer in writers.values():
        writer.writerow(COLUMNS)
    for line in sample_path("dialogues").read_text(encoding="utf-8").splitlines():
        talk = json.loads(line)
        situation = talk["situation"].replace(",", "_comma_")
        for number, turn in enumerate(talk["turns"], start=1):
            said = turn.replace(",", "_comma_")
            row = [talk["id"], number, talk["emotion"], situation, number % 2, said, "5|5|5_2|2|5", ""]
            writers[talk["split"]].writerow(row)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, table in tables.items():
            content = table.getvalue().encode()
            member = tarfile.TarInfo(f"empatheticdialogues/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def vectors() -> bytes:
    """A vector for each word of the sample's lexicon, in GloVe's layout and width."""
    lines = sample_path("vad").read_text(encoding="utf-8").splitlines()[1:]
    values = np.random.default_rng(0).normal(size=(len(lines), 300)).round(3)
    return "".join(
        f"{line.split(chr(9))[0]} {' '.join(map(str, row))}\n" for line, row in zip(lines, values, strict=True)
    ).encode()


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """What the publishers serve, by the path in the catalogue's addresses."""
    events = sample_path("events").read_bytes().splitlines(keepends=True)
    thirds = {"train": events[::3], "dev": events[1::3], "test": events[2::3]}
    contents = {
        "empatheticdialogues": dialogues_archive(),
        "glove": zipped({"glove.6B.50d.txt": b"the 0.1\n", "glove.6B.300d.txt": vectors()}),
        "nrc-vad": zipped({"NRC-VAD-Lexicon/NRC-VAD-Lexicon.txt": sample_path("vad").read_bytes()}),
        "atomic": zipped({f"atomic2020_data-feb2021/{part}.tsv": b"".join(lines) for part, lines in thirds.items()}),
    }
    return {urlsplit(CATALOGUE[name].address).path: contents[name] for name in RESOURCES}


class Workshop:
    """A folder to make a model in, the server, and the command."""

    def __init__(self, folder: Path, server: str, handler: type[Publishers]) -> None:
        self.data, self.prepared, self.run = folder / "data", folder / "prepared" / "ed", folder / "runs" / "ctsm"
        self.requests = handler.requests
        self._folder = folder
        config = {
            "model": "ctsm",
            "options": {"depth": 8, "filter_size": 8, "semantic_size": 4, "fusion_size": 12},
            "training": {
                **{"iterations": 8, "evaluate_every": 4, "evaluate_from": 4, "warmup": 10, "batch_size": 4},
                **{"checkpoint_every": 3, "log_every": 1, "tensorboard": False},
            },
        }
        (folder / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "bin").mkdir()
        program = folder / "bin" / "ctsm"
        program.write_text(f"#!{sys.executable}\n{PROGRAM}", encoding="utf-8")
        program.chmod(0o755)
        dialogues = handler.files[urlsplit(CATALOGUE["empatheticdialogues"].address).path]
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "KILL_AT"},
            **{"DATA": str(self.data), "PREPARED": str(self.prepared), "RUN": str(self.run)},
            **{"CONFIG": str(folder / "tiny.yaml"), "MIRROR": server, "OPTIONS": "--training.seed 5"},
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DIALOGUES_SHA256": sha256(dialogues).hexdigest(),
            "OMP_NUM_THREADS": "1",
            "no_proxy": "*",
        }

    def make(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run what `make model` runs, in a process group of its own."""
        return subprocess.run(
            ["sh", "scripts/model.sh"],
            cwd=ROOT,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            start_new_session=True,
        )

    def paths_asked_for(self) -> list[str]:
        return [Path(path).name for path, _ in self.requests]


@pytest.fixture
def workshop(tmp_path: Path, published: dict[str, bytes]) -> Iterator[Workshop]:
    handler = type("Bound", (Publishers,), {"files": published, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # killed clients leave broken pipes
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield Workshop(tmp_path, f"http://127.0.0.1:{server.server_port}", handler)
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_killed_in_every_step_it_goes_on_where_it_stopped(workshop: Workshop, tmp_path: Path) -> None:
    # Half of the vectors have come.
    killed = workshop.make(ACCEPT_TERMS="1", KILL_AT=r"fetch ^glove\.6B\.zip: .*\([4-7]\d %\)")
    assert killed.returncode == -signal.SIGKILL
    assert workshop.paths_asked_for() == ["empatheticdialogues.tar.gz", "glove.6B.zip"]
    part = workshop.data / "glove.6B.zip.part"
    begun = part.stat().st_size
    assert begun > 0
    check_the_plan(killed.stdout[: killed.stdout.index("\n$ ctsm fetch")])

    # The rest of the vectors comes, and 512 of the utterances have been inferred for.
    killed = workshop.make(ACCEPT_TERMS="1", KILL_AT="prepare 2")
    assert killed.returncode == -signal.SIGKILL
    assert workshop.requests[2][1] == f"bytes={begun}-"
    assert sorted(workshop.paths_asked_for()[3:]) == ["NRC-VAD-Lexicon.zip", "atomic2020_data-feb2021.zip"]
    assert "about 28 MB" not in killed.stdout  # it is there
    cache = workshop.prepared.with_name("ed.inferences.jsonl")
    first = cache.read_bytes()
    assert len(first.splitlines()) == 1 + 512
    assert not workshop.prepared.exists()

    # The inferences go on from there, and the training has its second checkpoint.
    kept = tmp_path / "the same cache"
    kept.hardlink_to(cache)
    killed = workshop.make(KILL_AT="train ^train 7:")
    assert killed.returncode == -signal.SIGKILL
    assert "already there, verified" in killed.stdout
    assert kept.read_bytes().startswith(first)
    utterances = [json.loads(line)["utterance"] for line in kept.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(utterances) == len(set(utterances)) > 512
    assert not cache.exists()
    prepared = (workshop.prepared / "manifest.json").read_bytes()
    assert sorted(path.name for path in (workshop.run / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]

    # The training goes on from there, and is done.
    done = workshop.make()
    assert done.returncode == 0, done.stderr
    assert f"to {workshop.run}: at 6 of at most 8 iterations" in done.stdout
    assert re.findall(r"^train (\d+):", done.stderr, re.MULTILINE) == ["7", "8"]
    log = [json.loads(line) for line in (workshop.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["iteration"] for entry in log if entry["kind"] == "train"] == [1, 2, 3, 4, 5, 6, 7, 8]
    best = workshop.run / "best"
    assert done.stdout.splitlines()[-1] == f"The model directory is {best}. Talk to it: .venv/bin/ctsm chat {best}"
    assert json.loads((workshop.run / "run.json").read_text())["config"]["training"]["seed"] == 5
    assert (workshop.prepared / "manifest.json").read_bytes() == prepared
    assert len(workshop.requests) == 5
    check_the_model(workshop)
    check_that_nothing_is_left_to_do(workshop, done)


def check_the_plan(plan: str) -> None:
    """What `make model` says before it begins from nothing."""
    assert "about 862 MB" in plan
    assert plan.count("not checked") == 4
    assert "2 files of unknown size" in plan
    assert "at most 8 iterations" in plan
    assert "are free" in plan


def check_that_nothing_is_left_to_do(workshop: Workshop, done: subprocess.CompletedProcess[str]) -> None:
    """The next call changes nothing and fetches nothing, though the downloads are gone."""
    weights = workshop.run / "best" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    shutil.rmtree(workshop.data)
    again = workshop.make()
    assert again.returncode == 0, again.stderr
    assert "1. fetch    to" in again.stdout
    assert again.stdout.count(": done") == 3
    assert "Disk" not in again.stdout
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert weights.stat().st_mtime_ns == written
    assert len(workshop.requests) == 5


def check_the_model(workshop: Workshop) -> None:
    """The prepared data are the sample's, with everything that was fetched; the model answers."""
    data = PreparedData(workshop.prepared)
    talks = [json.loads(line) for line in sample_path("dialogues").read_text(encoding="utf-8").splitlines()]
    for split in PARTS:
        turns = [len(talk["turns"]) // 2 for talk in talks if talk["split"] == split]
        assert data.manifest["counts"][split]["examples"] == sum(turns)
    assert data.manifest["inferences"]["backend"] == "atomic"
    assert data.manifest["vectors"]["words_found"] > 500
    assert data.manifest["vad"]["words_found"] > 500
    assert ctsm.load(workshop.run / "best").respond(["I lost my keys."]).emotion


def test_nothing_is_fetched_before_the_terms_are_accepted(workshop: Workshop) -> None:
    refused = workshop.make()
    assert refused.returncode == 2
    assert "The terms of empatheticdialogues are not accepted" in refused.stderr
    assert refused.stderr.splitlines()[-1] == "With make, ACCEPT_TERMS=1 does what --accept-terms does."
    assert "CC BY-NC 4.0" in refused.stdout
    assert workshop.requests == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sitecustomize.py").write_text(
        "import shutil\n"
        "usage = shutil.disk_usage\n"
        "shutil.disk_usage = lambda path: usage(path)._replace(free=2_000_000_000)\n",
        encoding="utf-8",
    )
    refused = workshop.make(ACCEPT_TERMS="1", PYTHONPATH=str(tmp_path / "bin"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("make model: error: ")
    assert "about 2.5 GB are needed and 2.0 GB are free" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert workshop.requests == []
    assert not workshop.data.exists()


def test_a_wrong_setting_is_noticed_before_anything_is_fetched(workshop: Workshop) -> None:
    refused = workshop.make(ACCEPT_TERMS="1", OPTIONS="--training.iterations 0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("make model: error: ")
    assert "training.iterations" in refused.stderr
    assert workshop.requests == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_runs_the_script() -> None:
    shown = subprocess.run(["make", "-n", "model"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "sh scripts/model.sh" in shown
