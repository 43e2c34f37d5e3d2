"""The plain Transformer of the family, by which the plain path is calibrated against published speeds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.bench.reference.base import PlainContext, PlainModel
from ctsm.bench.reference.blocks import PlainDecoder, PlainEncoder
from ctsm.corpus.batches import Batch
from ctsm.models.ctsm import CTSMOptions
from ctsm.nn.encoder import BlockSizes
from ctsm.text.vocabulary import PAD, SOS

SMOOTHING = 0.1


class PlainTransformer(PlainModel):
    """Encoder, decoder and vocabulary projection without copying; trained with label smoothing, as published."""

    def __init__(self, options: CTSMOptions, vocabulary_size: int) -> None:
        super().__init__(options.size, vocabulary_size)
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.encoder = PlainEncoder(options.size, options.size, sizes)
        self.decoder = PlainDecoder(options.size, options.size, sizes)
        self.vocabulary = nn.Linear(options.size, vocabulary_size)

    def encode(self, batch: Batch) -> PlainContext:
        """Encode words and speakers."""
        real_BS = batch.context != PAD
        memory_BSD = self.encoder(self.embed(batch.context) + self.embed(batch.speakers), real_BS)
        return PlainContext(memory_BSD, real_BS, batch.context, None)

    def predict(self, words: Tensor, context: PlainContext) -> Tensor:
        """Return the log-probabilities [B, T, V] of what follows each prefix of words [B, T]."""
        hidden_BTD, _ = self.decoder(self.embed(words), context.memory, context.real)
        return torch.log_softmax(self.vocabulary(hidden_BTD), dim=-1)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the label-smoothed loss, summed over tokens, and the plain one, their mean."""
        start_B1 = batch.target.new_full((len(batch), 1), SOS)
        log_BTV = self.predict(torch.cat([start_B1, batch.target[:, :-1]], dim=1), self.encode(batch))
        flat, target = log_BTV.flatten(0, 1), self.known(batch.target.flatten())
        return _smoothed(flat, target), {"generation": F.nll_loss(flat, target, ignore_index=PAD)}


def _smoothed(log_NV: Tensor, target_N: Tensor) -> Tensor:
    """Divergence from a dense smoothed target: 0.9 on the word, the rest on all others but PAD; padding left out."""
    with torch.no_grad():
        dense = torch.full_like(log_NV, SMOOTHING / (log_NV.shape[1] - 2))
        dense.scatter_(1, target_N.unsqueeze(1), 1 - SMOOTHING)
        dense[:, PAD] = 0
        dense.masked_fill_((target_N == PAD).unsqueeze(1), 0.0)
    return F.kl_div(log_NV, dense, reduction="sum")
