"""Contenders in processes of their own, so that none works in what another one left of the memory.

Requests and answers are lines of JSON on the process's standard input and output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from ctsm.errors import CtsmError
from ctsm.files import describe_os_error

Tasks = Mapping[str, Callable[..., Any]]


class Side:
    """A process that holds some tasks and runs one when it is asked to; meanwhile it waits and uses no processor.

    Args:
        build: makes the tasks in the new process; a function of a module, because the process finds it by its name.
        arguments: what to call it with: JSON values.
    """

    def __init__(self, build: Callable[..., Tasks], **arguments: Any) -> None:
        command = [sys.executable, "-m", "ctsm.bench.sides", build.__module__, build.__qualname__]
        self._process = subprocess.Popen(
            [*command, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # an interrupt is this process's alone, which then ends the other
        )

    def run(self, name: str, *arguments: Any) -> Any:
        """Run a task with arguments and return what it returns, all of them JSON values.

        Raises:
            CtsmError: the task raised it or an OSError, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            raise CtsmError(f"{name}: its process ended with exit code {code}; its messages are above.")
        found, problem = json.loads(answer)
        if problem is not None:
            raise CtsmError(problem)
        return found

    def __enter__(self) -> Self:
        """Return the side itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.terminate()
        with suppress(BrokenPipeError):
            self._process.communicate()


def main() -> None:
    """Answer requests until the process that asks has gone."""
    module, name, arguments = sys.argv[1:]
    build: Callable[..., Tasks] = getattr(import_module(module), name)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed is a message
    tasks: Tasks = {}
    with suppress(BrokenPipeError):
        for request in sys.stdin:
            task, given = json.loads(request)
            found, problem = None, None
            try:
                tasks = tasks or build(**json.loads(arguments))
                found = tasks[task](*given)
            except CtsmError as error:
                problem = str(error)
            except OSError as error:
                problem = describe_os_error(error)
            print(json.dumps([found, problem]), file=answers, flush=True)


if __name__ == "__main__":
    main()
