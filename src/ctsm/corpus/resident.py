"""A split that lives on the device, and batches of few different shapes gathered there.

Only row numbers travel for a batch. Every width is known on the host from the rows' lengths, so nothing waits for the
device, and each is rounded up to a power of two times a least value, so that an epoch has tens of shapes instead of a
shape for each batch: what compiles or records a step does so once for each shape.

The padding is of the kinds that batches have anyway, so every model masks it: PAD words, -1 where a field names rows,
rows that no example owns. Packed target positions are filled up with the batch's last position, which is kept free
(PAD), so a packed token whose word is PAD is not a real one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsm.corpus.batches import ROW_FIELDS, Batch, Examples, Groups, IntArray, Ragged, fill_of, once_each
from ctsm.text.vocabulary import PAD

LEAST_WIDTH, LEAST_GROUP, LEAST_ROWS, LEAST_TARGETS = 32, 8, 64, 256
"""Least sizes: of a row of words, of an example's group of rows, of all rows of a batch, of its packed targets."""


def rounded(size: int, least: int) -> int:
    """Round up to `least` times a power of two."""
    while least < size:
        least *= 2
    return least


class _Rows(NamedTuple):
    """A ragged array on the device, with an empty row after the last and a value that no row has."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, ragged: Ragged, device: torch.device) -> _Rows:
        values = np.append(ragged.values, PAD).astype(np.int32)
        offsets = np.append(ragged.offsets, ragged.offsets[-1]).astype(np.int64)
        return cls(torch.from_numpy(values).to(device), torch.from_numpy(offsets).to(device))

    def padded(self, rows: Tensor, width: int, fill: int) -> Tensor:
        """Gather rows [R] as a matrix [R, width], padded on the right with `fill`."""
        starts_R1, ends_R1 = self.offsets[rows, None], self.offsets[rows + 1, None]
        places_RW = starts_R1 + torch.arange(width, device=rows.device)
        words_RW = self.values[places_RW.clamp_max(len(self.values) - 1)].long()
        return words_RW.masked_fill(places_RW >= ends_R1, fill)


class ResidentExamples:
    """One split on a device.

    Args:
        examples: the split.
        device: where it is copied to, once.

    Attributes:
        context: the contexts, on the host.
    """

    def __init__(self, examples: Examples, device: torch.device | str) -> None:
        self.context = examples.context
        self._device = torch.device(device)
        self._emotion = torch.from_numpy(examples.emotion.astype(np.int64)).to(self._device)
        self._groups = {name: extra for name, extra in examples.extras.items() if isinstance(extra, Groups)}
        self._ragged: dict[str, Ragged] = {name: extra.rows for name, extra in self._groups.items()}
        self._ragged |= {name: extra for name, extra in examples.extras.items() if isinstance(extra, Ragged)}
        for name in ("context", "speakers", "target", "cognitive", "reaction"):
            self._ragged[name] = getattr(examples, name)
        self._resident = {name: _Rows.of(ragged, self._device) for name, ragged in self._ragged.items()}

    def batch(self, rows: IntArray) -> Batch:
        """Collate the given examples; `Examples.batch` gives the same but for the padding."""
        chosen = {name: np.asarray(rows, dtype=np.int64) for name in ("index", *self._ragged)}
        chosen["cognitive"] = (rows[:, None] * 4 + np.arange(4)).reshape(-1)
        places: dict[str, NDArray[np.int64]] = {}
        for name, groups in self._groups.items():
            chosen[name], within = self._rows_of_groups(name, groups, rows)
            if name in ROW_FIELDS:
                places[ROW_FIELDS[name]] = within
        widths = {name: self._width(name, chosen[name]) for name in self._ragged}
        places["target_positions"] = self._target_positions(rows, widths["target"])
        sent = self._send(chosen | places)
        fields: dict[str, Any] = {
            name: self._resident[name].padded(sent[name], width, fill_of(name)) for name, width in widths.items()
        }
        fields["cognitive"] = fields["cognitive"].unflatten(0, (len(rows), 4))
        fields |= {name: sent[name] for name in ("index", *places)}
        return Batch(emotion=self._emotion[sent["index"]], **fields)

    def _rows_of_groups(
        self, name: str, groups: Groups, examples: IntArray
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the examples' groups, empty ones after them, and the groups' places among them."""
        rows, places = groups.places(examples)
        if name == "phrases":
            first, places = once_each(groups.rows.padded(rows, PAD), places)
            rows = rows[first]
        more_rows = rounded(len(rows), LEAST_ROWS) - len(rows)
        more_places = rounded(places.shape[1], LEAST_GROUP) - places.shape[1]
        rows = np.pad(rows, (0, more_rows), constant_values=len(groups.rows))
        return rows, np.pad(places, ((0, 0), (0, more_places)), constant_values=-1)

    def _width(self, name: str, rows: NDArray[np.int64]) -> int:
        """Round the longest row up; a target keeps a place free at its end."""
        offsets = self._ragged[name].offsets
        rows = rows[rows < len(offsets) - 1]  # without the empty ones after the last
        longest = int((offsets[rows + 1] - offsets[rows]).max(initial=0))
        if name.startswith("phrase_"):
            return rounded(longest, LEAST_GROUP)
        return rounded(longest + (name == "target"), LEAST_WIDTH)

    def _target_positions(self, rows: IntArray, width: int) -> NDArray[np.int64]:
        offsets = self._ragged["target"].offsets
        lengths = offsets[rows + 1] - offsets[rows]
        positions = np.flatnonzero(np.arange(width) < lengths[:, None])
        more = rounded(len(positions), LEAST_TARGETS) - len(positions)
        return np.pad(positions, (0, more), constant_values=len(rows) * width - 1)

    def _send(self, arrays: dict[str, NDArray[np.int64]]) -> dict[str, Tensor]:
        """Copy all arrays to the device at once; from pinned memory, which the host need not wait for."""
        flat = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays.values()]))
        if self._device.type == "cuda":
            flat = flat.pin_memory()
        parts = flat.to(self._device, non_blocking=True).split([array.size for array in arrays.values()])
        return {name: part.view(array.shape) for part, (name, array) in zip(parts, arrays.items(), strict=True)}
