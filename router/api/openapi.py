"""The OpenAPI page: request shapes and examples for routes that read their body themselves.

In: the application. Out: the same application with a complete ``/openapi.json``. Bodies are validated straight from the
bytes, which is faster and takes JSON without a content type, so FastAPI cannot derive these shapes.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
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
        app.openapi_schema = page
        return page

    app.openapi = openapi  # type: ignore[method-assign]
