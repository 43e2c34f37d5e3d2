"""`POST /v1/explain`: what a reply rests on, word by word."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ctsm.analysis.explain import Explanation, explain
from ctsm.serving.api.bodies import ExplainedReply, ExplainedToken, ExplainRequest, ExplanationBody, SaidWord
from ctsm.serving.api.conversation import conversation_of
from ctsm.serving.api.emotions import token_facts
from ctsm.serving.api.errors import ApiError, documented
from ctsm.serving.api.presence import unless_gone
from ctsm.serving.api.service import Service
from ctsm.serving.tasks import CallTask


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
        if not service.can_explain:
            message = f"The model {service.name} does not perceive emotions word by word, so it cannot be explained."
            raise ApiError(400, message, "cannot_explain", "model")
        notice = service.notice(conversation.turns)
        task = CallTask(lambda responder: explain(responder, conversation.turns))
        return _body(service, await unless_gone(request, service.result(task)), notice)

    return router


def _body(service: Service, explanation: Explanation, notice: str | None) -> ExplanationBody:
    response = explanation.response
    words = [] if notice else explanation.reply
    return ExplanationBody(
        model=service.name,
        emotions=service.emotions,
        emotion=response.emotion,
        probabilities=response.probabilities,
        tokens=[
            ExplainedToken(
                **token_facts(token),
                standardised=list(standardised),
                intensity=token.intensity,
                attention=token.attention,
            )
            for token, standardised in zip(explanation.words, explanation.standardised, strict=True)
        ],
        reply=ExplainedReply(
            content=notice or response.text,
            words=[SaidWord(token=word.token, copied=word.copied, weights=list(word.weights)) for word in words],
        ),
        inferences={relation: list(phrases) for relation, phrases in response.inferences.items()},
        truncated=response.truncated,
        notice=notice,
    )
