"""Greedy decoding of the plain path: one example, the whole prefix at every step, always the full number of steps."""

from __future__ import annotations

import torch

from ctsm.bench.reference.base import PlainModel
from ctsm.corpus.batches import Batch
from ctsm.decoding.greedy import MAX_TOKENS, NEVER_SAID
from ctsm.text.vocabulary import EOS, SOS


@torch.no_grad()
def plain_greedy(model: PlainModel, batch: Batch, max_tokens: int = MAX_TOKENS) -> list[int]:
    """Return the extended word ids of the reply to a batch of one, without EOS.

    Special tokens are never said, as in `ctsm.decoding.greedy`, so that both give the same replies.
    """
    context = model.encode(batch)
    banned = torch.tensor(NEVER_SAID, device=batch.context.device)
    words = batch.context.new_full((1, 1), SOS)
    for _ in range(max_tokens):
        log_1TV = model.predict(words, context)
        word = int(log_1TV[0, -1].index_fill(0, banned, float("-inf")).argmax().item())
        words = torch.cat([words, words.new_full((1, 1), word)], dim=1)
    reply: list[int] = words[0, 1:].tolist()
    return reply[: reply.index(EOS)] if EOS in reply else reply
