"""`ctsm bench decode`: replies a second against the plain path, by batch size, and with beam search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ctsm.bench.inputs import (
    UNTRAINED,
    Say,
    describe_data,
    evenly_spaced,
    model_and_data,
    require_at_least_one,
    require_examples,
    sample_note,
)
from ctsm.bench.machine import describe_machine, multiply_add_rate, synchronise
from ctsm.bench.reference.base import PlainModel
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.bench.reference.greedy import plain_greedy
from ctsm.bench.reference.transformer import PlainTransformer
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.sides import Side, Tasks
from ctsm.bench.timing import alternate
from ctsm.corpus.batches import Examples, IntArray, sorted_batches
from ctsm.corpus.prepared import PreparedData
from ctsm.decoding.decode import encode_and_decode
from ctsm.decoding.options import DecodingOptions, Precision
from ctsm.device import require_device
from ctsm.evaluation.metrics import accuracy, distinct, reply_statistics
from ctsm.models.base import EmpatheticModel, xavier_initialise

TRANSFORMER_MILLISECONDS = 180.0
"""What the plain Transformer may need for a reply on two idle cores: the published code needs 143 to 245 ms."""

BATCH = 64
OTHER_BATCHES = (1, 16, 256)
BEAM_BATCH = 16
PLAIN, TRANSFORMER = "plain CTSM, greedy", "plain Transformer, greedy"
FAST: dict[Precision, str] = {
    "fp32": f"fast CTSM, greedy, batch {BATCH}",
    "bf16": f"fast CTSM, greedy, batch {BATCH}, bf16",
}


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
        precisions: of the fast path, beside fp32; empty for bf16 where its products are faster here.
        device: cpu or cuda.
    """

    run: Path | None = None
    data: Path | None = None
    config: Path | None = None
    split: str = "test"
    contexts: int = 1_000
    replies: int = 200
    rounds: int = 5
    precisions: tuple[Precision, ...] = ()
    device: str = "cpu"


def bench_decode(settings: DecodeSettings, say: Say) -> Report:
    """Measure and return the report.

    Raises:
        CtsmError: model or data cannot be used or do not fit together, or the plain path does not know the model.
    """
    require_at_least_one(contexts=settings.contexts, replies=settings.replies, rounds=settings.rounds)
    require_device(settings.device)
    machine = describe_machine(settings.device)
    given = (settings.run, settings.data, settings.config)
    with model_and_data(*given, settings.device, say) as (model, _, data):
        examples = require_examples(data, settings.split)
        places = {"run": settings.run, "directory": data.directory, "config_file": settings.config}
        job = {name: None if place is None else str(place) for name, place in places.items()}
        with Side(_plain_side, split=settings.split, device=settings.device, **job) as plain:
            return _Bench(settings, model, data, examples, plain, machine).run(say)


def _plain_side(split: str, device: str, run: str | None, directory: str, config_file: str | None) -> Tasks:
    """What published code does, with the parameters of the fast path."""
    run_place, config_place = (None if place is None else Path(place) for place in (run, config_file))
    with model_and_data(run_place, Path(directory), config_place, device, lambda _message: None) as (model, _, data):
        examples = data.examples(split)
        plain = PlainCTSM(model.options, model.vocabulary_size).to(device).eval()
        plain.load_from(model)
        transformer = PlainTransformer(model.options, model.vocabulary_size).to(device).eval()
        xavier_initialise(transformer)

    def answer(plain_model: PlainModel, rows: list[int]) -> list[list[int]]:
        return [plain_greedy(plain_model, examples.batch(np.array([row])).to(device)) for row in rows]

    return {PLAIN: partial(answer, plain), TRANSFORMER: partial(answer, transformer)}


class Answer(NamedTuple):
    """What the fast path says to a context, and the emotion it takes it for."""

    words: list[int]
    emotion: int


@dataclass
class _Bench:
    settings: DecodeSettings
    model: EmpatheticModel
    data: PreparedData
    examples: Examples
    plain: Side
    machine: dict[str, Any]
    answers: dict[Precision, dict[int, Answer]] = field(default_factory=dict)
    plain_replies: dict[int, list[int]] = field(default_factory=dict)

    def run(self, say: Say) -> Report:
        """Fast and plain greedy decoding in alternation, then batch sizes and beam search once each."""
        settings, device = self.settings, self.settings.device
        lengths = self.examples.context.lengths
        contexts = evenly_spaced(lengths, settings.contexts)
        sample = contexts[evenly_spaced(lengths[contexts], settings.replies)]
        rounds = min(settings.rounds, len(sample))
        parts = {number: sample[number::rounds] for number in range(rounds)} | {-1: sample[:2]}
        contenders: dict[str, Callable[[int], None]] = {
            **{FAST[one]: self._greedy_run(contexts, one) for one in self._precisions()},
            PLAIN: lambda number: self._plain_greedy(parts[number].tolist()),
            TRANSFORMER: lambda number: self.plain.run(TRANSFORMER, parts[number][::4].tolist()),
        }
        seconds = alternate(contenders, rounds, say, device)
        counts = {
            **{name: [len(contexts)] * rounds for name in contenders},
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

    def _precisions(self) -> list[Precision]:
        """Return fp32, and bf16 if it was asked for or is worth it here."""
        wanted = "bf16" in self.settings.precisions
        if not self.settings.precisions:
            words = BATCH * int(self.examples.context.lengths.mean())
            shape = (words, self.model.options.size, self.model.options.size, self.settings.device)
            wanted = multiply_add_rate(torch.bfloat16, *shape) > multiply_add_rate(torch.float32, *shape)
        return ["fp32", "bf16"] if wanted else ["fp32"]

    def _figures(self, speeds: dict[str, Series], beam: Series, sample: IntArray) -> list[Figure]:
        answers, whole = self.answers["fp32"], len(self.examples)
        same = [answers[row].words == self.plain_replies[row] for row in sample.tolist()]
        return [
            *(
                Figure(f"fast / plain, greedy, {one}", "x", speeds[FAST[one]].median / speeds[PLAIN].median)
                for one in self.answers
            ),
            Figure("replies that are identical on both paths", "%", 100 * float(np.mean(same))),
            *self._differences(),
            Figure(
                "calibration: plain Transformer, one reply",
                "ms",
                1e3 / speeds[TRANSFORMER].median,
                at_most=TRANSFORMER_MILLISECONDS,
            ),
            *(
                Figure(f"{name}, all {whole:,} contexts of the split (from the sample)", "s", whole / series.median)
                for name, series in (("greedy", speeds[FAST["fp32"]]), ("beam 5", beam))
            ),
            Figure("words of a greedy reply, mean", "words", self._scores("fp32")["words of a reply"]),
        ]

    def _differences(self) -> list[Figure]:
        """How many replies bf16 changes, and by how much that changes the scores."""
        if "bf16" not in self.answers:
            return []
        fp32, bf16 = self.answers["fp32"], self.answers["bf16"]
        same = [fp32[row].words == bf16[row].words for row in fp32]
        before, after = self._scores("fp32"), self._scores("bf16")
        return [
            Figure("replies that are identical in fp32 and bf16", "%", 100 * float(np.mean(same))),
            *(Figure(f"{name}: bf16 less fp32", "", after[name] - before[name]) for name in before),
        ]

    def _scores(self, precision: Precision) -> dict[str, float]:
        """Score the answers in one precision, as `ctsm evaluate` does."""
        answers = self.answers[precision]
        texts = self.data.texts(self.settings.split)
        replies = [self.data.vocabulary.words_of(answer.words, list(texts[row].oov)) for row, answer in answers.items()]
        emotions = np.array([answer.emotion for answer in answers.values()])
        return {
            "Acc": accuracy(emotions, self.examples.emotion[list(answers)]),
            "Dist-1": distinct(replies, 1).ratio_percent,
            "Dist-2": distinct(replies, 2).ratio_percent,
            "words of a reply": reply_statistics(replies).mean_length,
        }

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

    def _greedy_run(self, rows: IntArray, precision: Precision) -> Callable[[int], None]:
        def run(_number: int) -> None:
            self.answers[precision] = self._decode(rows, BATCH, DecodingOptions(precision=precision))

        return run

    def _plain_greedy(self, rows: list[int]) -> None:
        self.plain_replies.update(zip(rows, self.plain.run(PLAIN, rows), strict=True))

    def _decode(self, rows: IntArray, batch_size: int, options: DecodingOptions) -> dict[int, Answer]:
        """Answer contexts in batches of similar length, as `ctsm evaluate` does."""
        answers: dict[int, Answer] = {}
        for places in sorted_batches(self.examples.context.lengths[rows], batch_size):
            batch = self.examples.batch(rows[places]).to(self.settings.device)
            context, found = encode_and_decode(self.model, batch, options)
            assert context.emotion_logits is not None
            emotions = context.emotion_logits.argmax(dim=1).tolist()
            for row, best, emotion in zip(rows[places].tolist(), found, emotions, strict=True):
                answers[row] = Answer(best[0].words, emotion)
        return answers


def _json_settings(settings: DecodeSettings) -> dict[str, Any]:
    """Return the settings as JSON values; paths say nothing to others."""
    values = asdict(settings)
    return {name: value for name, value in values.items() if name not in ("run", "data", "config")}
