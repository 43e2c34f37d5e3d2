"""Teacher-forced scores of a whole split: likelihoods and emotions, example by example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctsm.corpus.batches import Examples, sorted_batches
from ctsm.errors import CtsmError
from ctsm.models.base import EmpatheticModel

SCORING_BATCH = 32


@dataclass(frozen=True)
class ExampleScores:
    """One row per example, in the split's order.

    Attributes:
        nll: summed negative log-likelihood of the gold reply, EOS included [N].
        tokens: number of its tokens, EOS included [N].
        emotion_logits: [N, E], None for a model without an emotion head.
    """

    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    emotion_logits: NDArray[np.float32] | None

    @property
    def predicted(self) -> NDArray[np.int64] | None:
        """The most probable emotion of each example [N], None for a model without an emotion head."""
        if self.emotion_logits is None:
            return None
        best: NDArray[np.int64] = self.emotion_logits.argmax(axis=1)
        return best


@dataclass(frozen=True)
class EmotionScores:
    """What a model thinks of the emotion of each example of a split, with what is known of the example.

    Attributes:
        logits: [N, E].
        gold: the conversation's label [N].
        conversation: number of the conversation [N].
        turn: which of the conversation's listener turns it is, from 1 [N].
        words: length of the context [N].
    """

    logits: NDArray[np.float32]
    gold: NDArray[np.integer]
    conversation: NDArray[np.integer]
    turn: NDArray[np.int64]
    words: NDArray[np.integer]


def score_examples(
    model: EmpatheticModel, examples: Examples, batch_size: int = SCORING_BATCH, device: str = "cpu"
) -> ExampleScores:
    """Score every example in evaluation mode (the model stays in it).

    Raises:
        CtsmError: the split is empty.
    """
    if not len(examples):
        raise CtsmError("There is no example to score; prepare dialogues that have this split.")
    model.eval()
    count = len(examples)
    nll, tokens = np.zeros(count), np.zeros(count, dtype=np.int64)
    logits: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for rows in sorted_batches(examples.context.lengths, batch_size):
            scores = model.score(examples.batch(rows).to(device))
            nll[rows], tokens[rows] = scores.nll.cpu().numpy(), scores.tokens.cpu().numpy()
            if scores.emotion_logits is None:
                continue
            batch_logits = scores.emotion_logits.float().cpu().numpy()
            if logits is None:
                logits = np.zeros((count, batch_logits.shape[1]), dtype=np.float32)
            logits[rows] = batch_logits
    return ExampleScores(nll, tokens, logits)
