"""`/docs`: the OpenAPI document as a page that needs no script and asks no other site for anything."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from ctsm.analysis.page import html_page

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Field(NamedTuple):
    """A field of a JSON object."""

    name: str
    kind: str
    required: bool
    description: str


class Operation(NamedTuple):
    """A route with a method."""

    method: str
    path: str
    summary: str
    description: str
    protected: bool
    sent: list[Field]
    returned: list[Field]
    statuses: list[tuple[str, str]]


def install_reference(app: FastAPI) -> None:
    """Serve the page."""

    @lru_cache(maxsize=1)
    def page() -> str:
        document = app.openapi()
        operations = [
            _operation(document, path, method, facts)
            for path, methods in document["paths"].items()
            for method, facts in methods.items()
        ]
        facts = document["info"]
        return html_page(
            "The API of this service",
            "reference.html",
            version=facts["version"],
            paragraphs=facts["description"].split("\n\n"),
            operations=operations,
        )

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(), headers={"Content-Security-Policy": POLICY})


def _operation(document: dict[str, Any], path: str, method: str, facts: dict[str, Any]) -> Operation:
    sent = facts.get("requestBody", {}).get("content", {})
    returned = facts["responses"].get("200", {}).get("content", {})
    return Operation(
        method=method.upper(),
        path=path,
        summary=facts.get("summary", ""),
        description=facts.get("description", ""),
        protected=bool(facts.get("security")),
        sent=_fields(document, sent.get("application/json", {}).get("schema", {})),
        returned=_fields(document, returned.get("application/json", {}).get("schema", {})),
        statuses=[(status, answer["description"]) for status, answer in facts["responses"].items()],
    )


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> list[Field]:
    """Return the fields of an object's schema."""
    schema = _resolved(document, schema)
    required = schema.get("required", [])
    return [
        Field(name, _kind(document, facts), name in required, facts.get("description", ""))
        for name, facts in schema.get("properties", {}).items()
    ]


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference: str | None = schema.get("$ref")
    if reference is None:
        return schema
    resolved: dict[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
    return resolved


def _kind(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a type in words: "text", "list of numbers", "object (role, content)"."""
    if "anyOf" in schema:
        kinds = [_kind(document, one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in schema or "enum" in schema:
        return " or ".join(map(json.dumps, schema.get("enum", [schema.get("const")])))
    if "$ref" in schema:
        fields = _fields(document, schema)
        return f"object ({', '.join(field.name for field in fields)})"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of: {_kind(document, schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of: {_kind(document, schema['additionalProperties'])}"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, kind)
