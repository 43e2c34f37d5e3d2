"""The device that everything is computed on: whether it is there."""

from __future__ import annotations

import torch

from ctsm.errors import CtsmError


def require_device(device: torch.device | str) -> None:
    """Refuse a device that PyTorch cannot compute on.

    Raises:
        CtsmError: there is no such device, or this build of PyTorch does not know it.
    """
    try:
        torch.zeros(1, device=device).item()  # a "meta" tensor can be made, but has no value
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise CtsmError(f"--device {device}: cannot be used ({reason}); try cpu.") from None
