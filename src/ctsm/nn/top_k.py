"""The k largest numbers of each row, in a fixed order also among equal ones, without sorting the row."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 32
FEW = 8
"""Rows whose largest number `torch.max` finds ten times faster."""


def top_k(x_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row [N, k] and their columns [N, k], largest first; k <= V.

    Of equal values the one in the lowest column comes first, whatever the device and the number of rows, which
    `torch.topk` does not promise. The row is cut into chunks: the k largest numbers lie in the k chunks with the
    largest maxima (of equal maxima the first ones), because each of those has a number that comes before all of any
    other chunk's. So one pass over the row is left, and two small problems of the same kind.
    """
    if k == 1 and (len(x_NV) <= FEW or x_NV.device.type != "cpu"):
        return x_NV.max(dim=1, keepdim=True)  # promises the same order; of many rows it may be slow on a CPU
    size = x_NV.shape[1]
    if size <= max(SMALL, 4 * k):
        values, columns = x_NV.sort(dim=1, descending=True, stable=True)
        return values[:, :k], columns[:, :k]
    width = _chunk_width(size, k)
    whole = size - size % width
    _, chunks_NK = top_k(x_NV[:, :whole].unflatten(1, (-1, width)).amax(dim=2), k)
    within = torch.arange(width, device=x_NV.device)
    rest = torch.arange(whole, size, device=x_NV.device).expand(len(x_NV), -1)
    # Chunks in ascending order and the rest last keep the columns ascending, so that ties fall as they should.
    candidates = torch.cat([(chunks_NK.sort(dim=1).values[:, :, None] * width + within).flatten(1), rest], dim=1)
    values, places = top_k(x_NV.gather(1, candidates), k)
    return values, candidates.gather(1, places)


def _chunk_width(size: int, k: int) -> int:
    """A power of two near sqrt(size / k), which balances the two small problems; such chunks are reduced fastest."""
    width = 2
    while width * width * k < size and size // (2 * width) >= 2 * k:
        width *= 2
    return width
