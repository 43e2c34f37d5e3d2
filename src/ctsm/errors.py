"""The one exception type whose message is meant for the person at the terminal."""

from __future__ import annotations


class CtsmError(Exception):
    """Something the user can mend: a wrong file, option or environment.

    The message is one sentence that says what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2; library users catch this type.
    """


class MissingExtraError(CtsmError):
    """An optional dependency is needed and not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the optional dependency group '{extra}': run pip install 'ctsm[{extra}]'.")
