"""The application: all routes of the service, with what stands before them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.security import HTTPBearer

from ctsm.serving.api.chat import chat_router
from ctsm.serving.api.emotions import emotions_router
from ctsm.serving.api.errors import install_handlers
from ctsm.serving.api.explain import explain_router
from ctsm.serving.api.guard import Bodies, Keys, Watch
from ctsm.serving.api.operations import health_router, models_router
from ctsm.serving.api.presence import ClientGoneError, client_gone
from ctsm.serving.api.reference import install_reference
from ctsm.serving.api.service import Service
from ctsm.version import __version__

PAGE = Path(__file__).parent.parent / "page"
"""The web page: every file in this folder is served under its name, `index.html` at /."""

DESCRIPTION = """An empathetic listener: it replies to what someone tells, and says which emotions it perceived.

`/v1/chat/completions` and `/v1/models` are compatible with OpenAI's clients. Replies are a model's output: they can be
wrong or hurtful, and this is no help for someone in distress."""


def create_app(service: Service, keys: Sequence[str] = (), origins: Sequence[str] = ()) -> FastAPI:
    """Return the application.

    Args:
        service: whose engine runs.
        keys: API keys; without one everybody may use the service.
        origins: of web pages on other sites that may use it; none by default.
    """
    app = FastAPI(
        title="CTSM",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    # Documents which routes need a key; `Keys` does the check, before a body is read.
    protected = [Depends(HTTPBearer(auto_error=False, description="An API key, if the service has any."))]
    routers = [make(service) for make in (chat_router, emotions_router, explain_router, models_router)]
    for router in routers:
        app.include_router(router, dependencies=protected)
    routers.append(health_router(service))
    app.include_router(routers[-1])
    install_reference(app)
    _install_page(app)
    install_handlers(app)
    app.add_exception_handler(ClientGoneError, client_gone)
    _document_own_errors(app)
    # The last one is the outermost.
    app.add_middleware(Bodies, max_body=service.limits.max_body, timeout=service.limits.timeout)
    if keys:
        app.add_middleware(Keys, keys=keys)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    # `app.routes` holds the routers as wholes, which do not tell the address of the route.
    routes = [*chain.from_iterable(router.routes for router in routers), *app.routes]
    app.add_middleware(Watch, metrics=service.metrics, routes=routes)
    return app


def _install_page(app: FastAPI) -> None:
    """Serve the files of the page, each at an address of its own; the reference is at / where there is no page."""
    files = {file.name: file for file in sorted(PAGE.iterdir()) if file.is_file()} if PAGE.is_dir() else {}
    for name, file in files.items():
        address = "/" if name == "index.html" else f"/{name}"
        app.add_api_route(address, _sender(file), methods=["GET", "HEAD"], include_in_schema=False)
    if "index.html" not in files:
        app.add_api_route("/", _to_reference, methods=["GET", "HEAD"], include_in_schema=False)


def _sender(file: Path) -> Any:
    async def send() -> Response:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return send


async def _to_reference() -> Response:
    return RedirectResponse("/docs")


def _document_own_errors(app: FastAPI) -> None:
    """Leave out of the OpenAPI document the framework's form of errors, which is not used."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for operations in document["paths"].values():
            for operation in operations.values():
                content = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
                if content.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
