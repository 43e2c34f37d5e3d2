"""The engine: one thread that owns the model and computes what clients ask, many at a time.

Tasks wait in a bounded queue. The engine takes the oldest one and those of its group (same method, like length) that
have come meanwhile as a cohort: one batch. Cohorts take turns step by step: those of different methods, and of one
method the next with the last replies of the one before. Replies are those that each request would get alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from ctsm.errors import CtsmError
from ctsm.serving.cohort import Cohort, start_cohort
from ctsm.serving.discreet import describe_error
from ctsm.serving.responder import Responder
from ctsm.serving.tasks import Event, Failed, Finished, Task

WINDOW_SECONDS = 0.004
"""How long the first request waits for others to be computed with."""
MAX_ROWS = 64
MAX_COHORTS, FEW_ROWS = 2, 16
"""Of one method, a second cohort begins when the first has come down to few rows. More or earlier ones would be small
batches: fewer replies a second, and longer waits for all."""

log = logging.getLogger("ctsm.serving")


class QueueFullError(Exception):
    """As many tasks wait as may."""


class StoppingError(Exception):
    """The engine takes no more tasks."""


class Engine:
    """Computes tasks on a thread of its own.

    Args:
        responder: answers with the model; nobody else uses it while the engine runs.
        max_queue: tasks that may wait.
        watch: is told the number of rows of each batch.
    """

    def __init__(self, responder: Responder, max_queue: int, watch: Callable[[int], None]) -> None:
        self._responder, self._max_queue, self._watch = responder, max_queue, watch
        self._waiting: deque[Task] = deque()
        self._running: set[Task] = set()
        self._told: list[tuple[Task, Event]] = []
        self._changed = threading.Condition()
        self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ctsm-engine", daemon=True)
        self._warm = threading.Event()
        self._warm_up_error: Exception | None = None

    @property
    def waiting(self) -> int:
        """Tasks that wait to be computed."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Tasks that are being computed."""
        return len(self._running)

    @property
    def ready(self) -> bool:
        """Whether new tasks should come."""
        return self._warm.is_set() and self._thread.is_alive() and not (self._draining or self._stopping)

    def start(self) -> None:
        """Start the thread and return when it has made a first reply, so that the next ones are quick.

        Raises:
            CtsmError: the model cannot reply, because a file that it needs is missing or damaged.
        """
        self._thread.start()
        self._warm.wait()
        if self._warm_up_error is not None:
            self._thread.join()
            raise self._warm_up_error

    def drain(self) -> None:
        """Be no longer `ready`. Tasks are still taken: those of requests that the server has accepted already.

        Takes no lock, so a signal handler can call it.
        """
        self._draining = True

    def stop(self) -> None:
        """Compute what was accepted, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, task: Task) -> None:
        """Let a task wait for its turn; its events come through `task.events`.

        Raises:
            QueueFullError: too many wait already.
            StoppingError: the engine is stopping.
        """
        with self._changed:
            if self._stopping or not self._thread.is_alive():
                raise StoppingError
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError
            self._waiting.append(task)
            self._changed.notify()

    def cancel(self, task: Task) -> bool:
        """Forget a task that nobody waits for; returns whether it was not finished yet."""
        task.cancelled = True
        with self._changed:
            unfinished = task in self._running or task in self._waiting
            self._running.discard(task)
            with suppress(ValueError):
                self._waiting.remove(task)
        return unfinished

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            self._responder.respond(["Hello."])
        except Exception as error:
            self._warm_up_error = error
        self._warm.set()
        cohorts = list[Cohort]()
        while self._warm_up_error is None:
            tasks = self._take(cohorts)
            if not tasks and not cohorts:
                return
            cohorts = [cohort for cohort in [*cohorts, *self._begin(tasks)] if self._advance(cohort)]
            self._deliver()

    def _take(self, cohorts: Sequence[Cohort]) -> list[Task]:
        """Return the next tasks to compute together; none where cohorts should go on, or at the very end."""
        with self._changed:
            while not cohorts and not self._due() and not (self._stopping and not self._waiting):
                self._changed.wait(self._patience())
            first = next((task for task in self._waiting if self._has_room(task, cohorts)), None)
            if first is None or not self._due():
                return []
            group = first.group
            taken, rows = list[Task](), 0
            for task in self._waiting:
                if task.group == group and (not taken or rows + task.rows <= MAX_ROWS):
                    taken.append(task)
                    rows += task.rows
            for task in taken:
                self._waiting.remove(task)
            self._running.update(taken)
        self._watch(rows)
        return taken

    def _has_room(self, task: Task, cohorts: Sequence[Cohort]) -> bool:
        """Whether a cohort with this task may begin beside those under way."""
        rows = [cohort.rows for cohort in cohorts if cohort.tasks[0].method == task.method]
        return not rows or (len(rows) < MAX_COHORTS and sum(rows) <= FEW_ROWS)

    def _due(self) -> bool:
        """Whether there is no reason to wait for more tasks."""
        patience = self._patience()
        return patience is not None and (patience <= 0 or self._stopping or len(self._waiting) >= MAX_ROWS)

    def _patience(self) -> float | None:
        """Return how many seconds the oldest task may still wait for others; None without one."""
        return self._waiting[0].submitted + WINDOW_SECONDS - time.monotonic() if self._waiting else None

    def _begin(self, tasks: Sequence[Task]) -> list[Cohort]:
        """Start tasks together; if that fails, each alone, so that one of them does not spoil the others' replies."""
        if not tasks:
            return []
        try:
            return [start_cohort(self._responder, tasks, self._tell)]
        except Exception as error:
            if len(tasks) == 1:
                self._fail(tasks, error)
                return []
            return [cohort for task in tasks for cohort in self._begin([task])]

    def _advance(self, cohort: Cohort) -> bool:
        """Take one step; returns whether the cohort goes on."""
        try:
            return cohort.step()
        except Exception as error:
            self._fail(cohort.tasks, error)
            return False

    def _fail(self, tasks: Sequence[Task], error: Exception) -> None:
        """Tell those who wait, and the log where the fault is ours."""
        if not isinstance(error, CtsmError):
            log.error("a computation failed: %s", describe_error(error))
        for task in tasks:
            if task in self._running:
                self._tell(task, Failed(error))

    def _tell(self, task: Task, event: Event) -> None:
        self._told.append((task, event))
        if isinstance(event, Finished | Failed):
            self._running.discard(task)

    def _deliver(self) -> None:
        """Hand the events of a step to the event loops that wait for them, each woken once."""
        told, self._told = self._told, []
        for loop in {task.loop for task, _ in told}:
            events = [(task, event) for task, event in told if task.loop is loop]
            with suppress(RuntimeError):  # the loop has ended, and with it those who waited
                loop.call_soon_threadsafe(_put, events)


def _put(events: Sequence[tuple[Task, Event]]) -> None:
    for task, event in events:
        task.events.put_nowait(event)
