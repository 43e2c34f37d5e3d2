"""Batched greedy decoding with caches: each step computes one position, and finished replies leave the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsm.models.base import Context, EmpatheticModel
from ctsm.text.vocabulary import CLS, EOS, PAD, SOS, SYS, UNK, USR

MAX_TOKENS = 51
"""The family's limit: a loop of 51 steps."""

NEVER_SAID = (UNK, PAD, SOS, USR, SYS, CLS)
"""Special tokens that are no words; a reply consists of words and ends with EOS."""


@torch.inference_mode()
def greedy(model: EmpatheticModel, context: Context, max_tokens: int = MAX_TOKENS) -> list[list[int]]:
    """Return each reply's extended word ids, without EOS, at most `max_tokens` of them.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        max_tokens: steps at most; a reply that has not ended by then is cut.
    """
    cache = model.start_decoding(context)
    source = context.source
    device = context.memory.device
    count = context.memory.shape[0]
    banned = torch.tensor(NEVER_SAID, device=device)
    replies = torch.full((count, max_tokens), EOS, device=device)
    rows = torch.arange(count, device=device)
    words = replies.new_empty((count, 0))
    for step in range(max_tokens):
        state = model.decode(words, context, cache)
        best, _ = model.generator.best_word(state.hidden[:, -1], state.copy_scores[:, -1], source, banned)
        replies[rows, step] = best
        going = best != EOS
        if not bool(going.all()):
            keep = going.nonzero().squeeze(1)
            if keep.numel() == 0:
                break
            rows, best, cache, source = rows[keep], best[keep], cache.select(keep), source.rows(keep)
        words = best[:, None]
    return _cut(replies)


def _cut(replies_BT: Tensor) -> list[list[int]]:
    """Cut each row at its first EOS."""
    return [row[: row.index(EOS)] if EOS in row else row for row in replies_BT.tolist()]
