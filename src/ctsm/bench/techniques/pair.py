"""A technique and what it replaces: two ways to compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ctsm.bench.report import SEPARATOR
from ctsm.models.ctsm import CTSM
from ctsm.nn.pointer import PointerGenerator

Part = Literal["training", "decoding"]
Side = Callable[[int], list[Tensor]]
"""Computes the unit of work of that number; returns all that must agree: results and, in training, gradients."""


@dataclass(frozen=True)
class Pair:
    """Two ways to compute the same from the same, everything else being equal.

    Attributes:
        part: where it belongs.
        technique: the way that is taken, as the tables name it.
        replaces: the other way.
        fast: computes a unit of work with the technique.
        slow: computes it the other way.
        units: numbers of units, from 0, that a round works through.
        each: what the times are of, in words.
        times: how many of `each` are in a unit.
    """

    part: Part
    technique: str
    replaces: str
    fast: Side
    slow: Side
    units: int
    each: str = "a batch"
    times: int = 1

    @property
    def title(self) -> str:
        """Name of the technique's series and of its ratio."""
        return SEPARATOR.join([self.part, self.technique])

    @property
    def other_title(self) -> str:
        """Name of the series of what it replaces."""
        return SEPARATOR.join([self.part, self.technique, self.replaces])

    def milliseconds(self, seconds: Iterable[float]) -> tuple[float, ...]:
        """Turn the seconds of rounds into milliseconds of one of `each`."""
        return tuple(1e3 * value / (self.units * self.times) for value in seconds)


def with_gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return results and the gradients of `inputs`, of a sum in which every value of the results weighs differently.

    With equal weights the gradient behind a layer norm would be 0, whatever was computed.
    """
    weights = [_weights(result.shape, result.dtype, result.device) for result in results]
    gradients = torch.autograd.grad(results, inputs, weights, materialize_grads=True)
    return [*(result.detach() for result in results), *gradients]


def pointer_generator(model: CTSM) -> PointerGenerator:
    """Return the model's output layer by its type."""
    assert isinstance(model.generator, PointerGenerator)
    return model.generator


@cache
def _weights(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once for each shape, while warming up."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
