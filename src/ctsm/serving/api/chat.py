"""`POST /v1/chat/completions`: replies, as OpenAI's clients ask for them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ctsm.decoding.options import DecodingOptions
from ctsm.serving.api.bodies import (
    LARGEST_SEED,
    Choice,
    Completion,
    CompletionRequest,
    Perception,
    Reply,
    Usage,
)
from ctsm.serving.api.conversation import Conversation, conversation_of
from ctsm.serving.api.errors import ApiError, documented
from ctsm.serving.api.presence import unless_gone
from ctsm.serving.api.service import Service
from ctsm.serving.tasks import Ended, Event, Perceived, Piece, ReplyTask

SMALLEST = 1e-4
"""Temperatures and nuclei below choose the most probable word, but for what cannot be told apart; 0 cannot be used."""
BEAM_SIZE = 5
STREAM_HEADERS = {"X-Accel-Buffering": "no"}
STREAM_DOCUMENTED = {
    "description": "The reply; with `stream` as server-sent events that end with `data: [DONE]`.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


def chat_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/v1/chat/completions",
        summary="Reply to a conversation",
        response_model=Completion,
        responses={200: STREAM_DOCUMENTED, **documented(400, 401, 404, 408, 413, 422, 429, 500, 503)},
    )
    async def complete(body: CompletionRequest, request: Request) -> Any:
        """Reply as the model would to the last message.

        The most probable words are chosen unless `temperature` is above 0, or `top_p` is sent without a temperature.
        What the model felt is in `ctsm`, in streams in the first chunk. A message that suggests that someone is in
        danger gets a notice where to find help instead of the model's words, with the finish reason `content_filter`.
        """
        service.require_model(body.model)
        conversation = conversation_of(body.messages, "messages")
        answer = Answer(service, body, conversation)
        notice = service.notice(conversation.turns)
        if notice is not None:
            return answer.stream(answer.of_notice(notice)) if body.stream else answer.whole_notice(notice)
        task = ReplyTask(
            turns=conversation.turns,
            length=conversation.tokens,
            options=decoding_options(body, service.limits.max_tokens),
            choices=body.n or 1,
            stops=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            stream=bool(body.stream),
        )
        service.submit(task)
        with ExitStack() as stack:
            stack.callback(service.release, task)
            events = service.events(task)
            # Only then a stream begins: what goes wrong before has a status of its own.
            first = await unless_gone(request, anext(events))
            assert isinstance(first, Perceived)
            if not body.stream:
                return await unless_gone(request, answer.whole(first, events))
            return answer.stream(answer.of_events(first, events), stack.pop_all().close)

    return router


def decoding_options(body: CompletionRequest, max_tokens: int) -> DecodingOptions:
    """Return how the reply is made: drawn if asked for, by beam search for several replies, else greedily."""
    limit = min(body.max_completion_tokens or body.max_tokens or max_tokens, max_tokens)
    if body.temperature or (body.temperature is None and body.top_p is not None):
        return DecodingOptions(
            method="sample",
            max_tokens=limit,
            temperature=max(SMALLEST, 1.0 if body.temperature is None else body.temperature),
            top_p=max(SMALLEST, 1.0 if body.top_p is None else body.top_p),
            seed=None if body.seed is None else body.seed & LARGEST_SEED,
        )
    count = body.n or 1
    if count > 1:
        return DecodingOptions(method="beam", max_tokens=limit, beam_size=max(BEAM_SIZE, count), n_best=count)
    return DecodingOptions(max_tokens=limit)


class ReleasingStream(StreamingResponse):
    """A stream that says when it has ended, however that came about."""

    def __init__(self, content: AsyncIterator[str], release: Callable[[], None] | None) -> None:
        super().__init__(content, media_type="text/event-stream", headers=STREAM_HEADERS)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._release is not None:
                self._release()


class Answer:
    """Puts into OpenAI's form what the engine tells.

    Args:
        service: whose model answers.
        body: the request.
        conversation: its turns.
    """

    def __init__(self, service: Service, body: CompletionRequest, conversation: Conversation) -> None:
        self._service, self._conversation = service, conversation
        self._choices = body.n or 1
        self._tells_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self, first: Perceived, events: AsyncIterator[Event]) -> Completion:
        """Wait for all choices and return them."""
        choices = dict[int, Choice]()
        words = 0
        async for event in events:
            if isinstance(event, Ended):
                message = Reply(content=event.text)
                choices[event.choice] = Choice(index=event.choice, message=message, finish_reason=event.reason)
                words += event.words
        return self._completion([choices[index] for index in sorted(choices)], words, _perception(first))

    def whole_notice(self, notice: str) -> Completion:
        """Return the notice in place of each choice."""
        choices = [
            Choice(index=index, message=Reply(content=notice), finish_reason="content_filter")
            for index in range(self._choices)
        ]
        return self._completion(choices, 0, _noticed(notice))

    def _completion(self, choices: list[Choice], words: int, perception: Perception) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._service.name,
            choices=choices,
            usage=self._usage(words),
            ctsm=perception,
        )

    def _usage(self, words: int) -> Usage:
        self._service.metrics.words.inc(words)
        read = self._conversation.tokens
        return Usage(prompt_tokens=read, completion_tokens=words, total_tokens=read + words)

    def stream(self, chunks: AsyncIterator[str], release: Callable[[], None] | None = None) -> StreamingResponse:
        """Return the chunks as an answer."""
        return ReleasingStream(chunks, release)

    async def of_events(self, first: Perceived, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """Yield chunks as the words come."""
        yield self._beginning(0, _perception(first))
        for choice in range(1, self._choices):
            yield self._beginning(choice)
        words = 0
        try:
            async for event in events:
                if isinstance(event, Piece):
                    yield self._chunk(event.choice, {"content": event.text})
                elif isinstance(event, Ended):
                    words += event.words
                    yield self._chunk(event.choice, {}, event.reason)
        except ApiError as error:
            yield _event(error.body())
            return
        yield self._end(words)

    async def of_notice(self, notice: str) -> AsyncIterator[str]:
        """Yield the notice in place of each choice."""
        for choice in range(self._choices):
            yield self._beginning(choice, _noticed(notice) if choice == 0 else None)
            yield self._chunk(choice, {"content": notice})
            yield self._chunk(choice, {}, "content_filter")
        yield self._end(0)

    def _beginning(self, choice: int, perception: Perception | None = None) -> str:
        extension = {} if perception is None else {"ctsm": perception.model_dump()}
        return self._chunk(choice, {"role": "assistant", "content": ""}, extension=extension)

    def _chunk(
        self, choice: int, delta: dict[str, str], reason: str | None = None, extension: dict[str, Any] | None = None
    ) -> str:
        choices = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return self._event_of(choices, {"usage": None} if self._tells_usage else {}, extension or {})

    def _end(self, words: int) -> str:
        usage = self._usage(words)
        last = self._event_of([], {"usage": usage.model_dump()}, {}) if self._tells_usage else ""
        return last + "data: [DONE]\n\n"

    def _event_of(self, choices: list[Any], usage: dict[str, Any], extension: dict[str, Any]) -> str:
        facts = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
        return _event({**facts, "model": self._service.name, "choices": choices, **usage, **extension})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def _perception(event: Perceived) -> Perception:
    response = event.response
    return Perception(
        emotion=response.emotion, probabilities=response.probabilities, truncated=response.truncated, notice=None
    )


def _noticed(notice: str) -> Perception:
    return Perception(emotion=None, probabilities={}, truncated=False, notice=notice)
