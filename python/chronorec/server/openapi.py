"""The OpenAPI description, made from the schemas that check the requests."""

from __future__ import annotations

from typing import Any

import msgspec

from chronorec import __version__
from chronorec.server import schemas

_REFUSALS = {
    "400": "not JSON, or not of this shape",
    "401": "a key is wanted: X-API-Key, or Authorization: Bearer",
    "404": "nothing of this name",
    "409": "a model folder cannot be used",
    "413": "too long",
    "422": "a value that cannot be",
    "503": "events cannot be written down, the shared store does not answer, or the server ends",
}
_KEYS = {
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
#: Events of a user that one answer shows.
MOST_SHOWN = 10_000


def openapi() -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds = [
        schemas.Events,
        schemas.Accepted,
        schemas.Request,
        schemas.Answer,
        schemas.Explain,
        schemas.Reasons,
        schemas.Similar,
        schemas.History,
        schemas.Models,
        schemas.Status,
        schemas.Reloaded,
        schemas.Forgotten,
        schemas.Problem,
    ]
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    by_kind = dict(zip(kinds, references, strict=True))

    def content(kind: Any) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": by_kind[kind]}}}

    def operation(summary: str, answer: Any, body: Any = None, **more: Any) -> dict[str, Any]:
        responses = {"200": {"description": "done", **content(answer)}}
        for status, why in _REFUSALS.items():
            responses[status] = {"description": why, **content(schemas.Problem)}
        asked = {} if body is None else {"requestBody": {"required": True, **content(body)}}
        return {"summary": summary, "responses": responses, **asked, **more}

    user = [
        {
            "name": "kind",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": ["text", "number"]},
        },
        {"name": "user", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
    ]
    last = {
        "name": "last",
        "in": "query",
        "description": "how many events, by default 200",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_SHOWN},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "chronorec", "version": __version__},
        "paths": {
            "/v1/events": {"post": operation("Tell events", schemas.Accepted, schemas.Events)},
            "/v1/recommend": {"post": operation("Ask for items", schemas.Answer, schemas.Request)},
            "/v1/explain": {"post": operation("Ask why", schemas.Reasons, schemas.Explain)},
            "/v1/similar": {"post": operation("Items like one", schemas.Answer, schemas.Similar)},
            "/v1/users/{kind}/{user}": {
                "get": operation("What a user did", schemas.History, parameters=[*user, last]),
                "delete": operation("Forget a user", schemas.Forgotten, parameters=user),
            },
            "/v1/models": {"get": operation("What answers", schemas.Models)},
            "/v1/reload": {"post": operation("Read the models again", schemas.Reloaded)},
            "/health": {"get": operation("Does the process live", schemas.Status, security=[])},
            "/ready": {"get": operation("Does it want requests", schemas.Status, security=[])},
        },
        "components": {"schemas": components, "securitySchemes": _KEYS},
        # a server without keys asks for none
        "security": [{}, *({name: []} for name in _KEYS)],
    }
