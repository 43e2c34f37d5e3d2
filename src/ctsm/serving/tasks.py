"""What clients ask of the engine, and what the engine tells them while it works."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from ctsm.analysis.explain import Explainer
from ctsm.decoding.options import DecodingOptions
from ctsm.serving.responder import MAX_CONTEXT, Response

LENGTHS = (64, 128, 256)
"""Contexts up to each of these lengths are computed together; longer ones are a class of their own."""

Turns = tuple[str, ...]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Perceived:
    """The first event of a reply: what the model felt (a response without text)."""

    response: Response


@dataclass(frozen=True)
class Piece:
    """More text of one choice of a streamed reply."""

    choice: int
    text: str


@dataclass(frozen=True)
class Ended:
    """One choice is complete.

    Attributes:
        choice: its place among the choices.
        text: all of it.
        words: how many words the model said.
        reason: "stop" if the model or a stop string ended it, "length" if it was cut.
    """

    choice: int
    text: str
    words: int
    reason: FinishReason


@dataclass(frozen=True)
class Finished:
    """The last event; `value` is the result of a task that is no reply."""

    value: Any = None


@dataclass(frozen=True)
class Failed:
    """The last event of a task that the engine could not do."""

    error: Exception


Event = Perceived | Piece | Ended | Finished | Failed


@dataclass(eq=False)
class Task(ABC):
    """Something to compute; made in the event loop that waits for it.

    Attributes:
        events: what the engine tells.
        loop: the event loop.
        submitted: when it was made, by `time.monotonic`.
        cancelled: nobody waits for it any more.
    """

    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue, init=False)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, init=False)
    submitted: float = field(default_factory=time.monotonic, init=False)
    cancelled: bool = field(default=False, init=False)

    @property
    @abstractmethod
    def method(self) -> str:
        """Cohorts of different methods do not wait for each other."""

    @property
    @abstractmethod
    def group(self) -> Hashable:
        """Tasks of the same group can be computed together."""

    @property
    def rows(self) -> int:
        """Rows of a batch that the task takes."""
        return 1


@dataclass(eq=False)
class ReplyTask(Task):
    """Reply to a conversation.

    Attributes:
        turns: what was said, the speaker first and last.
        length: tokens of the conversation.
        options: how the reply is made.
        choices: replies to make; beam search takes `options.n_best`.
        stops: strings that end a reply.
        stream: whether to tell each piece of text.
    """

    turns: Turns
    length: int
    options: DecodingOptions
    choices: int = 1
    stops: tuple[str, ...] = ()
    stream: bool = False

    @property
    def method(self) -> str:
        """That of the options."""
        return self.options.method

    @property
    def group(self) -> Hashable:
        """Replies made by the same method; random numbers are each reply's own, and so is the length but of a beam."""
        options = self.options
        length = options.max_tokens if self.method == "beam" else None
        settings = (options.temperature, options.top_p, options.beam_size, options.n_best)
        return self.method, settings, length, _length_class(self.length)

    @property
    def rows(self) -> int:
        """One for each reply that is followed."""
        return self.options.beam_size if self.options.method == "beam" else self.choices


@dataclass(eq=False)
class ReadTask(Task):
    """Tell the emotions of conversations, without a reply; the result is a list of responses without text."""

    conversations: tuple[Turns, ...]
    length: int

    @property
    def method(self) -> str:
        """Reading is a method of its own."""
        return "read"

    @property
    def group(self) -> Hashable:
        """All are read alike."""
        return self.method, _length_class(self.length)

    @property
    def rows(self) -> int:
        """One a conversation."""
        return len(self.conversations)


@dataclass(eq=False)
class ExplainTask(Task):
    """Reply greedily to a conversation and trace what the reply rests on; the result is an `Explanation`.

    Attributes:
        turns: what was said, the speaker first and last.
        length: tokens of the conversation.
        explainer: of the engine's responder.
    """

    turns: Turns
    length: int
    explainer: Explainer

    @property
    def method(self) -> str:
        """Explaining is a method of its own."""
        return "explain"

    @property
    def group(self) -> Hashable:
        """All are explained alike."""
        return self.method, _length_class(self.length)


def _length_class(length: int) -> int:
    return next((limit for limit in LENGTHS if length <= limit), MAX_CONTEXT)
