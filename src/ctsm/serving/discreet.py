"""What the log may hold of an error."""

from __future__ import annotations

import traceback


def describe_error(error: BaseException) -> str:
    """Return an error's type and where it came from; not its message, which may hold what people wrote."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__} at\n{frames}"
