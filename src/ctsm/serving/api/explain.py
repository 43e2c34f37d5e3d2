"""`POST /v1/explain`: what a reply rests on, word by word."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request

from ctsm.analysis.explain import Explanation
from ctsm.serving.api.bodies import ExplainedReply, ExplainedToken, ExplainRequest, ExplanationBody, SaidWord
from ctsm.serving.api.conversation import conversation_of
from ctsm.serving.api.emotions import token_facts
from ctsm.serving.api.errors import ApiError, documented
from ctsm.serving.api.presence import unless_gone
from ctsm.serving.api.service import Service
from ctsm.serving.responder import Response, TokenEmotions
from ctsm.serving.tasks import ExplainTask, ReadTask


def explain_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["emotions"])

    @router.post(
        "/v1/explain",
        summary="Tell what the reply to a conversation rests on",
        response_model=ExplanationBody,
        responses=documented(400, 401, 404, 408, 413, 422, 429, 500, 503),
    )
    async def trace(body: ExplainRequest, request: Request) -> ExplanationBody:
        """Reply greedily and tell emotions, weights and traits of each word, the inferences, and what was copied."""
        service.require_model(body.model)
        conversation = conversation_of(body.messages, "messages")
        explainer = service.explainer
        if explainer is None:
            message = f"The model {service.name} does not perceive emotions word by word, so it cannot be explained."
            raise ApiError(400, message, "cannot_explain", "model")
        notice = service.notice(conversation.turns)
        if notice is None:
            explain = ExplainTask(turns=conversation.turns, length=conversation.tokens, explainer=explainer)
            return _body(service, await unless_gone(request, service.result(explain)))
        read = ReadTask(conversations=(conversation.turns,), length=conversation.tokens)
        (reading,) = await unless_gone(request, service.result(read))
        return _withheld(service, reading, explainer.standardised(reading.context_tokens), notice)

    return router


def _body(service: Service, explanation: Explanation) -> ExplanationBody:
    response = explanation.response
    return ExplanationBody(
        model=service.name,
        emotions=service.emotions,
        emotion=response.emotion,
        probabilities=response.probabilities,
        tokens=_tokens(explanation.words, explanation.standardised),
        reply=ExplainedReply(
            content=response.text,
            words=[
                SaidWord(token=word.token, copied=word.copied, weights=list(word.weights)) for word in explanation.reply
            ],
        ),
        inferences={relation: list(phrases) for relation, phrases in response.inferences.items()},
        truncated=response.truncated,
        notice=None,
    )


def _withheld(
    service: Service, reading: Response, standardised: Sequence[Sequence[float]], notice: str
) -> ExplanationBody:
    """Tell what the model perceives and nothing that it says or infers."""
    return ExplanationBody(
        model=service.name,
        emotions=service.emotions,
        emotion=reading.emotion,
        probabilities=reading.probabilities,
        tokens=_tokens(reading.context_tokens, standardised),
        reply=ExplainedReply(content=notice, words=[]),
        inferences={},
        truncated=reading.truncated,
        notice=notice,
    )


def _tokens(words: Sequence[TokenEmotions], standardised: Sequence[Sequence[float]]) -> list[ExplainedToken]:
    return [
        ExplainedToken(
            **token_facts(word), standardised=list(values), intensity=word.intensity, attention=word.attention
        )
        for word, values in zip(words, standardised, strict=True)
    ]
