"""A time budget."""

from __future__ import annotations

import math
import time

from ctsm.errors import CtsmError


class Deadline:
    """The end of a budget that starts now.

    Args:
        hours: the budget; None for no end.

    Raises:
        CtsmError: the budget is not a positive number.
    """

    def __init__(self, hours: float | None) -> None:
        if hours is not None and not 0 < hours < math.inf:
            raise CtsmError(f"--budget is {hours}; give a number of hours above 0.")
        self._end = math.inf if hours is None else time.monotonic() + 3600 * hours

    def passed(self) -> bool:
        """Return whether the budget is used up."""
        return time.monotonic() >= self._end
