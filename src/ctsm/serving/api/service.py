"""What the routes share: the engine, its limits, and waiting for it while the client is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ctsm.analysis.explain import Explainer, can_explain
from ctsm.care import notice_for_conversation
from ctsm.corpus.emotions import EMOTIONS
from ctsm.errors import CtsmError
from ctsm.models.bundle import CONFIG
from ctsm.serving.api.errors import RETRY_AFTER, ApiError
from ctsm.serving.api.metrics import Metrics
from ctsm.serving.discreet import describe_error
from ctsm.serving.engine import Engine, QueueFullError, StoppingError
from ctsm.serving.limits import Limits
from ctsm.serving.responder import Responder
from ctsm.serving.tasks import Event, Failed, Finished, Task

log = logging.getLogger("ctsm.serving")


class Service:
    """A model that is served.

    Args:
        responder: answers with the model.
        limits: of requests.
        name: the model's id; by default its system and variant.
    """

    def __init__(self, responder: Responder, limits: Limits, name: str | None = None) -> None:
        bundle = responder.bundle
        responder.care = False  # `notice` checks each conversation, before it waits for the model
        self.limits = limits
        self.name = name or "-".join(filter(None, [bundle.config.model, bundle.config.variant]))
        self.created = int((bundle.directory / CONFIG).stat().st_mtime)
        self.emotions = list(EMOTIONS)
        self.explainer = Explainer(responder) if can_explain(bundle.model) else None
        self.metrics = Metrics()
        self.engine = Engine(responder, limits.max_queue, self.metrics.rows.observe)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)
        self.metrics.running.set_function(lambda: self.engine.running)

    def require_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            ApiError: there is no such model.
        """
        if name is not None and name != self.name:
            message = f"There is no such model here; this service has {self.name}."
            raise ApiError(404, message, "model_not_found", "model")

    def notice(self, turns: Sequence[str]) -> str | None:
        """Return where to find help if one of the user's turns suggests danger; the one place that checks them."""
        notice = notice_for_conversation(turns) if self.limits.care else None
        if notice is not None:
            self.metrics.notices.inc()
        return notice

    def submit(self, task: Task) -> None:
        """Let a task wait for the model.

        Raises:
            ApiError: too many wait already, or the service is stopping.
        """
        try:
            self.engine.submit(task)
        except QueueFullError:
            self.metrics.refused.inc()
            raise ApiError(429, "Too many requests wait; try again.", "queue_full", headers=RETRY_AFTER) from None
        except StoppingError:
            raise ApiError(503, "The service is stopping; try again.", "stopping", headers=RETRY_AFTER) from None

    async def events(self, task: Task) -> AsyncIterator[Event]:
        """Yield what the engine tells of a submitted task, up to `Finished`.

        Raises:
            ApiError: the model failed, or the request took too long.
        """
        deadline = task.submitted + self.limits.timeout
        while True:
            try:
                event = await asyncio.wait_for(task.events.get(), max(0.0, deadline - task.loop.time()))
            except TimeoutError:
                message = f"The reply took longer than {self.limits.timeout:g} seconds; try again."
                raise ApiError(503, message, "timeout", headers=RETRY_AFTER) from None
            if isinstance(event, Failed):
                # Requests have been checked: this is a fault of ours, and its sentence may name files.
                if isinstance(event.error, CtsmError):
                    log.error("a computation failed: %s", describe_error(event.error))
                raise ApiError(500, "The model failed; the log of the service says where.", "model_failed")
            yield event
            if isinstance(event, Finished):
                return

    async def result(self, task: Task) -> Any:
        """Let the engine do a task that is no reply and return its result.

        Raises:
            ApiError: as for `submit` and `events`.
        """
        self.submit(task)
        try:
            async for event in self.events(task):
                if isinstance(event, Finished):
                    return event.value
        finally:
            self.release(task)

    def release(self, task: Task) -> None:
        """Tell the engine that nobody waits for a task any more."""
        if self.engine.cancel(task):
            self.metrics.dropped.inc()
