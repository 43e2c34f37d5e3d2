"""Replies files of two systems, studies made from them, and servers, browsers and databases to run them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import uvicorn

from ctsm.judging.create import create_study, read_guidelines
from ctsm.judging.design import DesignOptions
from ctsm.judging.serve import listen
from ctsm.judging.server import create_app
from ctsm.judging.store import Store
from ctsm.judging.study import ASPECTS


@dataclass(frozen=True)
class Made:
    """A study with what was given out for it."""

    place: str
    store: Store
    tokens: dict[str, str]


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def reply_lines(system: str, count: int, word: str) -> list[dict[str, Any]]:
    """The lines of a replies file: `count` contexts, two of each conversation; every text names its item."""
    return [
        {
            "id": f"c{number // 2}#{number}",
            "conversation_id": f"c{number // 2}",
            "context": [f"Something happened to me on day {number}."] * (1 + 2 * (number % 2)),
            "reference": f"Tell me more about day {number}.",
            "reply": f"{word} says of day {number}: I see.",
            "reply_tokens": [word, str(number)],
            "emotion": ["proud", "sad", "afraid"][number // 2 % 3],
            "predicted": None,
            "system": system,
        }
        for number in range(count)
    ]


@pytest.fixture
def replies(tmp_path: Path) -> Callable[..., Path]:
    """Writes a replies file: (system, count, word of the replies, function that changes the lines)."""

    def write(
        system: str, count: int = 30, word: str = "", change: Callable[[list[Any]], object] | None = None
    ) -> Path:
        lines = reply_lines(system, count, word or f"{system}-word")
        if change is not None:
            change(lines)
        return write_lines(tmp_path / f"{system}.jsonl", lines)

    return write


@pytest.fixture
def make(tmp_path: Path, replies: Callable[..., Path]) -> Iterator[Callable[..., Made]]:
    """Makes a study of the systems "north" and "south"; `change` is given each system and the lines of its file."""
    stores = list[Store]()

    def build(
        items: int = 4,
        annotators: int = 2,
        place: str = "",
        aspects: Sequence[str] = tuple(ASPECTS),
        change: Callable[[str, list[Any]], object] = lambda _system, _lines: None,
        contexts: int = 0,
    ) -> Made:
        files = [replies(name, contexts or 2 * items + 8, change=partial(change, name)) for name in ("north", "south")]
        options = DesignOptions(
            aspects=tuple(aspects), annotators=annotators, items=items, seed=5, guidelines=read_guidelines(None)
        )
        place = place or str(tmp_path / "study.db")
        store, _ = create_study(place, [f"poles={files[0]},{files[1]}"], options)
        stores.append(store)
        return Made(place, store, store.new_tokens())

    yield build
    for store in stores:
        store.close()


@contextmanager
def _serving(store: Store) -> Iterator[str]:
    """Serve a study from a thread and yield its address."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(create_app(store), access_log=False, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(timeout=30)


@pytest.fixture
def serving() -> Callable[[Store], AbstractContextManager[str]]:
    """Serves a study from a thread."""
    return _serving


@pytest.fixture(scope="session")
def postgresql(missing: Callable[[str], NoReturn]) -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, without a database name at its end."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    tools = found[-1].parent if found else Path(shutil.which("initdb") or "").parent
    if not (tools / "pg_ctl").exists():
        missing("PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="ctsm-pg-"))
    as_owner = list[str]()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        as_owner = ["setpriv", "--reuid=nobody", "--clear-groups"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def run(*words: object) -> None:
        subprocess.run([*as_owner, *map(str, words)], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    try:
        run(tools / "initdb", "-D", folder / "data", "-U", "ctsm", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        run(tools / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://ctsm@127.0.0.1:{port}"
        finally:
            run(tools / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgresql: str) -> str:
    """The URL of a new, empty PostgreSQL database."""
    import psycopg

    name = f"study{time.monotonic_ns()}"
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgresql}/{name}"
