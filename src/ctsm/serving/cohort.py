"""Tasks that are computed together: one batch, one cached decode, taken step by step between other cohorts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from ctsm.analysis.explain import Reading
from ctsm.decoding.beam import beam_steps
from ctsm.decoding.greedy import greedy_choice
from ctsm.decoding.sampling import random_numbers, sampled_choice
from ctsm.decoding.single import Choose, Hypothesis, Paths
from ctsm.models.base import Context, EmpatheticModel
from ctsm.serving.readable import ReadableReply
from ctsm.serving.responder import GREEDY, Collated, Responder, Response
from ctsm.serving.tasks import (
    Ended,
    Event,
    ExplainTask,
    Finished,
    FinishReason,
    Perceived,
    Piece,
    ReadTask,
    ReplyTask,
    Task,
)
from ctsm.text.vocabulary import EOS, Vocabulary

Tell = Callable[[Task, Event], None]
NOTHING_SAID = [Hypothesis([], 0.0)]


class Cohort(Protocol):
    """Tasks of one group under way."""

    @property
    def tasks(self) -> Sequence[Task]:
        """All that were started together."""
        ...

    @property
    def rows(self) -> int:
        """Rows of the batch that go on."""
        ...

    def step(self) -> bool:
        """Do a little; returns whether anything is left to do."""
        ...


def start_cohort(responder: Responder, tasks: Sequence[Task], tell: Tell) -> Cohort:
    """Begin with tasks of one group.

    Args:
        responder: answers with the model.
        tasks: of one group.
        tell: takes the events of a task.
    """
    if explaining := [task for task in tasks if isinstance(task, ExplainTask)]:
        return ExplainCohort(responder, explaining, tell)
    if reading := [task for task in tasks if isinstance(task, ReadTask)]:
        return ReadCohort(responder, reading, tell)
    replies = [task for task in tasks if isinstance(task, ReplyTask)]
    kind = BeamCohort if replies[0].method == "beam" else PathsCohort
    return kind(responder, replies, tell)


class ReadCohort:
    """Conversations that are read and not answered: all is done in one step."""

    def __init__(self, responder: Responder, tasks: Sequence[ReadTask], tell: Tell) -> None:
        self.tasks = tasks
        self.rows = sum(task.rows for task in tasks)
        self._responder, self._tell = responder, tell

    def step(self) -> bool:
        """Do all of it."""
        reading = [task for task in self.tasks if not task.cancelled]
        if reading:
            conversations = [turns for task in reading for turns in task.conversations]
            responses = iter(_perceive(self._responder, conversations, maps=True)[2])
            for task in reading:
                self._tell(task, Finished([next(responses) for _ in task.conversations]))
        return False


class GrowingReply:
    """One choice of a task while its words come."""

    def __init__(self, task: ReplyTask, choice: int, vocabulary: Vocabulary, oov: list[str], tell: Tell) -> None:
        self.task = task
        self._choice, self._vocabulary, self._oov, self._tell = choice, vocabulary, oov, tell
        self._readable = ReadableReply(task.stops)
        self._words = 0

    def push(self, word: int) -> bool:
        """Take the next word; returns whether the reply goes on."""
        if word == EOS:
            return self._end("stop")
        self._words += 1
        self._show(self._readable.push(self._vocabulary.words_of([word], self._oov)[0]))
        if self._readable.stopped:
            return self._end("stop")
        if self._words == self.task.options.max_tokens:
            return self._end("length")
        return True

    def take(self, words: Sequence[int]) -> None:
        """Take a whole reply (without EOS)."""
        for word in words:
            if not self.push(word):
                return
        self._end("stop")

    def _show(self, piece: str) -> None:
        if piece and self.task.stream:
            self._tell(self.task, Piece(self._choice, piece))

    def _end(self, reason: FinishReason) -> bool:
        self._show(self._readable.finish())
        if self._readable.stopped:
            reason = "stop"
        self._tell(self.task, Ended(self._choice, self._readable.text, self._words, reason))
        return False


class PathsCohort:
    """Greedy or sampled replies; those that end leave the batch, and so do those that nobody waits for."""

    def __init__(self, responder: Responder, tasks: Sequence[ReplyTask], tell: Tell) -> None:
        self.tasks = tasks
        self._tell = tell
        self._open = {task: task.choices for task in tasks}
        rows = [(task, choice) for task in tasks for choice in range(task.choices)]
        collated, encoded, responses = _perceive(responder, [task.turns for task, _ in rows])
        model, vocabulary = responder.bundle.model, responder.bundle.vocabulary
        self._growing = [
            GrowingReply(task, choice, vocabulary, context.oov, tell)
            for (task, choice), context in zip(rows, collated.contexts, strict=True)
        ]
        self._paths = Paths(model, encoded, _choice(model, encoded, rows))
        for (task, choice), response in zip(rows, responses, strict=True):
            if choice == 0:
                tell(task, Perceived(response))

    @property
    def rows(self) -> int:
        """One for each reply that goes on."""
        return len(self._growing)

    def step(self) -> bool:
        """Add a word to each reply."""
        words = self._paths.step().tolist()
        going = [place for place, word in enumerate(words) if self._goes_on(self._growing[place], word)]
        if 0 < len(going) < len(words):
            self._paths.keep(torch.tensor(going, device=self._paths.rows.device))
        self._growing = [self._growing[place] for place in going]
        return bool(going)

    def _goes_on(self, reply: GrowingReply, word: int) -> bool:
        if reply.task.cancelled:
            return False
        if reply.push(word):
            return True
        self._open[reply.task] -= 1
        if not self._open[reply.task]:
            self._tell(reply.task, Finished())
        return False


class ExplainCohort:
    """Greedy replies that are traced. A step adds a word to each and traces one that has ended."""

    def __init__(self, responder: Responder, tasks: Sequence[ExplainTask], tell: Tell) -> None:
        self.tasks = tasks
        self._tell = tell
        model, collated = responder.bundle.model, responder.collate([task.turns for task in tasks])
        encoded = model.encode(collated.batch, perceive=True)
        self._reading = Reading(collated, encoded)
        self._paths: Paths | None = Paths(model, encoded, greedy_choice(model, encoded, GREEDY))
        self._ended = deque[tuple[int, Hypothesis]]()

    @property
    def rows(self) -> int:
        """One for each reply that goes on or is to be traced."""
        return len(self._ended) + (0 if self._paths is None else len(self._paths.rows))

    def step(self) -> bool:
        """Say one word of each reply, trace one."""
        if self._paths is not None:
            self._add_words(self._paths)
        while self._ended:
            row, reply = self._ended.popleft()
            task = self.tasks[row]
            if not task.cancelled:
                self._tell(task, Finished(task.explainer.explanation(self._reading, row, task.turns, reply)))
                break
        return self.rows > 0

    def _add_words(self, paths: Paths) -> None:
        going = []
        words = paths.step().tolist()
        for place, (row, word) in enumerate(zip(paths.rows.tolist(), words, strict=True)):
            if self.tasks[row].cancelled:
                continue
            if word != EOS and paths.said.shape[1] < GREEDY.max_tokens:
                going.append(place)
                continue
            said = paths.said[place].tolist()
            self._ended.append((row, Hypothesis(said[:-1] if word == EOS else said, float(paths.total[place]))))
        if not going:
            self._paths = None
        elif len(going) < len(words):
            paths.keep(torch.tensor(going, device=paths.rows.device))


class BeamCohort:
    """The n best replies by beam search; their text comes at the end."""

    def __init__(self, responder: Responder, tasks: Sequence[ReplyTask], tell: Tell) -> None:
        self.tasks = tasks
        self.rows = sum(task.rows for task in tasks)
        self._tell, self._vocabulary = tell, responder.bundle.vocabulary
        collated, encoded, responses = _perceive(responder, [task.turns for task in tasks])
        for task, response in zip(tasks, responses, strict=True):
            tell(task, Perceived(response))
        self._oov = [context.oov for context in collated.contexts]
        self._steps = beam_steps(responder.bundle.model, encoded, tasks[0].options)

    def step(self) -> bool:
        """Continue all prefixes by a word; tell the replies after the last step."""
        if all(task.cancelled for task in self.tasks):
            return False
        replies = next(self._steps)
        if replies is None:
            return True
        for task, oov, hypotheses in zip(self.tasks, self._oov, replies, strict=True):
            for choice, hypothesis in enumerate(hypotheses):
                GrowingReply(task, choice, self._vocabulary, oov, self._tell).take(hypothesis.words)
            self._tell(task, Finished())
        return False


def _perceive(
    responder: Responder, conversations: Sequence[Sequence[str]], maps: bool = False
) -> tuple[Collated, Context, list[Response]]:
    """Encode conversations and tell what the model felt, with the emotion maps where they are asked for."""
    collated = responder.collate(conversations)
    encoded = responder.bundle.model.encode(collated.batch, maps)
    return collated, encoded, responder.responses(collated, encoded, [NOTHING_SAID] * len(conversations))


def _choice(model: EmpatheticModel, encoded: Context, rows: Sequence[tuple[ReplyTask, int]]) -> Choose:
    """Return what chooses the words; each choice of each task draws from its own random numbers."""
    options = rows[0][0].options
    if options.method == "greedy":
        return greedy_choice(model, encoded, options)
    longest = max(task.options.max_tokens for task, _ in rows)
    numbers = [random_numbers(task.options.seed, [choice], longest) for task, choice in rows]
    return sampled_choice(model, encoded, options, np.concatenate(numbers))
