"""The way into this room: encoded contexts and options in, replies out."""

from __future__ import annotations

from collections.abc import Sequence

from ctsm.decoding.beam import beam_search
from ctsm.decoding.greedy import greedy_search
from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.sampling import sample
from ctsm.decoding.single import Hypothesis
from ctsm.models.base import Context, EmpatheticModel


def decode(
    model: EmpatheticModel, context: Context, options: DecodingOptions, seeds: Sequence[int] | None = None
) -> list[list[Hypothesis]]:
    """Return the replies to each context, best first: one, or up to `options.n_best` by beam search.

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
