"""From the messages of a request to the turns that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from ctsm.serving.api.bodies import MAX_MESSAGES, Message
from ctsm.serving.api.errors import ApiError
from ctsm.serving.responder import MAX_CONTEXT
from ctsm.text.normalise import is_blank
from ctsm.text.tokenise import tokenise

MAX_TOKENS_READ = 2_048
MAX_CHARACTERS = 10_000
"""Of one conversation; checked first, because counting tokens takes time. The model reads the last `MAX_CONTEXT`."""


class Conversation(NamedTuple):
    """What was said, the user first and last, and how many tokens the model reads of it."""

    turns: tuple[str, ...]
    tokens: int


def conversation_of(messages: Sequence[Message], param: str) -> Conversation:
    """Return the turns of a conversation.

    Messages to the system, what the assistant said before the user's first message, and its messages without words
    (a reply of this service can have none) are left out; neighbouring messages of one role are joined.

    Args:
        messages: as the client sent them.
        param: the field that holds them, for errors.

    Raises:
        ApiError: the last message is not the user's, a turn has no words, or the conversation is too long.
    """
    if len(messages) > MAX_MESSAGES:
        raise ApiError(
            422, f"{param} holds {len(messages)} messages; at most {MAX_MESSAGES} are read.", "too_long", param
        )
    for place, message in enumerate(messages):
        if message.role == "user" and message.content is None:
            where = f"{param}.{place}.content"
            raise ApiError(400, f"{where}: must be a text or a list.", "invalid_value", where)
    texts = [(message.role, message.text()) for message in messages]
    said = [(role, text) for role, text in texts if role == "user" or (role == "assistant" and not is_blank(text))]
    turns = [(role, "\n".join(text for _, text in group)) for role, group in groupby(said, key=itemgetter(0))]
    if turns and turns[0][0] == "assistant":
        del turns[0]
    if not turns or turns[-1][0] != "user":
        raise ApiError(400, f"The last message of {param} must be the user's.", "invalid_value", param)
    return checked(tuple(text for _, text in turns), param)


def checked(turns: tuple[str, ...], param: str) -> Conversation:
    """Refuse a conversation that is too long or has an empty turn, and count its tokens.

    Raises:
        ApiError: as for `conversation_of`.
    """
    characters = sum(map(len, turns))
    if characters > MAX_CHARACTERS:
        message = f"{param} holds {characters:,} characters; at most {MAX_CHARACTERS:,} are read."
        raise ApiError(422, message, "too_long", param)
    if any(map(is_blank, turns)):
        raise ApiError(400, f"{param} holds a message without words.", "invalid_value", param)
    tokens = 1 + sum(len(tokenise(turn)) for turn in turns)
    if tokens > MAX_TOKENS_READ:
        message = f"{param} holds {tokens:,} tokens; at most {MAX_TOKENS_READ:,} are read."
        raise ApiError(422, message, "too_long", param)
    return Conversation(turns, min(tokens, MAX_CONTEXT))
