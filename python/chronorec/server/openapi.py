"""The OpenAPI description, made from the schemas that check the requests."""

from __future__ import annotations

from typing import Any

import msgspec

from chronorec import __version__
from chronorec.server import schemas

_REFUSALS = {
    "400": "not JSON, or not of this shape",
    "404": "nothing of this name",
    "413": "too long",
    "422": "a value that cannot be",
    "503": "events cannot be written down, or the shared store does not answer",
}


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
    return {
        "openapi": "3.1.0",
        "info": {"title": "chronorec", "version": __version__},
        "paths": {
            "/v1/events": {"post": operation("Tell events", schemas.Accepted, schemas.Events)},
            "/v1/recommend": {"post": operation("Ask for items", schemas.Answer, schemas.Request)},
            "/v1/explain": {"post": operation("Ask why", schemas.Reasons, schemas.Explain)},
            "/v1/similar": {"post": operation("Items like one", schemas.Answer, schemas.Similar)},
            "/v1/users/{kind}/{user}": {
                "delete": operation("Forget a user", schemas.Forgotten, parameters=user)
            },
        },
        "components": {"schemas": components},
    }
