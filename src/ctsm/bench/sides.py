"""Contenders in processes of their own, so that none works in what another one left of the memory."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from ctsm.errors import CtsmError
from ctsm.files import describe_os_error

Tasks = Mapping[str, Callable[..., Any]]


class Side:
    """A process that holds some tasks and runs one when it is asked to; meanwhile it waits and uses no processor.

    Args:
        build: makes the tasks in the new process; a function of a module, because it travels by its name.
        arguments: what to call it with; they are pickled.
    """

    def __init__(self, build: Callable[..., Tasks], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, build, arguments), daemon=True)
        self._process.start()
        other.close()

    def run(self, name: str, *arguments: Any) -> Any:
        """Run a task with arguments and return what it returns; both are pickled.

        Raises:
            CtsmError: the task raised it or an OSError, or the process ended.
        """
        try:
            self._connection.send((name, arguments))
            found, error = self._connection.recv()
        except (EOFError, OSError) as broken:
            self._process.join()
            raise CtsmError(
                f"{name}: its process ended with exit code {self._process.exitcode}; its messages are above."
            ) from broken
        if error is not None:
            raise CtsmError(error)
        return found

    def __enter__(self) -> Self:
        """Return the side itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, build: Callable[..., Tasks], arguments: tuple[Any, ...]) -> None:
    """Answer requests until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks is interrupted too, and ends this one
    tasks: Tasks = {}
    with suppress(EOFError, BrokenPipeError):  # the process that asks has gone
        while True:
            name, given = connection.recv()
            found, problem = None, None
            try:
                tasks = tasks or build(*arguments)
                found = tasks[name](*given)
            except CtsmError as error:
                problem = str(error)
            except OSError as error:
                problem = describe_os_error(error)
            connection.send((found, problem))
