"""The model directory: complete for inference, portable, loadable without running anything it contains.

config.json         model name and options, sizes, training facts, the data it was trained on, terms of every resource
model.safetensors   parameters and per-word tables
vocabulary.txt      JSON list, one word a line
inferences/         what the inference source needs for a new utterance
extras/             what is known of each word beyond that, for the models that need it
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctsm.config import RunConfig, config_from_json
from ctsm.corpus.extras import EXTRAS, WordKnowledge, table_file
from ctsm.corpus.prepared import INFERENCES, MANIFEST, VOCABULARY
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.files import atomic_directory, read_json, write_json
from ctsm.knowledge.inference import InferenceSource, load_source
from ctsm.models import model_class
from ctsm.models.base import EmpatheticModel
from ctsm.text.vocabulary import Vocabulary
from ctsm.version import __version__

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class DataFacts:
    """What a model directory keeps of the prepared dataset it was trained on."""

    fingerprint: str
    vocabulary: dict[str, Any]
    vad: dict[str, Any] | None
    vectors: dict[str, Any] | None
    inferences: dict[str, Any]
    resources: list[dict[str, Any]]

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> DataFacts:
        """Take the facts from a manifest or a config.json."""
        return cls(**{name: manifest[name] for name in cls.__dataclass_fields__})

    def file_of(self, role: str) -> str:
        """Name the file used in a role ("vectors", "vad", ...), or "none"."""
        return next((str(resource["file"]) for resource in self.resources if resource["role"] == role), "none")


@dataclass
class Bundle:
    """A model with everything around it.

    Attributes:
        model: in evaluation mode, without the parts that only training needs.
        parameters: how many the whole model has.
        vocabulary: its words.
        config: how it was trained.
        data: on what.
        progress: iteration of the checkpoint, iterations of the run, seconds, dev scores.
        directory: where it was loaded from.
    """

    model: EmpatheticModel
    parameters: int
    vocabulary: Vocabulary
    config: RunConfig
    data: DataFacts
    progress: dict[str, Any]
    directory: Path

    def source(self) -> InferenceSource:
        """Open the inference source that comes with the model."""
        return load_source(self.directory / INFERENCES)

    def word_knowledge(self) -> WordKnowledge:
        """Load what the model needs to know of each word."""
        return WordKnowledge.load(self.directory / EXTRAS, self.model.needs, len(self.vocabulary))


def save_bundle(
    directory: Path,
    model: EmpatheticModel,
    config: RunConfig,
    prepared_directory: Path,
    data: DataFacts,
    progress: dict[str, Any],
) -> None:
    """Write a model directory atomically; vocabulary and inference source are copied from the prepared dataset.

    Raises:
        CtsmError: the prepared dataset is no longer the one that `data` describes.
    """
    manifest = read_json(prepared_directory / MANIFEST, "the manifest of a prepared dataset")
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != data.fingerprint:
        raise CtsmError(f"{prepared_directory}: was prepared anew while in use; prepare as before, then resume.")
    with atomic_directory(directory) as folder:
        # Shared tensors (options that tie modules) are written once under their first name.
        (folder / WEIGHTS).write_bytes(save(distinct_tensors(model)))
        shutil.copy(prepared_directory / VOCABULARY, folder / VOCABULARY)
        shutil.copytree(prepared_directory / INFERENCES, folder / INFERENCES)
        resources = [*data.resources, *_copy_word_knowledge(prepared_directory, folder, manifest, model)]
        write_json(
            folder / CONFIG,
            {
                "format": FORMAT,
                "ctsm_version": __version__,
                **config.to_json(),
                "data": {**asdict(data), "resources": resources},
                "progress": progress,
            },
        )


def _copy_word_knowledge(
    prepared_directory: Path, folder: Path, manifest: dict[str, Any], model: EmpatheticModel
) -> list[dict[str, Any]]:
    """Copy what the model needs to know of each word and return the resources it was made of."""
    resources: list[dict[str, Any]] = []
    for need in sorted(model.needs):
        facts, table = manifest[EXTRAS][need], table_file(need)
        if table in facts["files"]:
            (folder / EXTRAS).mkdir(exist_ok=True)
            shutil.copy(prepared_directory / EXTRAS / table, folder / EXTRAS / table)
        resources.extend(facts["resources"])
    return resources


def load_bundle(directory: Path, device: torch.device | str = "cpu") -> Bundle:
    """Load a model directory, or the best model of a run directory, to reply and to score.

    Raises:
        CtsmError: the device cannot be used, nothing to load there, another format version, or files that do not fit
            together.
    """
    require_device(device)
    directory = resolve_directory(directory)
    value = read_json(directory / CONFIG, "the configuration of a model directory")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CtsmError(f"{directory / CONFIG}: not a model directory of format {FORMAT}; train or download it again.")
    config = config_from_json(
        {key: value.get(key) for key in ("model", "variant", "options", "training")}, str(directory)
    )
    vocabulary = Vocabulary.load(directory / VOCABULARY)
    with _NoInitialValues():
        model = model_class(config.model)(config.options, len(vocabulary))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    map_weights(model, directory / WEIGHTS)
    model.to(device).eval()
    try:
        data, progress = DataFacts.of(value["data"]), dict(value["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise CtsmError(f"{directory / CONFIG}: lacks the facts on its training ({error}); train it again.") from None
    return Bundle(model, parameters, vocabulary, config, data, progress, directory)


def resolve_directory(directory: Path) -> Path:
    """Return the model directory of a run or of itself."""
    for candidate in (directory, directory / "best"):
        if (candidate / CONFIG).is_file():
            return candidate
    if (directory / "checkpoints").is_dir():
        raise CtsmError(f"{directory}: has no best model yet; let `ctsm train --resume` reach its first evaluation.")
    raise CtsmError(f"{directory}: not a model or run directory (no {CONFIG}); give what `ctsm train --out` wrote.")


def load_weights(model: EmpatheticModel, path: Path) -> None:
    """Fill a model from a safetensors file, checking names, shapes and that every number is finite.

    Raises:
        CtsmError: the file is missing, truncated, of another shape, or holds NaN or infinity.
    """
    expected = distinct_tensors(model)
    with _opened(path) as stored, torch.no_grad():
        _check_names(path, stored.keys(), expected)
        for name, tensor in expected.items():
            value = stored.get_tensor(name)
            _check_kind(path, name, value, tensor)
            _check_numbers(path, name, value)
            tensor.copy_(value)


def map_weights(model: EmpatheticModel, path: Path) -> None:
    """Give a new model its weights, and take away what only training needs.

    The weights are views of the file mapped into memory: a page of it is read when it is first used, and processes
    with the same model share it. What is written to them stays in this process.

    Raises:
        CtsmError: as `load_weights`; whether numbers are finite is checked of the parts that stay.
    """
    expected = _distinct(model)
    stored_as = {id(tensor): name for name, tensor in expected.items()}
    for name in model.training_only:
        if hasattr(model, name):  # an ablation may have removed it
            delattr(model, name)
    needed = model.state_dict(keep_vars=True)
    with _opened(path) as stored:
        _check_names(path, stored.keys(), expected)
        kept = {stored_as[id(tensor)] for tensor in needed.values()}
        for name, tensor in expected.items():
            value = stored.get_tensor(name)
            _check_kind(path, name, value, tensor)
            if name in kept:
                _check_numbers(path, name, value)
    # Opened anew: the pages that were read for the check go with the first mapping.
    with _opened(path) as stored:
        values = {name: stored.get_tensor(name) for name in kept}
    # Tensors that were one stay one.
    parameters = {name: nn.Parameter(value) for name, value in values.items() if value.is_floating_point()}
    model.load_state_dict(
        {
            name: (parameters if isinstance(tensor, nn.Parameter) else values)[stored_as[id(tensor)]]
            for name, tensor in needed.items()
        },
        assign=True,
    )


class _NoInitialValues(TorchFunctionMode):
    """Leaves memory as it is where a new model would draw its initial values: no time, no page of memory, no numbers
    of the global generator are used for what is replaced at once."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if function in (Tensor.uniform_, Tensor.normal_) or getattr(function, "__module__", "") == nn.init.__name__:
            return options["tensor"] if "tensor" in options else arguments[0]
        return function(*arguments, **options)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of weights; its tensors are views of the mapped file.

    Raises:
        CtsmError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except FileNotFoundError:
        raise CtsmError(f"{path}: no such file (the model's weights); copy the model directory again.") from None
    except (OSError, SafetensorError) as error:
        raise CtsmError(f"{path}: cannot read the weights ({error}); copy the model directory again.") from error


def _check_names(path: Path, names: list[str], expected: dict[str, Tensor]) -> None:
    odd = sorted(set(names) ^ set(expected))
    if odd:
        raise CtsmError(f"{path}: its tensors do not fit the configuration (first: {odd[0]}); copy the model again.")


def _check_kind(path: Path, name: str, value: Tensor, expected: Tensor) -> None:
    if value.shape != expected.shape:
        raise CtsmError(f"{path}: {name} has shape {tuple(value.shape)}, not {tuple(expected.shape)}; copy it again.")
    if value.dtype != expected.dtype:
        raise CtsmError(f"{path}: {name} is {value.dtype}, not {expected.dtype}; copy it again.")


def _check_numbers(path: Path, name: str, value: Tensor) -> None:
    if not is_finite(value):
        raise CtsmError(f"{path}: {name} holds numbers that are not finite; use an earlier checkpoint.")


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # `isfinite` would need memory for several times the tensor. The extremes of what has a NaN are NaN.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def distinct_tensors(model: EmpatheticModel) -> dict[str, Tensor]:
    """Return the state by name, detached, a tensor with several names only under its first one."""
    return {name: tensor.detach() for name, tensor in _distinct(model).items()}


def _distinct(model: EmpatheticModel) -> dict[str, Tensor]:
    """Return parameters and buffers by their first names."""
    distinct: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        distinct.setdefault(id(tensor), (name, tensor))
    return dict(distinct.values())
