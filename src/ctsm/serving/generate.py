"""`ctsm generate`: JSONL of contexts in, replies file out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.evaluation.lines import read_jsonl
from ctsm.evaluation.replies import Reply, write_replies
from ctsm.serving.responder import Responder, check_conversation

BATCH = 32


def generate_file(responder: Responder, source: Path, out: Path, options: DecodingOptions) -> int:
    """Reply to every context of a JSONL file and write a replies file in the same order; returns their number.

    Where a context gets the care notice, the reply is that, without tokens, and `notice` beside it is not null.
    A sampled reply depends on the seed and on its place in the file, not on how the contexts are batched.

    Raises:
        CtsmError: as `read_contexts`.
    """
    items = read_contexts(source)
    # Similar lengths together: less padding.
    order = sorted(range(len(items)), key=lambda row: sum(map(len, items[row].context)))
    replies: list[GeneratedReply | None] = [None] * len(items)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        responses = responder.respond_batch([items[row].context for row in rows], options, seeds=rows)
        for row, response in zip(rows, responses, strict=True):
            item = items[row]
            replies[row] = GeneratedReply(
                id=item.id,
                conversation_id=item.conversation_id,
                context=item.context,
                reference=item.reference,
                reply=response.text,
                reply_tokens=response.tokens,
                emotion=item.emotion,
                predicted=response.emotion,
                system=responder.bundle.config.model,
                notice=response.notice,
            )
    write_replies(out, (reply for reply in replies if reply is not None))
    return len(items)


@dataclass(frozen=True, kw_only=True)
class GeneratedReply(Reply):
    """A line of the file: a reply, and the care notice where that was given instead of one (docs/care.md)."""

    notice: str | None


@dataclass(frozen=True)
class ContextItem:
    """One input line: the fields of a reply that are known before it is made."""

    id: str
    conversation_id: str
    context: tuple[str, ...]
    reference: str | None
    emotion: str | None


def read_contexts(source: Path) -> list[ContextItem]:
    """Read a JSONL file of contexts.

    Raises:
        CtsmError: there is no context, a line is not an object with a list of texts as "context", a context cannot be
            answered, or an id is there twice.
    """
    items = list(_items(source))
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise CtsmError(f"{source}: the id {item.id!r} is used twice; give every context its own id.")
        seen.add(item.id)
    if not items:
        raise CtsmError(f"{source}: holds no context; write one JSON object a line.")
    return items


def _items(source: Path) -> Iterator[ContextItem]:
    """Read the input lines; without an id, the line's number is it."""
    for number, (place, value) in enumerate(read_jsonl(source, "a file of contexts"), start=1):
        context = value.get("context")
        if not isinstance(context, list) or not all(isinstance(turn, str) for turn in context):
            raise CtsmError(f'{place}: "context" is not a list of texts; write the turns there, the speaker\'s first.')
        texts = {name: value.get(name) for name in ("id", "conversation_id", "reference", "emotion")}
        for name, text in texts.items():
            if text is not None and not isinstance(text, str):
                raise CtsmError(f'{place}: "{name}" is not a text; write it in quotation marks or leave it out.')
        identity = texts["id"] or str(number)
        check_conversation(context, f"{place}: ")
        conversation = texts["conversation_id"] or identity
        yield ContextItem(identity, conversation, tuple(context), texts["reference"], texts["emotion"])
