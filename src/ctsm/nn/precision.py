"""Matrix products in bf16 where that is asked for and pays, everything else in fp32.

Inside `with bf16_products():` the linear maps below compute forward and backward products in bf16 and return fp32;
parameters, gradients, sums and the optimiser stay in fp32. This is what torch.autocast does, with two differences that
decide whether it is faster on a CPU: row counts are rounded up to few values, because oneDNN compiles a kernel for
every new bf16 shape, and small products are left alone, because there the conversions cost more than they save.
Which products are large depends on the batch, so this is for training, and for encoding where `--precision bf16` asks
for it: published scores never use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 1 << 25
"""Multiply-adds below which a product stays in fp32: 370 rows of a 300 x 300 map (docs/performance.md)."""

_enabled: ContextVar[bool] = ContextVar("bf16_products", default=False)
# Compiled code can read a plain value only: there it is the last context's, of whatever thread.
_enabled_for_compiled = False


@contextmanager
def bf16_products(enabled: bool = True) -> Iterator[None]:
    """Compute large matrix products of this context in bf16 (their backward products too, wherever they run)."""
    global _enabled_for_compiled
    token, before = _enabled.set(enabled), _enabled_for_compiled
    _enabled_for_compiled = enabled
    try:
        yield
    finally:
        _enabled.reset(token)
        _enabled_for_compiled = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for x [..., inputs] and weight [outputs, inputs], like `F.linear`."""
    enabled = _enabled_for_compiled if torch.compiler.is_compiling() else _enabled.get()
    if enabled and x.numel() * weight.shape[0] >= SMALLEST:
        product: Tensor = _Bf16Product.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
        return product.reshape(*x.shape[:-1], weight.shape[0])
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` whose product follows the precision of the context."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        return linear(x, self.weight, self.bias)


def rounded_rows(rows: int) -> int:
    """Round up to one of four values per power of two, at least 16: from 64 rows on less than a quarter is added.

    Every shape costs a kernel of about 1 MB that stays, and some ms to compile it (docs/performance.md).
    """
    step = max(16, 1 << max(0, rows.bit_length() - 3))
    return -(-rows // step) * step


class _Bf16Product(torch.autograd.Function):
    """x [M, I], weight [O, I] and bias [O] in fp32 to x @ weight.T + bias [M, O] in fp32, multiplied in bf16."""

    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        rows = x_MI.shape[0]
        x16, weight16 = _padded_bf16(x_MI), weight_OI.to(torch.bfloat16)
        ctx.save_for_backward(x16, weight16)
        product_MO = (x16 @ weight16.T)[:rows].float()
        return product_MO if bias_O is None else product_MO.add_(bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient_MO,) = gradients
        x16, weight16 = ctx.saved_tensors
        gradient16 = _padded_bf16(gradient_MO)
        x_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (gradient16 @ weight16)[: gradient_MO.shape[0]].float()
        if ctx.needs_input_grad[1]:
            weight_gradient = (gradient16.T @ x16).float()
        if ctx.needs_input_grad[2]:
            # A product with ones is several times faster than a sum over rows.
            bias_gradient = gradient_MO.new_ones(gradient_MO.shape[0]) @ gradient_MO
        return x_gradient, weight_gradient, bias_gradient


def _padded_bf16(x_MI: Tensor) -> Tensor:
    """Convert to bf16 with rows of zeros up to the rounded count."""
    rows = x_MI.shape[0]
    if rows == rounded_rows(rows):
        return x_MI.to(torch.bfloat16, memory_format=torch.contiguous_format)
    padded = x_MI.new_empty((rounded_rows(rows), x_MI.shape[1]), dtype=torch.bfloat16)
    padded[:rows].copy_(x_MI)
    padded[rows:].zero_()
    return padded
