"""A conversation as a JSON file: what was said, and what the model perceived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctsm.corpus.emotions import EMOTIONS
from ctsm.decoding.options import DecodingOptions
from ctsm.files import write_json
from ctsm.serving.responder import Response, TokenEmotions

DECIMALS = 4


@dataclass(frozen=True)
class Exchange:
    """A turn of the speaker, what it was answered with, and how that was made."""

    text: str
    response: Response
    options: DecodingOptions


def write_transcript(path: Path, system: str, exchanges: Sequence[Exchange]) -> None:
    """Write a conversation, atomically.

    The file has `system`, `emotions` (the names in the order of every list of 32) and `turns`. A speaker's turn has
    the words of that turn alone; what they mean to the model depends on the turns before.

    Raises:
        OSError: the file cannot be written.
    """
    turns = [turn for exchange in exchanges for turn in _turns(exchange)]
    write_json(path, {"system": system, "emotions": list(EMOTIONS), "turns": turns})


def words_of_last_turn(response: Response) -> tuple[TokenEmotions, ...]:
    """Return the words of the speaker's last turn among those of the whole context."""
    words = response.context_tokens
    start = next((place for place in range(len(words), 0, -1) if words[place - 1].role != "speaker"), 0)
    return words[start:]


def _turns(exchange: Exchange) -> list[dict[str, Any]]:
    response = exchange.response
    speaker = {
        "role": "speaker",
        "text": exchange.text,
        "emotion": response.emotion,
        "probabilities": {name: round(value, DECIMALS) for name, value in response.probabilities.items()},
        "words": [_word(token) for token in words_of_last_turn(response)],
        "inferences": response.inferences,
        "truncated": response.truncated,
    }
    listener = {
        "role": "listener",
        "text": response.text,
        "tokens": response.tokens,
        "alternatives": response.alternatives,
        "notice": response.notice,
        "decoding": asdict(exchange.options),
    }
    return [speaker, listener]


def _word(token: TokenEmotions) -> dict[str, Any]:
    return {
        "token": token.token,
        "in_lexicon": token.in_lexicon,
        "trait": None if token.trait is None else [round(value, DECIMALS) for value in token.trait],
        "inclination": [round(value, DECIMALS) for value in token.inclination],
        "state": [round(value, DECIMALS) for value in token.state],
    }
