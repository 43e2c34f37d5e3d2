"""What a benchmark works on: prepared data or the built-in sample, a trained model or a new one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctsm.bench.reference.blocks import LONGEST
from ctsm.config import RunConfig, TrainingOptions, read_config
from ctsm.corpus.batches import Examples, IntArray, shuffled_batches
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.models.base import EmpatheticModel
from ctsm.models.bundle import DataFacts, load_bundle, save_bundle
from ctsm.models.ctsm import CTSMOptions
from ctsm.training.loop import build_model

SWITCHES = ("fusion_sharing", "emotion_pool", "decoder_memory", "contrastive_negatives")
"""Options that change what is computed; the plain path has their defaults only."""

UNTRAINED = "The model is untrained, so its replies have other lengths than a trained model's; give RUN for real ones."

Say = Callable[[str], None]


@contextmanager
def data_or_sample(directory: Path | None, vector_size: int, say: Say, extras: bool = False) -> Iterator[PreparedData]:
    """Open a prepared directory, or prepare the built-in sample in a folder that is removed afterwards.

    Args:
        directory: None for the sample.
        vector_size: of the sample's word vectors.
        say: called with progress messages.
        extras: whether the sample is to hold what systems other than CTSM need.
    """
    if directory is not None:
        yield PreparedData(directory)
        return
    with tempfile.TemporaryDirectory(prefix="ctsm-bench-") as folder:
        say("preparing the built-in sample")
        options = PrepareOptions("sample", vad="sample", inferences="atomic:sample", vector_size=vector_size)
        if extras:
            options = replace(options, emotion_words="sample", concepts="sample", feedback=True, cognition=True)
        prepare(options, Path(folder) / "data")
        yield PreparedData(Path(folder) / "data")


@contextmanager
def model_or_untrained(directory: Path | None, config: RunConfig, say: Say) -> Iterator[Path]:
    """Yield a model directory: the given one, or that of an untrained model on the built-in sample."""
    if directory is not None:
        yield directory
        return
    with data_or_sample(None, config.options.size, say) as data, tempfile.TemporaryDirectory() as folder:
        facts = {"iteration": 0, "train_seconds": 0.0}
        model = build_model(config, data)
        save_bundle(Path(folder) / "model", model, config, data.directory, DataFacts.of(data.manifest), facts)
        yield Path(folder) / "model"


@contextmanager
def model_and_data(
    run: Path | None, directory: Path | None, config_file: Path | None, device: str, say: Say
) -> Iterator[tuple[EmpatheticModel, RunConfig, PreparedData]]:
    """Yield a model that can reply, its configuration and the data: those given, or an untrained model and the sample.

    Raises:
        CtsmError: they cannot be used or do not fit together, or the plain path does not know the model.
    """
    if run is not None and config_file is not None:
        raise CtsmError(f"{run}: has its own configuration; leave out --config.")
    if run is not None and directory is None:
        raise CtsmError(f"{run}: its contexts are needed too; add --data with what it was trained on.")
    if run is not None and directory is not None:
        bundle, data = load_bundle(run, device), PreparedData(directory)
        require_plain_path(bundle.config, str(run))
        if data.vocabulary.fingerprint() != bundle.vocabulary.fingerprint():
            raise CtsmError(f"{directory}: has another vocabulary than {run}; use the data it was trained on.")
        yield bundle.model, bundle.config, data
        return
    config = read_config(config_file, [])
    require_plain_path(config, str(config_file))
    with data_or_sample(directory, config.options.size, say) as data:
        yield build_model(config, data).to(device).eval(), config, data


def require_plain_path(config: RunConfig, where: str) -> None:
    """Refuse configurations that the plain path does not know.

    Raises:
        CtsmError: another model, or a switch that is not at its default.
    """
    if not isinstance(config.options, CTSMOptions):
        raise CtsmError(f"{where}: the plain path to compare with exists for the model ctsm only, not {config.model}.")
    defaults = {field.name: field.default for field in fields(CTSMOptions)}
    for name in SWITCHES:
        value = getattr(config.options, name)
        if value != defaults[name]:
            raise CtsmError(
                f"{where}: options.{name} is {value}, and the plain path to compare with has {defaults[name]} only; "
                "choose a model with the default."
            )


def require_examples(data: PreparedData, split: str) -> Examples:
    """Return a split that has examples the plain path can read.

    Raises:
        CtsmError: it is empty or holds a sequence that is too long.
    """
    examples = data.examples(split)
    if not len(examples):
        raise CtsmError(f"{data.directory}: its {split} split is empty; choose another split.")
    longest = max(int(getattr(examples, name).lengths.max()) for name in ("context", "target", "cognitive", "reaction"))
    if longest > LONGEST:
        raise CtsmError(
            f"{data.directory}: a sequence of its {split} split has {longest:,} words, and the plain path to compare "
            f"with reads {LONGEST:,} at most; prepare shorter dialogues."
        )
    return examples


def describe_data(data: PreparedData, split: str, given: bool) -> dict[str, Any]:
    """Return the facts of the report's "data"."""
    return {
        "source": "prepared" if given else "sample",
        "fingerprint": data.fingerprint,
        "split": split,
        "examples": len(data.examples(split)),
        "vocabulary": len(data.vocabulary),
    }


def sample_note(data: PreparedData) -> str:
    """Say how much the sample's figures mean."""
    return (
        f"The built-in sample has {len(data.vocabulary):,} words and short turns; ratios and calibration are meant for "
        "EmpatheticDialogues with about 24,000 words: give --data."
    )


def evenly_spaced(values: Sequence[int] | IntArray, count: int) -> IntArray:
    """Return the places of `count` values that stand for all of them: at evenly spaced ranks, in ascending order."""
    order = np.argsort(np.asarray(values), kind="stable")
    count = min(count, len(order))
    chosen: IntArray = order[((np.arange(count) + 0.5) * len(order) / max(count, 1)).astype(np.int64)]
    return chosen


def bucketed_batches(examples: Examples, training: TrainingOptions, count: int) -> list[IntArray]:
    """Return batches of one epoch as training makes them, standing for all: see `chosen_batches`."""
    lengths = examples.context.lengths
    batches = shuffled_batches(lengths, training.batch_size, training.seed, 0, training.pool)
    return chosen_batches(examples, batches, count, training.seed)


def chosen_batches(examples: Examples, batches: Sequence[IntArray], count: int, seed: int) -> list[IntArray]:
    """Return `count` whole batches at evenly spaced ranks of their padded length.

    They come in a random order: neighbours in length would be too alike.
    """
    size = max(len(rows) for rows in batches)
    whole = [rows for rows in batches if len(rows) == size]  # the end of the data cuts one short
    places = evenly_spaced([int(examples.context.lengths[rows].max()) for rows in whole], count)
    return [whole[place] for place in np.random.default_rng(seed).permutation(places)]


def require_at_least_one(**numbers: int) -> None:
    """Refuse numbers below 1, named as the flags are.

    Raises:
        CtsmError: one is.
    """
    for name, value in numbers.items():
        if value < 1:
            raise CtsmError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
