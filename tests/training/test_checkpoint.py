from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ctsm.config import RunConfig
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.files import sha256_of
from ctsm.models.base import EmpatheticModel
from ctsm.training.checkpoint import (
    MODEL,
    OPTIMIZER,
    STATE,
    SUMS,
    Progress,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from ctsm.training.loop import build_model

FILES = (MODEL, OPTIMIZER, STATE, SUMS)


@dataclass(repr=False)
class State:
    """A model and its optimiser with a few steps behind them."""

    model: EmpatheticModel
    optimizer: torch.optim.Optimizer
    data: PreparedData

    def step(self) -> None:
        batch = self.data.examples("train").batch(np.arange(4))
        self.optimizer.zero_grad()
        self.model.loss(batch).total.backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        tensors = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{name}/{key}"] = value.clone()
        return tensors | {"random": torch.get_rng_state()}


@pytest.fixture
def make(prepared: Path, tiny_config: RunConfig) -> Callable[..., State]:
    def build(steps: int, **options: Any) -> State:
        data = PreparedData(prepared)
        model = build_model(replace(tiny_config, options=replace(tiny_config.options, **options)), data)
        state = State(model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), data)
        for _ in range(steps):
            state.step()
        return state

    return build


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


PROGRESS = Progress(
    iteration=3,
    best_score=55.123456789012345,
    best_iteration=2,
    stale_evaluations=1,
    train_seconds=0.1 + 0.2,
    log_bytes=77,
    window=[1 / 3, 2e-300],
    window_steps=1,
)


@pytest.mark.parametrize("sharing", ["separate", "mlp_only", "all"])
def test_the_whole_state_comes_back(make: Callable[..., State], tmp_path: Path, sharing: str) -> None:
    torch.manual_seed(1)
    old = make(3, fusion_sharing=sharing)
    torch.rand(5)
    save_checkpoint(tmp_path, old.model, old.optimizer, PROGRESS)
    expected = old.tensors()
    new = make(0, fusion_sharing=sharing)
    torch.manual_seed(2)
    progress, damages = load_checkpoint(tmp_path, new.model, new.optimizer)
    assert (progress, damages) == (PROGRESS, [])
    assert same(new.tensors(), expected)
    assert len([name for name in expected if "/" in name]) == 3 * len(list(old.model.parameters()))
    old.step()
    new.step()
    assert same(new.tensors(), old.tensors())


def test_a_state_without_steps(make: Callable[..., State], tmp_path: Path) -> None:
    old, new = make(0), make(0)
    save_checkpoint(tmp_path, old.model, old.optimizer, Progress())
    assert load_checkpoint(tmp_path, new.model, new.optimizer) == (Progress(), [])
    old.step()
    new.step()
    assert same(new.tensors(), old.tensors())


def test_the_restored_state_does_not_hang_on_the_files(make: Callable[..., State], tmp_path: Path) -> None:
    """The next checkpoint removes this one; a tensor mapped from a file that is cut or gone would crash the process."""
    old, new = make(2), make(0)
    save_checkpoint(tmp_path, old.model, old.optimizer, PROGRESS)
    load_checkpoint(tmp_path, new.model, new.optimizer)
    expected = new.tensors()
    for name in (MODEL, OPTIMIZER):
        path = checkpoints(tmp_path)[0] / name
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert same(new.tensors(), expected)


def test_one_earlier_checkpoint_is_kept(make: Callable[..., State], tmp_path: Path) -> None:
    state = make(1)
    kept = []
    for iteration in (1, 2, 5, 5, 9, 3):
        save_checkpoint(tmp_path, state.model, state.optimizer, Progress(iteration))
        kept.append([int(folder.name.removeprefix("step-")) for folder in checkpoints(tmp_path)])
    # from 9 back to 3: a run that had to go on from an earlier checkpoint leaves the later ones behind
    assert kept == [[1], [1, 2], [2, 5], [2, 5], [5, 9], [3]]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003"]


def test_only_whole_names_count(tmp_path: Path) -> None:
    for name in ("step-00000010", "step-00000009", "step-9", ".step-00000011.abcdefgh", "step-00000012.old", "other"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000009", "step-00000010"]
    assert checkpoints(tmp_path / "absent") == []


def test_without_a_checkpoint(make: Callable[..., State], tmp_path: Path) -> None:
    state = make(0)
    with pytest.raises(CtsmError, match="has no checkpoint to resume from"):
        load_checkpoint(tmp_path, state.model, state.optimizer)


@pytest.fixture
def two(make: Callable[..., State], tmp_path: Path) -> Iterator[tuple[Path, State, dict[int, dict[str, torch.Tensor]]]]:
    """A run with checkpoints after steps 3 and 4, a fresh state to load into, and what either step should give."""
    state = make(3)
    expected = {}
    for iteration in (3, 4):
        save_checkpoint(tmp_path, state.model, state.optimizer, replace(PROGRESS, iteration=iteration))
        expected[iteration] = state.tensors()
        state.step()
    return tmp_path, make(0), expected


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.sampled_from(FILES),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
    both=st.booleans(),
)
def test_any_damage_is_noticed(
    two: tuple[Path, State, dict[int, dict[str, torch.Tensor]]],
    name: str,
    place: float,
    bit: int,
    cut: bool,
    both: bool,
) -> None:
    """One flipped bit or a cut in any file: the checkpoint before is used; without one, a sentence names the file."""
    run, state, expected = two
    damaged = checkpoints(run) if both else checkpoints(run)[1:]
    contents = {folder / name: (folder / name).read_bytes() for folder in damaged}
    try:
        for path, content in contents.items():
            index = int(place * len(content))
            spoilt = bytearray(content[:index] if cut else content)
            if not cut:
                spoilt[index] ^= 1 << bit
            path.write_bytes(spoilt)
        if both:
            with pytest.raises(CtsmError, match=rf"step-00000004/.*{name}"):
                load_checkpoint(run, state.model, state.optimizer)
        else:
            progress, damages = load_checkpoint(run, state.model, state.optimizer)
            assert progress.iteration == 3
            assert same(state.tensors(), expected[3])
            assert len(damages) == 1
            assert name in str(damages[0])
    finally:
        for path, content in contents.items():
            path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(two: tuple[Path, State, dict[int, dict[str, torch.Tensor]]], name: str) -> None:
    run, state, expected = two
    (checkpoints(run)[1] / name).unlink()
    progress, damages = load_checkpoint(run, state.model, state.optimizer)
    assert progress.iteration == 3
    assert name in str(damages[0])
    assert same(state.tensors(), expected[3])


def sign(folder: Path) -> None:
    """Write fitting hashes for whatever the files hold."""
    (folder / SUMS).write_text("".join(f"{sha256_of(folder / name)}  {name}\n" for name in (MODEL, OPTIMIZER, STATE)))


@pytest.mark.parametrize("state", ['{"iteration": 4, "from_the_future": 1}', "[1, 2]", '"text"', "{"])
def test_a_state_of_another_version_is_refused(
    two: tuple[Path, State, dict[int, dict[str, torch.Tensor]]], state: str
) -> None:
    run, fresh, _ = two
    (checkpoints(run)[1] / STATE).write_text(state)
    sign(checkpoints(run)[1])
    progress, damages = load_checkpoint(run, fresh.model, fresh.optimizer)
    assert progress.iteration == 3
    assert "state.json: " in str(damages[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    two: tuple[Path, State, dict[int, dict[str, torch.Tensor]]], value: float
) -> None:
    """Even with fitting hashes, as an earlier version might have written them."""
    run, state, expected = two
    for folder in (checkpoints(run)[1], checkpoints(run)[0]):
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / MODEL).items()}
        tensors["embedding.weight"][2, 3] = value
        save_file(tensors, folder / MODEL)
        sign(folder)
        if folder.name.endswith("4"):
            progress, damages = load_checkpoint(run, state.model, state.optimizer)
            assert progress.iteration == 3
            assert "embedding.weight holds numbers that are not finite" in str(damages[0])
            assert same(state.tensors(), expected[3])
    with pytest.raises(CtsmError, match=r"embedding\.weight holds numbers that are not finite"):
        load_checkpoint(run, state.model, state.optimizer)


def test_a_full_disk_keeps_the_checkpoints_there_are(
    two: tuple[Path, State, dict[int, dict[str, torch.Tensor]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state, expected = two
    load_checkpoint(run, state.model, state.optimizer)
    progress = replace(PROGRESS, iteration=5)
    calls = {"count": 0, "fail_at": 0}

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            calls["count"] += 1
            if calls["count"] == calls["fail_at"]:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*arguments)

        return wrapped

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    failures = 0
    for place in range(1, 50):
        calls.update(count=0, fail_at=place)
        try:
            save_checkpoint(run, state.model, state.optimizer, progress)
        except OSError as error:
            assert error.errno == errno.EIO
            failures += 1
            names = [path.name for path in (run / "checkpoints").iterdir()]
            assert {"step-00000003", "step-00000004"} <= set(names) <= {f"step-0000000{n}" for n in (3, 4, 5)}
            shutil.rmtree(run / "checkpoints" / "step-00000005", ignore_errors=True)
            assert load_checkpoint(run, state.model, state.optimizer)[0].iteration == 4
            assert same(state.tensors(), expected[4])
        else:
            break
    assert failures > 6
    assert [folder.name for folder in checkpoints(run)] == ["step-00000004", "step-00000005"]


def test_people_can_read_and_check_a_checkpoint(two: tuple[Path, State, dict[int, dict[str, torch.Tensor]]]) -> None:
    folder = checkpoints(two[0])[0]
    assert json.loads((folder / STATE).read_text()) == asdict(PROGRESS)
    lines = [line.split("  ") for line in (folder / SUMS).read_text().splitlines()]
    assert {name: digest for digest, name in lines} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != SUMS
    }
