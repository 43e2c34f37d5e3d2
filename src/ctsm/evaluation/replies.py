"""The replies file: one JSON object per listener turn, the same in every verb that reads or writes replies.

It holds sentences of the data set, so it stays beside the run and out of any repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import from_json, to_json
from ctsm.evaluation.lines import read_jsonl, read_lines, write_jsonl

REMEDY = "docs/metrics.md lists the fields of a replies file"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply of one system.

    `id` is unique in its file. `context` holds the turns so far and `reference` the listener's own answer, as
    readable text; `reply` is the system's answer as people see it and `reply_tokens` the same as metrics use it.
    `emotion` is the conversation's label and `predicted` the system's guess. `reference`, `emotion` and
    `predicted` are None where there is none (a free conversation, a model without an emotion head).
    """

    id: str
    conversation_id: str
    context: tuple[str, ...]
    reference: str | None
    reply: str
    reply_tokens: tuple[str, ...]
    emotion: str | None
    predicted: str | None
    system: str


def write_replies(path: Path, replies: Iterable[Reply]) -> None:
    """Write a replies file (JSONL), atomically.

    Raises:
        CtsmError: two replies have the same id.
    """
    write_jsonl(path, (to_json(reply) for _, reply in _unique((str(path), reply) for reply in replies)))


def read_replies(path: Path) -> list[Reply]:
    """Read a replies file; fields beside the schema's are ignored.

    Raises:
        CtsmError: the file is missing or a line is wrong (not JSON, a field missing or of the wrong type, an id
            seen before, a token that is empty or holds white space); the message names the line.
    """
    replies = []
    for place, reply in _unique(_parsed(path)):
        # Plain text and BLEU join the tokens with spaces and split them again.
        if " ".join(reply.reply_tokens).split() != list(reply.reply_tokens):
            raise CtsmError(f"{place}: a token in 'reply_tokens' is empty or holds white space; split the reply first.")
        replies.append(reply)
    return replies


def read_reply_tokens(path: Path) -> list[list[str]]:
    """Read the tokens of each reply from a replies file (suffix .jsonl) or from plain text (any other suffix).

    Plain text has one tokenised reply a line, split at white space and otherwise unchanged. An empty line is an
    empty reply and counts; a final newline ends the last reply and adds none.

    Raises:
        CtsmError: as `read_replies` and `lines.read_lines`.
    """
    if path.suffix == ".jsonl":
        return [list(reply.reply_tokens) for reply in read_replies(path)]
    return [line.split() for line in read_lines(path, "a file of tokenised replies")]


def _parsed(path: Path) -> Iterator[tuple[str, Reply]]:
    """Yield (place, reply) of each line."""
    names = [field.name for field in fields(Reply)]
    for place, value in read_jsonl(path, "a replies file"):
        yield place, from_json(Reply, {name: value[name] for name in names if name in value}, place, REMEDY)


def _unique(replies: Iterable[tuple[str, Reply]]) -> Iterator[tuple[str, Reply]]:
    """Pass (place, reply) on, refusing an id that came before."""
    seen: set[str] = set()
    for place, reply in replies:
        if reply.id in seen:
            raise CtsmError(f"{place}: the id {reply.id!r} is used twice; give every reply its own id.")
        seen.add(reply.id)
        yield place, reply
