"""The model directory: complete for inference, portable, loadable without running anything it contains.

config.json         model name and options, sizes, training facts, the data it was trained on, terms of every resource
model.safetensors   parameters and per-word tables
vocabulary.txt      JSON list, one word a line
inferences/         what the inference source needs for a new utterance
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ctsm.config import RunConfig, config_from_json
from ctsm.corpus.prepared import INFERENCES, MANIFEST, VOCABULARY
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
        model: in evaluation mode.
        vocabulary: its words.
        config: how it was trained.
        data: on what.
        progress: iteration of the checkpoint, iterations of the run, seconds, dev scores.
        directory: where it was loaded from.
    """

    model: EmpatheticModel
    vocabulary: Vocabulary
    config: RunConfig
    data: DataFacts
    progress: dict[str, Any]
    directory: Path

    def source(self) -> InferenceSource:
        """Open the inference source that comes with the model."""
        return load_source(self.directory / INFERENCES)


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
        write_json(
            folder / CONFIG,
            {
                "format": FORMAT,
                "ctsm_version": __version__,
                **config.to_json(),
                "data": asdict(data),
                "progress": progress,
            },
        )


def load_bundle(directory: Path, device: torch.device | str = "cpu") -> Bundle:
    """Load a model directory, or the best model of a run directory.

    Raises:
        CtsmError: nothing to load there, another format version, or files that do not fit together.
    """
    directory = resolve_directory(directory)
    value = read_json(directory / CONFIG, "the configuration of a model directory")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CtsmError(f"{directory / CONFIG}: not a model directory of format {FORMAT}; train or download it again.")
    config = config_from_json(
        {key: value.get(key) for key in ("model", "variant", "options", "training")}, str(directory)
    )
    vocabulary = Vocabulary.load(directory / VOCABULARY)
    model = model_class(config.model)(config.options, len(vocabulary))
    load_weights(model, directory / WEIGHTS)
    model.to(device).eval()
    try:
        data, progress = DataFacts.of(value["data"]), dict(value["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise CtsmError(f"{directory / CONFIG}: lacks the facts on its training ({error}); train it again.") from None
    return Bundle(model, vocabulary, config, data, progress, directory)


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
    try:
        with safe_open(path, framework="pt") as stored:
            names = set(stored.keys())
            if names != set(expected):
                odd = sorted(names ^ set(expected))[0]
                raise CtsmError(
                    f"{path}: its tensors do not fit the configuration (first: {odd}); copy the model again."
                )
            with torch.no_grad():
                for name, tensor in expected.items():
                    value = stored.get_tensor(name)
                    if value.shape != tensor.shape:
                        raise CtsmError(
                            f"{path}: {name} has shape {tuple(value.shape)}, not {tuple(tensor.shape)}; copy it again."
                        )
                    if value.dtype != tensor.dtype:
                        raise CtsmError(f"{path}: {name} is {value.dtype}, not {tensor.dtype}; copy it again.")
                    if not is_finite(value):
                        raise CtsmError(f"{path}: {name} holds numbers that are not finite; use an earlier checkpoint.")
                    tensor.copy_(value)
    except FileNotFoundError:
        raise CtsmError(f"{path}: no such file (the model's weights); copy the model directory again.") from None
    except (OSError, SafetensorError) as error:
        raise CtsmError(f"{path}: cannot read the weights ({error}); copy the model directory again.") from error


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def distinct_tensors(model: EmpatheticModel) -> dict[str, torch.Tensor]:
    """Return the state by name, tensors that share memory only once."""
    seen: set[int] = set()
    distinct: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            distinct[name] = tensor
    return distinct
