"""The way into this room: contexts and options in, replies out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctsm.corpus.batches import Batch
from ctsm.decoding.beam import beam_search
from ctsm.decoding.greedy import greedy_search
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.sampling import sample
from ctsm.decoding.single import Hypothesis
from ctsm.models.base import Context, EmpatheticModel
from ctsm.nn.precision import bf16_products


@torch.inference_mode()
def encode_and_decode(
    model: EmpatheticModel,
    batch: Batch,
    options: DecodingOptions,
    seeds: Sequence[int] | None = None,
    perceive: bool = False,
) -> tuple[Context, list[list[Hypothesis]]]:
    """Return the encoded contexts of a batch and the replies to each.

    The precision of the options is that of encoding; a word's own products are too small to gain from bf16.

    Args:
        model: in evaluation mode.
        batch: on the model's device.
        options: the method and its settings.
        seeds: as for `decode`.
        perceive: whether the contexts are to hold the emotion maps.
    """
    with bf16_products(options.precision == "bf16"):
        context = model.encode(batch, perceive)
    return context, decode(model, context, options, seeds)


def decode(
    model: EmpatheticModel, context: Context, options: DecodingOptions, seeds: Sequence[int] | None = None
) -> list[list[Hypothesis]]:
    """Return the replies to each encoded context, best first: one, or up to `options.n_best` by beam search.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        options: the method and its settings.
        seeds: a number from 0 for each context; with `options.seed` it decides what is drawn for this context,
            whatever else is in the batch. Default: the rows' numbers. Only sampling reads them.
    """
    if options.method == "beam":
        return beam_search(model, context, options)
    if options.method == "sample":
        own_seeds = range(len(context.memory)) if seeds is None else seeds
        return [[reply] for reply in sample(model, context, options, own_seeds)]
    return [[reply] for reply in greedy_search(model, context, options)]
