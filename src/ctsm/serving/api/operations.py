"""The routes around the model: what is served, whether it is well, and what Prometheus reads."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from ctsm.serving.api.bodies import ErrorBody, ModelCard, ModelList, Status
from ctsm.serving.api.errors import documented
from ctsm.serving.api.metrics import CONTENT_TYPE
from ctsm.serving.api.service import Service


def models_router(service: Service) -> APIRouter:
    """Return the routes that tell which model is served."""
    router = APIRouter(tags=["models"])
    card = ModelCard(id=service.name, created=service.created)

    @router.get("/v1/models", summary="List the models", response_model=ModelList, responses=documented(401))
    async def models() -> ModelList:
        """List the models that are served: one."""
        return ModelList(data=[card])

    @router.get(
        "/v1/models/{model:path}",
        summary="Describe a model",
        response_model=ModelCard,
        responses={"4XX": {"model": ErrorBody, "description": "There is no such model, or no valid API key."}},
    )
    async def model(model: str) -> ModelCard:
        """Tell when the model was made."""
        service.require_model(model)
        return card

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(401)},
    )
    async def metrics() -> Response:
        """Return counts and times; nothing of what was said."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return router


def health_router(service: Service) -> APIRouter:
    """Return the routes that need no key."""
    router = APIRouter(tags=["health"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Is the process alive?", response_model=Status)
    async def alive() -> Status:
        """Answer as long as the process can."""
        return Status(status="ok")

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Can it reply?",
        response_model=Status,
        responses={503: {"model": Status, "description": "Not any more: it is stopping."}},
    )
    async def ready() -> Response:
        """Tell a load balancer whether to send requests."""
        if service.engine.ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "stopping"}, 503)

    return router
