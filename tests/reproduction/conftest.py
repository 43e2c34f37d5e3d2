"""A folder to reproduce in: a configuration that trains in a fraction of a second, and tables of few rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctsm.evaluation.paper import PaperRow
from ctsm.reproduction import plan
from ctsm.reproduction.deadline import Deadline
from ctsm.reproduction.plan import Places
from ctsm.reproduction.work import Request, reproduce

TINY = """
model: {model}
variant: "{variant}"
options: {{size: 16, depth: 8, filter_size: 8, semantic_size: 4, fusion_size: 24{options}}}
training:
  batch_size: 4
  iterations: 8
  warmup: 10
  rate_factor: 0.2
  evaluate_every: 4
  evaluate_from: 4
  patience: 50
  checkpoint_every: 4
  log_every: 2
  pool: 3
  seed: 7
  tensorboard: false
"""


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """A writer of tiny configurations."""

    def write(name: str, model: str = "ctsm", variant: str = "", options: str = "") -> None:
        (tmp_path / "configs").mkdir(exist_ok=True)
        text = TINY.format(model=model, variant=variant, options=options and f", {options}")
        (tmp_path / "configs" / f"{name}.yaml").write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def places(tmp_path: Path, configure: Callable[..., None]) -> Places:
    """Configurations of width 16; runs and results are empty."""
    configure("ctsm")
    return Places(tmp_path / "configs", tmp_path / "runs", tmp_path / "results")


@pytest.fixture
def finished(
    request_for: Callable[..., Request], places: Places, tmp_path_factory: pytest.TempPathFactory, two_rows: None
) -> Callable[[str], None]:
    """Puts the runs and results of a finished target into the folder; each target is reproduced once for all tests."""

    def put(target: str) -> None:
        store = tmp_path_factory.getbasetemp() / f"finished-{target}"
        stored = Places(places.configs, store / "runs", store / "results")
        if not store.exists():
            reproduce(replace(request_for(target), places=stored), lambda _message: None)
        shutil.copytree(stored.runs, places.runs)
        shutil.copytree(stored.results, places.results)

    return put


@pytest.fixture
def request_for(places: Places, prepared: Path) -> Callable[..., Request]:
    """A builder of requests on the tiny data."""

    def build(target: str = "ambiguities", **changes: Any) -> Request:
        overrides = ("--training.iterations", "8", *changes.pop("overrides", ()))
        return Request(target=target, data=prepared, places=places, overrides=overrides, **changes)

    return build


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ambiguities` with one open point of two readings, table1 with CTSM alone."""
    monkeypatch.setattr(plan, "OPEN_POINTS", {"vad_default": "A2"})
    monkeypatch.setitem(plan.TABLE_TARGETS, "table1", (PaperRow("CTSM", "ctsm", "", 43.41, 34.56, 2.00, 7.34),))


@pytest.fixture
def budget_of_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes budgets end after so many looks at the clock: one before a row, then one a step. No test waits for time."""

    def end_after(looks: int) -> None:
        left = iter(range(looks))
        monkeypatch.setattr(Deadline, "passed", lambda _self: next(left, None) is None)

    return end_after
