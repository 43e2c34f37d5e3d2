"""`ctsm bench decode`: replies a second against the plain path, by batch size, and with beam search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctsm.bench.inputs import (
    UNTRAINED,
    Say,
    data_or_sample,
    describe_data,
    evenly_spaced,
    require_at_least_one,
    require_device,
    require_examples,
    require_plain_path,
    sample_note,
)
from ctsm.bench.machine import describe_machine, synchronise
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.bench.reference.greedy import plain_greedy
from ctsm.bench.reference.transformer import PlainTransformer
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.timing import alternate
from ctsm.config import read_config
from ctsm.corpus.batches import Examples, IntArray, sorted_batches
from ctsm.corpus.prepared import PreparedData
from ctsm.decoding.decode import decode
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.models.base import EmpatheticModel, xavier_initialise
from ctsm.models.bundle import load_bundle
from ctsm.training.loop import build_model

TRANSFORMER_MILLISECONDS = 180.0
"""What the plain Transformer may need for a reply on two idle cores: the published code needs 143 to 245 ms."""

BATCH = 64
OTHER_BATCHES = (1, 16, 256)
BEAM_BATCH = 16
FAST, PLAIN, TRANSFORMER = f"fast CTSM, greedy, batch {BATCH}", "plain CTSM, greedy", "plain Transformer, greedy"


@dataclass(frozen=True)
class DecodeSettings:
    """What to measure.

    Attributes:
        run: a run or model directory; None takes an untrained model.
        data: a prepared directory; None prepares the built-in sample.
        config: a YAML configuration of the untrained model; None takes the defaults.
        split: whose contexts to answer.
        contexts: how many the fast path answers; they stand for the split by their lengths.
        replies: how many of these the plain path answers, over all rounds.
        rounds: rounds that count.
        device: cpu or cuda.
    """

    run: Path | None = None
    data: Path | None = None
    config: Path | None = None
    split: str = "test"
    contexts: int = 1_000
    replies: int = 200
    rounds: int = 5
    device: str = "cpu"


def bench_decode(settings: DecodeSettings, say: Say) -> Report:
    """Measure and return the report.

    Raises:
        CtsmError: model or data cannot be used or do not fit together, or the plain path does not know the model.
    """
    require_at_least_one(contexts=settings.contexts, replies=settings.replies, rounds=settings.rounds)
    require_device(settings.device)
    if settings.run is not None and settings.config is not None:
        raise CtsmError(f"{settings.run}: has its own configuration; leave out --config.")
    if settings.run is not None and settings.data is None:
        raise CtsmError(f"{settings.run}: its contexts are needed too; add --data with what it was trained on.")
    machine = describe_machine(settings.device)
    with _model_and_data(settings, say) as (model, data):
        return _Bench(settings, model, data, require_examples(data, settings.split), machine).run(say)


@contextmanager
def _model_and_data(settings: DecodeSettings, say: Say) -> Iterator[tuple[EmpatheticModel, PreparedData]]:
    if settings.run is not None and settings.data is not None:
        bundle, data = load_bundle(settings.run, settings.device), PreparedData(settings.data)
        require_plain_path(bundle.config, str(settings.run))
        if data.vocabulary.fingerprint() != bundle.vocabulary.fingerprint():
            raise CtsmError(
                f"{settings.data}: has another vocabulary than {settings.run}; use the data it was trained on."
            )
        yield bundle.model, data
        return
    config = read_config(settings.config, [])
    require_plain_path(config, str(settings.config))
    with data_or_sample(settings.data, config.options.size, say) as data:
        yield build_model(config, data).to(settings.device).eval(), data


@dataclass
class _Bench:
    settings: DecodeSettings
    model: EmpatheticModel
    data: PreparedData
    examples: Examples
    machine: dict[str, Any]
    fast_replies: dict[int, list[int]] = field(default_factory=dict)
    plain_replies: dict[int, list[int]] = field(default_factory=dict)

    def run(self, say: Say) -> Report:
        """Fast and plain greedy decoding in alternation, then batch sizes and beam search once each."""
        settings, device = self.settings, self.settings.device
        lengths = self.examples.context.lengths
        contexts = evenly_spaced(lengths, settings.contexts)
        sample = contexts[evenly_spaced(lengths[contexts], settings.replies)]
        rounds = min(settings.rounds, len(sample))
        plain = PlainCTSM(self.model.options, self.model.vocabulary_size).to(device).eval()
        plain.load_from(self.model)
        transformer = PlainTransformer(self.model.options, self.model.vocabulary_size).to(device).eval()
        xavier_initialise(transformer)
        parts = {number: sample[number::rounds] for number in range(rounds)} | {-1: sample[:2]}
        contenders: dict[str, Callable[[int], None]] = {
            FAST: lambda _number: self._greedy(contexts, BATCH),
            PLAIN: lambda number: self._plain_greedy(plain, parts[number]),
            TRANSFORMER: lambda number: self._transformer_greedy(transformer, parts[number][::4]),
        }
        seconds = alternate(contenders, rounds, say, device)
        counts = {
            FAST: [len(contexts)] * rounds,
            PLAIN: [len(parts[number]) for number in range(rounds)],
            TRANSFORMER: [len(parts[number][::4]) for number in range(rounds)],
        }
        speeds = {
            name: Series(name, "replies/s", tuple(n / s for n, s in zip(counts[name], values, strict=True)))
            for name, values in seconds.items()
        }
        others = self._others(contexts, sample, say)
        return Report(
            verb="decode",
            machine=self.machine,
            settings=_json_settings(settings),
            data=describe_data(self.data, settings.split, settings.data is not None),
            series=[*speeds.values(), *others],
            figures=self._figures(speeds, others[-1], sample),
            notes=[
                *([] if settings.run is not None else [UNTRAINED]),
                *([] if settings.data is not None else [sample_note(self.data)]),
            ],
        )

    def _figures(self, speeds: dict[str, Series], beam: Series, sample: IntArray) -> list[Figure]:
        same = [self.fast_replies[row] == self.plain_replies[row] for row in sample.tolist()]
        whole = len(self.examples)
        return [
            Figure("fast / plain, greedy, fp32", "x", speeds[FAST].median / speeds[PLAIN].median),
            Figure("replies that are identical on both paths", "%", 100 * float(np.mean(same))),
            Figure(
                "calibration: plain Transformer, one reply",
                "ms",
                1e3 / speeds[TRANSFORMER].median,
                at_most=TRANSFORMER_MILLISECONDS,
            ),
            Figure(f"greedy, all {whole:,} contexts of the split (from the sample)", "s", whole / speeds[FAST].median),
            Figure(f"beam 5, all {whole:,} contexts of the split (from the sample)", "s", whole / beam.median),
            Figure("words of a greedy reply, mean", "words", float(np.mean([*map(len, self.fast_replies.values())]))),
        ]

    def _others(self, contexts: IntArray, sample: IntArray, say: Say) -> list[Series]:
        """Replies a second with other batch sizes and, last, with beam search."""
        found = []
        for size in OTHER_BATCHES:
            say(f"greedy decoding with batch {size}")
            rows = sample if size < BEAM_BATCH else contexts
            found.append(self._once(f"fast CTSM, greedy, batch {size}", rows, size, DecodingOptions()))
        say("beam search")
        beam = DecodingOptions(method="beam", beam_size=5)
        return [*found, self._once(f"fast CTSM, beam 5, batch {BEAM_BATCH}", sample, BEAM_BATCH, beam)]

    def _once(self, name: str, rows: IntArray, batch_size: int, options: DecodingOptions) -> Series:
        self._decode(rows[:batch_size], batch_size, options)
        synchronise(self.settings.device)
        started = time.perf_counter()
        self._decode(rows, batch_size, options)
        synchronise(self.settings.device)
        return Series(name, "replies/s", (len(rows) / (time.perf_counter() - started),))

    def _greedy(self, rows: IntArray, batch_size: int) -> None:
        self.fast_replies = self._decode(rows, batch_size, DecodingOptions())

    def _decode(self, rows: IntArray, batch_size: int, options: DecodingOptions) -> dict[int, list[int]]:
        """Answer contexts in batches of similar length, as `ctsm evaluate` does."""
        replies: dict[int, list[int]] = {}
        for places in sorted_batches(self.examples.context.lengths[rows], batch_size):
            batch = self.examples.batch(rows[places]).to(self.settings.device)
            with torch.inference_mode():
                context = self.model.encode(batch)
            found = decode(self.model, context, options)
            replies |= {int(row): best[0].words for row, best in zip(rows[places], found, strict=True)}
        return replies

    def _plain_greedy(self, model: PlainCTSM, rows: IntArray) -> None:
        for row in rows:
            self.plain_replies[int(row)] = plain_greedy(model, self._single(row))

    def _transformer_greedy(self, model: PlainTransformer, rows: IntArray) -> None:
        for row in rows:
            plain_greedy(model, self._single(row))

    def _single(self, row: Any) -> Any:
        return self.examples.batch(np.array([row])).to(self.settings.device)


def _json_settings(settings: DecodeSettings) -> dict[str, Any]:
    """Return the settings as JSON values; paths say nothing to others."""
    values = asdict(settings)
    return {name: value for name, value in values.items() if name not in ("run", "data", "config")}
