"""`ctsm evaluate`: score a model on a split, write the record, the per-example file and the replies file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctsm.corpus.batches import Examples, sorted_batches
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.prepared import ExampleText, PreparedData
from ctsm.decoding.decode import encode_and_decode
from ctsm.decoding.options import MAX_TOKENS, DecodingOptions, Precision
from ctsm.errors import CtsmError
from ctsm.evaluation.metrics import (
    accuracy,
    bleu4,
    distinct,
    perplexity_by_example,
    perplexity_by_token,
    reply_statistics,
    top_k_accuracy,
)
from ctsm.evaluation.records import (
    RECORD_SCHEMA,
    Interval,
    PerExample,
    ResultRecord,
    VocabularyInfo,
    current_commit,
    per_example_file,
    utc_now,
    write_per_example,
    write_record,
)
from ctsm.evaluation.replies import Reply, write_replies
from ctsm.evaluation.scoring import EmotionScores, ExampleScores, score_examples
from ctsm.evaluation.significance import sampling_intervals
from ctsm.models.base import EmpatheticModel
from ctsm.models.bundle import Bundle, load_bundle
from ctsm.text.detokenise import detokenise
from ctsm.text.vocabulary import Vocabulary
from ctsm.version import __version__

DECODING_BATCH = 64
SELECTED_ON = "dev ppl_example"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured and where it wrote it; `emotions` is None for a model that predicts no emotion."""

    record: ResultRecord
    emotions: EmotionScores | None
    record_file: Path
    per_example_file: Path
    replies_file: Path


@dataclass(frozen=True)
class _Measured:
    """The examples of a split, in its order, with what the model scored and said."""

    examples: Examples
    texts: list[ExampleText]
    scores: ExampleScores
    replies: list[list[str]]

    def accuracies(self) -> tuple[float | None, float | None, float | None]:
        """Return top-1, top-3 and top-5 accuracy in percent; None for a model that predicts no emotion."""
        gold, predicted, logits = self.examples.emotion, self.scores.predicted, self.scores.emotion_logits
        if predicted is None or logits is None:
            return None, None, None
        return accuracy(predicted, gold), top_k_accuracy(logits, gold, 3), top_k_accuracy(logits, gold, 5)

    def emotions(self) -> EmotionScores | None:
        """Return the emotion scores with what is known of each example."""
        if self.scores.emotion_logits is None:
            return None
        return EmotionScores(
            logits=self.scores.emotion_logits,
            gold=self.examples.emotion,
            conversation=self.examples.conversation,
            # The speaker begins and both take turns: three turns come before the second reply.
            turn=np.array([(len(text.context) + 1) // 2 for text in self.texts]),
            words=self.examples.context.lengths - 1,  # CLS is not a word
        )


def evaluate(
    model_directory: Path,
    data_directory: Path,
    split: str,
    out: Path,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _message: None,
    precision: Precision = "fp32",
    require_emotions: bool = False,
) -> Evaluation:
    """Score the gold replies in fp32, decode greedily, compute every metric and write three files into `out`.

    Args:
        model_directory: a run or a model directory.
        data_directory: a prepared dataset with the model's vocabulary.
        split: "train", "dev" or "test".
        out: folder of SPLIT.json, SPLIT.per-example.jsonl and SPLIT.replies.jsonl.
        device: where to compute.
        report: called with progress messages.
        precision: of the replies; published ones are decoded in fp32.
        require_emotions: whether to refuse, before anything long, a model that predicts no emotion.

    Raises:
        CtsmError: model or data cannot be loaded, do not fit together, or the split is empty; or there are no emotions.
    """
    started = time.perf_counter()
    bundle = load_bundle(model_directory, device)
    data = PreparedData(data_directory)
    if data.vocabulary.fingerprint() != bundle.vocabulary.fingerprint():
        raise CtsmError(
            f"{data_directory}: has another vocabulary than {model_directory}; use the data it was trained on."
        )
    examples, texts = data.examples(split, bundle.model.needs), data.texts(split)
    if not texts:
        raise CtsmError(f"{data_directory}: its {split} split is empty; choose another split.")
    if require_emotions and not _predicts_emotions(bundle.model, examples, device):
        raise CtsmError(
            f"{model_directory}: its model ({bundle.config.model}) predicts no emotion, so there is nothing to "
            "report on; evaluate it without --report."
        )
    report(f"scoring {len(texts):,} gold replies")
    scores = score_examples(bundle.model, examples, device=device)
    report(f"replying to {len(texts):,} contexts")
    replies = reply_to_examples(bundle.model, bundle.vocabulary, examples, texts, device, precision=precision)
    measured = _Measured(examples, texts, scores, replies)
    per_example = _per_example(measured)
    intervals = sampling_intervals(per_example)
    record = _record(bundle, data, split, measured, intervals, device, precision, started)
    record_file = out / f"{split}.json"
    result = Evaluation(
        record, measured.emotions(), record_file, per_example_file(record_file), out / f"{split}.replies.jsonl"
    )
    write_per_example(result.per_example_file, per_example)
    write_replies(result.replies_file, _replies(bundle, measured))
    write_record(result.record_file, record)
    return result


def reply_to_examples(
    model: EmpatheticModel,
    vocabulary: Vocabulary,
    examples: Examples,
    texts: list[ExampleText],
    device: str = "cpu",
    batch_size: int = DECODING_BATCH,
    precision: Precision = "fp32",
) -> list[list[str]]:
    """Decode greedily for every example; returns tokens in the split's order."""
    model.eval()
    options = DecodingOptions(precision=precision)
    replies: list[list[str]] = [[] for _ in texts]
    for rows in sorted_batches(examples.context.lengths, batch_size):
        _, decoded = encode_and_decode(model, examples.batch(rows).to(device), options)
        for row, (reply,) in zip(rows, decoded, strict=True):
            replies[row] = vocabulary.words_of(reply.words, list(texts[row].oov))
    return replies


@torch.inference_mode()
def _predicts_emotions(model: EmpatheticModel, examples: Examples, device: str) -> bool:
    """Ask the model itself, with one example: what it has may depend on its options."""
    return model.encode(examples.batch(np.array([0])).to(device)).emotion_logits is not None


def _record(
    bundle: Bundle,
    data: PreparedData,
    split: str,
    measured: _Measured,
    intervals: tuple[Interval | None, Interval],
    device: str,
    precision: Precision,
    started: float,
) -> ResultRecord:
    scores, replies = measured.scores, measured.replies
    acc, top3, top5 = measured.accuracies()
    unigrams, bigrams, statistics = distinct(replies, 1), distinct(replies, 2), reply_statistics(replies)
    bleu = bleu4(replies, [text.reference_tokens for text in measured.texts])
    config, facts = bundle.config, bundle.data
    return ResultRecord(
        schema=RECORD_SCHEMA,
        model=config.model,
        variant=config.variant,
        options=config.changed_options(),
        seed=config.training.seed,
        split=split,  # type: ignore[arg-type]
        n=len(replies),
        acc=acc,
        acc_interval=intervals[0],
        top3=top3,
        top5=top5,
        ppl_example=perplexity_by_example(scores.nll, scores.tokens),
        ppl_interval=intervals[1],
        ppl_token=perplexity_by_token(scores.nll, scores.tokens),
        target_tokens=int(scores.tokens.sum()),
        dist1=unigrams.ratio_percent,
        dist2=bigrams.ratio_percent,
        unigrams=unigrams.total,
        bigrams=bigrams.total,
        mean_length=statistics.mean_length,
        distinct_replies=statistics.distinct_replies,
        bleu4=bleu.score,
        bleu_signature=bleu.signature,
        decoder="greedy",
        max_tokens=MAX_TOKENS,
        vocabulary=VocabularyInfo(size=len(bundle.vocabulary), kind=str(facts.vocabulary["words_of"])),
        vectors=facts.file_of("vectors"),
        inferences=_inferences(facts.inferences),
        precision=_precision(config.training.precision, precision),
        iterations=config.training.iterations,
        checkpoint_step=int(bundle.progress["iteration"]),
        selected_on=SELECTED_ON,
        data_fingerprint=data.fingerprint,
        parameters=bundle.parameters,
        commit=current_commit(),
        device=device,
        train_seconds=round(float(bundle.progress["train_seconds"]), 1),
        evaluate_seconds=round(time.perf_counter() - started, 1),
        status="current",
        superseded_reason="",
        created=utc_now(),
        ctsm_version=__version__,
    )


def _precision(steps: Precision, replies: Precision) -> str:
    """Name the precisions of the training steps, the scores and the replies: "fp32" if that is all."""
    parts = [f"{steps} steps"] * (steps != "fp32") + [f"{replies} replies"] * (replies != "fp32")
    return ", ".join([*parts, "fp32 scores"]) if parts else "fp32"


def _inferences(description: dict[str, object]) -> str:
    """Name the backend and its file, as in "atomic:atomic.tsv.gz"."""
    backend, file = str(description["backend"]), description.get("file") or description.get("model")
    return f"{backend}:{file}" if file else backend


def _per_example(measured: _Measured) -> list[PerExample]:
    scores, predicted = measured.scores, measured.scores.predicted
    correct = None if predicted is None else predicted == np.asarray(measured.examples.emotion)
    return [
        PerExample(
            id=text.id,
            conversation_id=text.conversation_id,
            nll=float(scores.nll[row]),
            tokens=int(scores.tokens[row]),
            correct=None if correct is None else bool(correct[row]),
            reply_tokens=tuple(measured.replies[row]),
        )
        for row, text in enumerate(measured.texts)
    ]


def _replies(bundle: Bundle, measured: _Measured) -> list[Reply]:
    predicted, replies = measured.scores.predicted, measured.replies
    return [
        Reply(
            id=text.id,
            conversation_id=text.conversation_id,
            context=text.context,
            reference=text.reference,
            reply=detokenise(replies[row]),
            reply_tokens=tuple(replies[row]),
            emotion=EMOTIONS[measured.examples.emotion[row]],
            predicted=None if predicted is None else EMOTIONS[predicted[row]],
            system=bundle.config.model,
        )
        for row, text in enumerate(measured.texts)
    ]
