from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
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
from ctsm.models.base import EmpatheticModel
from ctsm.models.bundle import DataFacts, distinct_tensors, load_bundle, load_weights, resolve_directory, save_bundle
from ctsm.training.loop import build_model

PROGRESS = {"iteration": 40, "train_seconds": 1.5, "dev": {"acc": 25.0}}


@pytest.fixture
def data(prepared: Path) -> PreparedData:
    return PreparedData(prepared)


@pytest.fixture
def save(data: PreparedData, tiny_config: RunConfig) -> Callable[..., EmpatheticModel]:
    """Save a freshly initialised model and return it."""

    def build(directory: Path, **options: Any) -> EmpatheticModel:
        config = replace(tiny_config, options=replace(tiny_config.options, **options))
        model = build_model(config, data)
        save_bundle(directory, model, config, data.directory, DataFacts.of(data.manifest), PROGRESS)
        return model

    return build


@pytest.fixture
def saved(save: Callable[..., EmpatheticModel], tmp_path: Path) -> Path:
    save(tmp_path / "model")
    return tmp_path / "model"


def test_everything_comes_back(
    save: Callable[..., EmpatheticModel], data: PreparedData, tiny_config: RunConfig, tmp_path: Path
) -> None:
    model = save(tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    assert bundle.config == tiny_config
    assert bundle.vocabulary == data.vocabulary
    assert bundle.progress == PROGRESS
    assert bundle.directory == tmp_path / "model"
    assert bundle.data == DataFacts.of(data.manifest)
    assert bundle.data.fingerprint == data.fingerprint
    assert bundle.data.file_of("vad") == "vad.txt"
    assert bundle.data.file_of("vectors") == "none"
    assert not bundle.model.training
    state = model.state_dict()
    kept = {name for name in state if name.split(".")[0] not in model.training_only}
    assert kept == bundle.model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in bundle.model.state_dict().items())
    assert bundle.parameters == sum(parameter.numel() for parameter in model.parameters())
    batch = data.examples("dev").batch(np.arange(5))
    assert torch.equal(model.eval().score(batch).nll, bundle.model.score(batch).nll)
    (inferences,) = bundle.source().infer(["My sister flew home for my birthday."])
    assert any(inferences)


def test_it_needs_nothing_but_itself(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moved directory loads, answers, and runs no pickle."""
    data = PreparedData(shutil.copytree(prepared, tmp_path / "data"))
    model = build_model(tiny_config, data)
    save_bundle(tmp_path / "here", model, tiny_config, data.directory, DataFacts.of(data.manifest), {})
    shutil.rmtree(tmp_path / "data")
    shutil.move(tmp_path / "here", tmp_path / "there")

    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a pickle on a load path")

    for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",))):
        for name in names:
            monkeypatch.setattr(module, name, forbidden)
    bundle = load_bundle(tmp_path / "there")
    assert bundle.source().infer(["I lost my keys."])


def test_the_files_of_a_model_directory(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "inferences",
        "model.safetensors",
        "vocabulary.txt",
    ]
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask() for path in saved.rglob("*") if path.is_file())
    config = json.loads((saved / "config.json").read_text())
    assert config["format"] == 1
    assert [resource["terms"] for resource in config["data"]["resources"]]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("sharing", ["separate", "mlp_only", "all"])
def test_tied_modules_are_written_once_and_stay_tied(
    save: Callable[..., EmpatheticModel], tmp_path: Path, sharing: str
) -> None:
    model = save(tmp_path / "model", fusion_sharing=sharing)
    loaded = load_bundle(tmp_path / "model").model

    def ties(owner: EmpatheticModel) -> set[frozenset[str]]:
        names: dict[int, set[str]] = {}
        for name, parameter in owner.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), set()).add(name)
        return {frozenset(group) for group in names.values()}

    kept = {name for name, _ in loaded.named_parameters(remove_duplicate=False)}
    assert {group & kept for group in ties(model)} - {frozenset()} == ties(loaded)
    assert any(len(group) > 1 for group in ties(model)) == (sharing != "separate")
    assert len(load_file(tmp_path / "model" / "model.safetensors")) < len(model.state_dict()) or sharing == "separate"
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_distinct_tensors_cover_every_tensor(save: Callable[..., EmpatheticModel], tmp_path: Path) -> None:
    model = save(tmp_path / "model", fusion_sharing="all")
    distinct = distinct_tensors(model)
    addresses = {tensor.data_ptr() for tensor in distinct.values()}
    assert len(addresses) == len(distinct)
    assert {tensor.data_ptr() for tensor in model.state_dict().values()} == addresses
    assert {"diversity.counts", "word_features", "in_lexicon", "label_ids"} <= distinct.keys()


def test_runs_and_model_directories_are_found(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved, run / "best")
    assert resolve_directory(saved) == saved
    assert resolve_directory(run) == run / "best"
    assert load_bundle(run).directory == run / "best"
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CtsmError, match="young: has no best model yet"):
        load_bundle(tmp_path / "young")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CtsmError, match=r"not a model or run directory \(no config.json\)"):
            load_bundle(path)


def spoil_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def put(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put("embedding.weight", float("nan")), "embedding.weight holds numbers that are not finite"),
        (put("generator.gate.bias", float("inf")), "generator.gate.bias holds numbers that are not finite"),
        (put("word_features", float("-inf")), "word_features holds numbers that are not finite"),
        (lambda tensors: tensors.pop("teacher_head.output.bias"), r"do not fit .*teacher_head\.output\.bias"),
        (lambda tensors: tensors.update({"teacher_head.output.bias": torch.zeros(3)}), r"has shape \(3,\)"),
        (lambda tensors: tensors.pop("generator.gate.bias"), r"do not fit .*generator\.gate\.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "do not fit .*extra"),
        (lambda tensors: tensors.update({"embedding.weight": torch.zeros(3, 16)}), r"has shape \(3, 16\)"),
        (lambda tensors: tensors.update({"generator.gate.bias": torch.zeros(1, dtype=torch.float64)}), "float64"),
    ],
    ids=["nan", "inf", "buffer", "missing teacher", "teacher's shape", "missing", "extra", "shape", "type"],
)
def test_unfit_weights_are_refused(saved: Path, change: Callable[..., Any], part: str) -> None:
    spoil_weights(saved, change)
    with pytest.raises(CtsmError, match=rf"model\.safetensors: .*{part}"):
        load_bundle(saved)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_weights_are_refused(saved: Path, share: float) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CtsmError, match=r"model\.safetensors: cannot read the weights"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.safetensors", "no such file"),
        ("vocabulary.txt", "no such file"),
        ("config.json", "not a model or run directory"),
    ],
)
def test_missing_files_are_refused(saved: Path, name: str, part: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CtsmError, match=part):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format": 2}, "not a model directory of format 1"),
        ({"model": "nobody"}, "unknown model 'nobody'"),
        ({"options": None}, "lacks 'options'"),
        ({"data": None}, "lacks the facts on its training"),
        ({"data": {"fingerprint": "x"}}, "lacks the facts on its training"),
        ({"progress": None}, "lacks the facts on its training"),
        ({"progress": [1]}, "lacks the facts on its training"),
        ({"options": {"size": 24}}, "has shape"),
    ],
)
def test_unfit_configurations_are_refused(saved: Path, change: dict[str, Any], part: str) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CtsmError, match=part):
        load_bundle(saved)
    path.write_text("[1]")
    with pytest.raises(CtsmError, match="not a model directory of format 1"):
        load_bundle(saved)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["config.json", "vocabulary.txt", "inferences/source.json"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_spoilt_text_files_load_or_are_refused(saved: Path, name: str, place: float, bit: int, cut: bool) -> None:
    """A flipped bit or a cut in a text file never ends in anything but a model or a CtsmError."""
    path = saved / name
    content = path.read_bytes()
    index = int(place * len(content))
    spoilt = bytearray(content[:index] if cut else content)
    if not cut:
        spoilt[index] ^= 1 << bit
    path.write_bytes(spoilt)
    try:
        bundle = load_bundle(saved)
        bundle.source()
    except CtsmError as error:
        assert str(error).endswith(".")
    finally:
        path.write_bytes(content)


def test_a_full_disk_keeps_the_old_model(
    save: Callable[..., EmpatheticModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    save(directory, temperature=0.5)
    fsync, calls = os.fsync, 0
    done = False
    for place in range(1, 40):
        calls = 0

        def full(handle: int, place: int = place) -> None:
            nonlocal calls
            calls += 1
            if calls == place:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", full)
        try:
            save(directory, temperature=0.25)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert [path.name for path in tmp_path.iterdir()] == ["model"]
            assert load_bundle(directory).config.options.temperature in (0.5, 0.25)
        else:
            done = True
            break
    assert done
    assert place > 5
    assert load_bundle(directory).config.options.temperature == 0.25


def test_other_data_in_the_same_place_is_noticed(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    """`ctsm prepare` may have replaced the dataset while a training went on: its vocabulary is not the model's."""
    data = PreparedData(shutil.copytree(prepared, tmp_path / "data"))
    model = build_model(tiny_config, data)
    manifest = json.loads((data.directory / "manifest.json").read_text())
    (data.directory / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "another"}))
    with pytest.raises(CtsmError, match="data: was prepared anew while in use"):
        save_bundle(tmp_path / "model", model, tiny_config, data.directory, DataFacts.of(data.manifest), {})
    assert not (tmp_path / "model").exists()


def test_load_weights_fills_the_model_in_place(saved: Path, data: PreparedData, tiny_config: RunConfig) -> None:
    model = build_model(replace(tiny_config, training=replace(tiny_config.training, seed=99)), data)
    weight = model.generator.gate.weight
    before = weight.detach().clone()
    load_weights(model, saved / "model.safetensors")
    assert not torch.equal(weight, before)
    assert torch.equal(weight, load_file(saved / "model.safetensors")["generator.gate.weight"])


def test_load_weights_refuses_counts_that_are_not_finite(
    saved: Path, data: PreparedData, tiny_config: RunConfig
) -> None:
    spoil_weights(saved, put("diversity.counts", float("-inf")))
    with pytest.raises(CtsmError, match=r"diversity\.counts holds numbers that are not finite"):
        load_weights(build_model(tiny_config, data), saved / "model.safetensors")
    load_bundle(saved)  # does not have them


def test_what_only_training_needs_is_not_loaded(saved: Path, data: PreparedData) -> None:
    model = load_bundle(saved).model
    assert model.training_only
    assert not any(hasattr(model, name) for name in model.training_only)
    with pytest.raises(AttributeError):
        model.loss(data.examples("dev").batch(np.arange(2)))


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_bundle(saved)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_weights_are_pages_of_the_file(saved: Path) -> None:
    model = load_bundle(saved).model
    lines = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    ranges = [line[0].split("-") for line in lines if line[-1] == str(saved / "model.safetensors")]
    for name, tensor in model.state_dict().items():
        address = tensor.data_ptr()
        assert any(int(first, 16) <= address < int(end, 16) for first, end in ranges), name


def test_what_is_written_to_mapped_weights_stays_here(saved: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()
    model, other = load_bundle(saved).model, load_bundle(saved).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (saved / "model.safetensors").read_bytes() == before
    for parameter, untouched in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, untouched + 1.0)
