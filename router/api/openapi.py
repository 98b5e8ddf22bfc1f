"""The OpenAPI page: request shapes and examples for routes that read their body themselves, and Swagger to read it.

In: the application. Out: the same application with a complete ``/openapi.json``, ``/docs`` and ``/api/docs``. Bodies
are validated straight from the bytes, which is faster and takes JSON without a content type, so FastAPI cannot derive
these shapes.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from router.api.schemas import ChatRequest, InferenceRequest, ResponsesRequest, VisionRequest

_PICTURE = "data:image/png;base64,iVBORw0KGgo..."
_CHAT_ZH = {
    "model": "glowl",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": _PICTURE}},
                {"type": "text", "text": "图里有什么？"},
            ],
        }
    ],
}
_RESPONSES_EN = {
    "model": "glowl",
    "background": True,
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": _PICTURE},
                {"type": "input_image", "image_url": _PICTURE},
                {"type": "input_text", "text": "Which picture has more red circles?"},
            ],
        }
    ],
}
_BODIES: dict[str, tuple[type[BaseModel], Any]] = {
    "/v1/chat/completions": (ChatRequest, _CHAT_ZH),
    "/v1/route": (ChatRequest, _CHAT_ZH),
    "/v1/responses": (ResponsesRequest, _RESPONSES_EN),
    "/api/v1/inference": (InferenceRequest, {"image": "iVBORw0KGgo...", "prompt": "图里有什么？"}),
    "/v1/vision/completion": (
        VisionRequest,
        {"image": "https://example.com/cat.jpg", "prompt": "图里有什么？", "max_tokens": 256, "temperature": 0.7},
    ),
}


def serve_docs(app: FastAPI) -> None:
    """Serve Swagger at ``/docs`` and, where older clients' users look for it, ``/api/docs``, with files of our own."""
    files = resources.files("fastapi_offline").joinpath("static")
    app.mount("/docs/assets", StaticFiles(directory=str(files)), name="docs-assets")

    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Glowl",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
        )

    for path in ("/docs", "/api/docs"):
        app.add_api_route(path, docs, include_in_schema=False)


def describe(app: FastAPI) -> None:
    """Make ``app.openapi`` add the request bodies."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        page = derive()
        schemas = page.setdefault("components", {}).setdefault("schemas", {})
        for path, (model, example) in _BODIES.items():
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
            page["paths"][path]["post"]["requestBody"] = {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
                        "example": example,
                    }
                },
            }
        _describe_errors(page)
        app.openapi_schema = page
        return page

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_errors(page: dict[str, Any]) -> None:
    """Replace FastAPI's own error shape, which no route here answers with, by the one that all do."""
    schemas = page["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    text = {"type": "string"}
    optional = {"anyOf": [text, {"type": "null"}]}
    schemas["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {"message": text, "type": text, "param": optional, "code": optional},
            }
        },
    }
    refusal = {
        "description": "Any refusal, with the status that fits it",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for operations in page["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = refusal
