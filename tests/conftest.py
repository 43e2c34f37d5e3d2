"""Shared fixtures: a tiny prepared dataset, a run on it that takes seconds, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from ctsm.config import RunConfig, TrainingOptions
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.sample import sample_path
from ctsm.models.ctsm import CTSMOptions

# How long an example takes depends on what else the machine does; no test is about time.
settings.register_profile("ctsm", deadline=None)
settings.load_profile("ctsm")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SLICE = {"train": 24, "dev": 6, "test": 4}


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Where a script runs the tests in the background SIGINT is ignored, and so it would be in what tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file with the first conversations of each split of the packaged sample."""
    path = tmp_path_factory.mktemp("dialogues") / "tiny.jsonl"
    taken: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as stream:
        for line in sample_path("dialogues").read_text(encoding="utf-8").splitlines():
            split = json.loads(line)["split"]
            if taken[split] < SLICE[split]:
                taken[split] += 1
                stream.write(line + "\n")
    assert taken == SLICE
    return path


@pytest.fixture(scope="session")
def prepared(tiny_dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny prepared directory: vectors of width 16, the sample's lexicon and events. Read it only."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(PrepareOptions(str(tiny_dialogues), vad="sample", vector_size=16, inferences="atomic:sample"), out)
    return out


@pytest.fixture(scope="session")
def prepared_all(tiny_dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `prepared`, with all that any system needs. Read it only."""
    out = tmp_path_factory.mktemp("prepared-all") / "data"
    options = PrepareOptions(
        str(tiny_dialogues),
        vad="sample",
        vector_size=16,
        inferences="atomic:sample",
        emotion_words="sample",
        concepts="sample",
        feedback=True,
        cognition=True,
    )
    prepare(options, out)
    return out


@pytest.fixture
def tiny_config() -> RunConfig:
    """A CTSM of width 16 and 12 steps: an evaluation every 4, a checkpoint every 3, a log line every 2."""
    options = CTSMOptions(size=16, depth=8, filter_size=8, semantic_size=4, fusion_size=24)
    training = TrainingOptions(
        batch_size=4,
        iterations=12,
        warmup=10,
        rate_factor=0.2,
        evaluate_every=4,
        evaluate_from=4,
        patience=50,
        checkpoint_every=3,
        log_every=2,
        pool=3,
        seed=7,
        tensorboard=False,
    )
    return RunConfig("ctsm", "", options, training)


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """Skips the test for a tool that is not there, or fails where every tool is asked for."""

    def end(what: str) -> NoReturn:
        if os.environ.get("CTSM_REQUIRE") == "all":
            pytest.fail(f"there is no {what}, and CTSM_REQUIRE=all asks for every tool")
        pytest.skip(f"there is no {what}")

    return end


@pytest.fixture(scope="module")  # no longer: the driver's event loop would be in the way of other modules' loops
def chromium(missing: Callable[[str], NoReturn]) -> Iterator[Any]:
    """A Chromium that is on the machine, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        missing("Chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()
