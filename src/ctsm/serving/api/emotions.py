"""`POST /v1/emotions`: what the model perceives, without a reply."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ctsm.serving.api.bodies import Emotions, EmotionsList, EmotionsRequest, EmotionsUsage, Token, Trait
from ctsm.serving.api.conversation import MAX_TOKENS_READ, Conversation, checked, conversation_of
from ctsm.serving.api.errors import ApiError, documented
from ctsm.serving.api.presence import unless_gone
from ctsm.serving.api.service import Service
from ctsm.serving.responder import Response as Reading
from ctsm.serving.responder import TokenEmotions
from ctsm.serving.tasks import ReadTask


def emotions_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["emotions"])

    @router.post(
        "/v1/emotions",
        summary="Tell the emotions of texts or conversations",
        response_model=EmotionsList,
        responses=documented(400, 401, 404, 408, 413, 422, 429, 500, 503),
    )
    async def read(body: EmotionsRequest, request: Request) -> EmotionsList:
        """Tell the probabilities of the 32 emotions and, word by word, trait, inclination and state."""
        service.require_model(body.model)
        conversations = _conversations(body)
        task = ReadTask(
            conversations=tuple(conversation.turns for conversation in conversations),
            length=max(conversation.tokens for conversation in conversations),
        )
        readings = await unless_gone(request, service.result(task))
        data = [
            _emotions(index, reading, service.notice(conversation.turns))
            for index, (conversation, reading) in enumerate(zip(conversations, readings, strict=True))
        ]
        count = sum(conversation.tokens for conversation in conversations)
        usage = EmotionsUsage(prompt_tokens=count, total_tokens=count)
        return EmotionsList(model=service.name, emotions=service.emotions, data=data, usage=usage)

    return router


def _conversations(body: EmotionsRequest) -> list[Conversation]:
    """Return the conversations of a request.

    Raises:
        ApiError: one cannot be read, or they are too long together.
    """
    if isinstance(body.input, str):
        return [checked((body.input,), "input")]
    conversations = [
        checked((item,), f"input.{place}") if isinstance(item, str) else conversation_of(item, f"input.{place}")
        for place, item in enumerate(body.input)
    ]
    tokens = sum(conversation.tokens for conversation in conversations)
    if tokens > MAX_TOKENS_READ:
        message = f"input holds {tokens:,} tokens in all; at most {MAX_TOKENS_READ:,} are read at once."
        raise ApiError(422, message, "too_long", "input")
    return conversations


def _emotions(index: int, reading: Reading, notice: str | None) -> Emotions:
    return Emotions(
        index=index,
        emotion=reading.emotion,
        probabilities=reading.probabilities,
        tokens=[Token(**token_facts(token)) for token in reading.context_tokens],
        truncated=reading.truncated,
        notice=notice,
    )


def token_facts(token: TokenEmotions) -> dict[str, Any]:
    """Return the fields of `bodies.Token`."""
    trait = None
    if token.trait is not None:
        trait = Trait(valence=token.trait[0], arousal=token.trait[1], dominance=token.trait[2])
    return {
        "token": token.token,
        "role": "user" if token.role == "speaker" else "assistant",
        "trait": trait,
        "inclination": list(token.inclination),
        "state": list(token.state),
    }
