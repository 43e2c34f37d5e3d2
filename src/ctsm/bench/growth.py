"""`ctsm bench growth`: how training steps and greedy decoding grow with the vocabulary, the context and the batch.

One size varies while the others stay at `BASE`. The examples are made up: all have the same length, so nothing is
padding and a batch holds what its numbers say. Replies cannot end early, so decoding always says the same number of
words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ctsm.bench.fast import FastTrainer
from ctsm.bench.inputs import Say, require_at_least_one
from ctsm.bench.machine import describe_machine
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.timing import alternate
from ctsm.config import RunConfig, read_config
from ctsm.corpus.batches import Batch, Examples, Ragged
from ctsm.corpus.emotions import EMOTIONS
from ctsm.decoding.greedy import greedy
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.models import model_class
from ctsm.models.base import EmpatheticModel, WordTables
from ctsm.models.ctsm import CTSMOptions
from ctsm.text.vocabulary import CLS, EOS, SPECIALS, SYS, USR

TRAINING, DECODING = "training step", "greedy decoding"
TARGET, COGNITIVE, REACTION = 15, 14, 6
"""Words of a reply (EOS included), of a relation's inferences (CLS included) and of xReact's: about the means of
EmpatheticDialogues."""
SMALLEST_VOCABULARY = len(SPECIALS) + len(EMOTIONS) + 1


class Sizes(NamedTuple):
    """Words of the vocabulary, words of each context (CLS included) and examples of a batch."""

    vocabulary: int
    context: int
    batch: int


BASE = Sizes(vocabulary=24_000, context=32, batch=16)
"""Near EmpatheticDialogues' vocabulary and mean context, and the batch of the paper's family."""


@dataclass(frozen=True)
class GrowthSettings:
    """What to measure.

    Attributes:
        vocabulary: sizes of the vocabulary.
        context: lengths of the context.
        batch: sizes of the batch.
        config: a YAML configuration; None takes the defaults.
        rounds: rounds that count; each takes one step and decodes one batch at every size.
        device: cpu or cuda.
    """

    vocabulary: tuple[int, ...]
    context: tuple[int, ...]
    batch: tuple[int, ...]
    config: Path | None = None
    rounds: int = 5
    device: str = "cpu"

    def points(self) -> list[Sizes]:
        """Return every combination to measure, each once: those along the three axes through BASE."""
        varied = [_varied(axis, size) for axis in Sizes._fields for size in getattr(self, axis)]
        return list(dict.fromkeys(varied))


def bench_growth(settings: GrowthSettings, say: Say) -> Report:
    """Measure and return the report; every series says in `at` which sizes it was measured at.

    Raises:
        CtsmError: a size is impossible, or the configuration is of another model than CTSM.
    """
    require_at_least_one(rounds=settings.rounds)
    for axis, least in zip(Sizes._fields, (SMALLEST_VOCABULARY, 2, 1), strict=True):
        if min(getattr(settings, axis)) < least:
            raise CtsmError(f"--{axis} is {min(getattr(settings, axis))}; it must be at least {least}.")
    require_device(settings.device)
    config = read_config(settings.config, [])
    if not isinstance(config.options, CTSMOptions):
        raise CtsmError(f"{settings.config}: growth is measured for the model ctsm only, not {config.model}.")
    machine = describe_machine(settings.device)
    series = _measure(settings, config, say)
    return Report(
        verb="growth",
        machine=machine,
        settings={
            **{axis: list(getattr(settings, axis)) for axis in Sizes._fields},
            **{"base": BASE._asdict(), "rounds": settings.rounds, "device": settings.device},
            "config": config.to_json(),
        },
        data={"source": "made up", "target": TARGET, "cognitive": COGNITIVE, "reaction": REACTION},
        series=series,
        figures=_last_steps(settings, series),
        notes=[
            f"Examples are made up and all of one length: {COGNITIVE} words for each relation, {REACTION} reactions, "
            f"replies of {TARGET} words. What does not vary is {_described(BASE)}.",
        ],
    )


def made_up_batch(sizes: Sizes, seed: int = 0) -> Batch:
    """Return examples whose sequences all have their full length, of words drawn evenly from the vocabulary."""
    random = np.random.default_rng(seed)

    def rows(count: int, length: int, first: list[int], last: list[int]) -> Ragged:
        words = random.integers(len(SPECIALS), sizes.vocabulary, (count, length - len(first) - len(last)))
        return Ragged.from_rows([[*first, *row, *last] for row in words.tolist()])

    speakers = [CLS] + [USR if place < sizes.context // 2 else SYS for place in range(sizes.context - 1)]
    examples = Examples(
        conversation=np.arange(sizes.batch),
        emotion=random.integers(0, len(EMOTIONS), sizes.batch),
        context=rows(sizes.batch, sizes.context, [CLS], []),
        speakers=Ragged.from_rows([speakers] * sizes.batch),
        target=rows(sizes.batch, TARGET, [], [EOS]),
        cognitive=rows(4 * sizes.batch, COGNITIVE, [CLS], []),
        reaction=rows(sizes.batch, REACTION, [], []),
    )
    return examples.batch(np.arange(sizes.batch))


def made_up_model(config: RunConfig, vocabulary: int) -> EmpatheticModel:
    """Return a new model with random word tables."""
    torch.manual_seed(config.training.seed)
    model = model_class(config.model)(config.options, vocabulary)
    model.install(
        WordTables(
            vectors=torch.randn(vocabulary, config.options.size),
            vad=torch.rand(vocabulary, 3),
            in_lexicon=torch.rand(vocabulary) < 0.5,
            idf=torch.rand(vocabulary),
            intensity=torch.rand(vocabulary),
            labels=torch.arange(len(EMOTIONS)) + len(SPECIALS),
        )
    )
    return model


@contextmanager
def endless(model: EmpatheticModel) -> Iterator[None]:
    """Make EOS impossible, and put the model into evaluation mode, for the block."""
    vocabulary = model.get_submodule("generator.vocabulary")
    assert isinstance(vocabulary, torch.nn.Linear)
    bias = vocabulary.bias
    before = bias[EOS].item()
    with torch.no_grad():
        bias[EOS] = float("-inf")
    model.eval()
    try:
        yield
    finally:
        model.train()
        with torch.no_grad():
            bias[EOS] = before


def _measure(settings: GrowthSettings, config: RunConfig, say: Say) -> list[Series]:
    """Run both kinds at every point, all in alternation."""
    points = settings.points()
    say("building a model for each vocabulary")
    trainers = {
        words: FastTrainer(made_up_model(config, words).to(settings.device).train(), config)
        for words in {point.vocabulary for point in points}
    }
    contenders: dict[str, Callable[[int], None]] = {}
    kinds: dict[str, tuple[str, Sizes]] = {}
    for point in points:
        batch = made_up_batch(point).to(settings.device)
        trainer = trainers[point.vocabulary]
        for kind, run in ((TRAINING, _training_step(trainer, batch, config)), (DECODING, _decoding(trainer, batch))):
            name = f"{kind}, {_described(point)}"
            contenders[name], kinds[name] = run, (kind, point)
    seconds = alternate(contenders, settings.rounds, say, settings.device)
    return [
        Series(kind, "ms", tuple(1e3 * value for value in seconds[name]), point._asdict())
        for name, (kind, point) in kinds.items()
    ]


def _training_step(trainer: FastTrainer, batch: Batch, config: RunConfig) -> Callable[[int], None]:
    def run(_number: int) -> None:
        trainer.step(batch, config.training.precision)

    return run


def _decoding(trainer: FastTrainer, batch: Batch) -> Callable[[int], None]:
    def run(_number: int) -> None:
        with endless(trainer.model), torch.inference_mode():
            greedy(trainer.model, trainer.model.encode(batch), TARGET)

    return run


def _last_steps(settings: GrowthSettings, series: list[Series]) -> list[Figure]:
    """Return by how much the time grows between the two largest sizes of each axis."""
    medians = {(one.name, Sizes(**one.at)): one.median for one in series}
    figures = []
    for kind in (TRAINING, DECODING):
        for axis in Sizes._fields:
            for before, after in pairwise(sorted(set(getattr(settings, axis)))[-2:]):
                factor = medians[kind, _varied(axis, after)] / medians[kind, _varied(axis, before)]
                figures.append(Figure(f"{kind}, {axis} {before:,} to {after:,}", "x", factor))
    return figures


def _varied(axis: str, size: int) -> Sizes:
    return BASE._replace(**{axis: size})


def _described(sizes: Sizes) -> str:
    return ", ".join(f"{axis} {size:,}" for axis, size in sizes._asdict().items())
