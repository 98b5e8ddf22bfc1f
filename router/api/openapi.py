"""The OpenAPI page: request shapes and examples for routes that read their body themselves, and Swagger to read it.

In: the application. Out: the same application with a complete ``/openapi.json``, ``/docs`` and ``/api/docs``. Bodies
are validated straight from the bytes, which is faster and takes JSON without a content type, so FastAPI cannot derive
these shapes.
"""

from __future__ import annotations

import base64
import json
from importlib import resources
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from router.api.anthropic.shapes import CountRequest, MessagesRequest
from router.api.begin import MAX_KEY
from router.api.openapi_objects import ANSWERS, OBJECTS, STREAMS, ref
from router.api.routes.batches import BatchCreate
from router.api.routes.webhooks import EndpointCreate, EndpointTest, EndpointUpdate, SecretRotate
from router.api.schemas import (
    ChatRequest,
    CompactRequest,
    FeedbackRequest,
    InferenceRequest,
    InputTokensRequest,
    ResponsesRequest,
    ResponseUpdate,
    RouteRequest,
    VisionRequest,
)
from router.api.timings import STEPS
from router.batches.records import MAX_TTL_S, MIN_TTL_S

_HYBRID_EXAMPLE = {
    "route": "deep",
    "engine": "owl2",
    "rule": "several-pictures",
    "reasons": [
        {
            "feature": "num_new_images",
            "value": 2,
            "threshold": 2,
            "text": "distinct pictures in this turn: 2 against 2",
            "text_zh": "本轮不同的图片数：2，阈值 2",
        }
    ],
    "preset": "seed",
    "stage": "final",
    "response_id": "resp_0f3c...",
    "merge": "deep",
    "draft": {"item_id": "msg_0f3c..._0", "model": "glm-4.6v-flash", "text": "The first one."},
    "agreement": 0.0,
    "agreement_basis": ["choice"],
    "conflicts": [],
    "degraded": [],
    "branches": [],
    "timings": {
        "fetch": 3.1,
        "policy": 0.21,
        "queue": 12.0,
        "prefill": 640.5,
        "decode": 2210.3,
        "merge": 4.2,
        "total": 2881.7,
    },
    "boxes": [],
}
_CACHE_HEADERS: Final[dict[str, Any]] = {
    "x-glowl-cache": {
        "description": "As `hybrid.cache.status`; absent if the cache had nothing to do with the answer",
        "schema": {"type": "string", "enum": ["hit", "joined", "miss"]},
    },
    "Age": {"description": "Of a hit: how old the answer was, in seconds", "schema": {"type": "integer"}},
}
# The routes that take an Idempotency-Key.
KEYED = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/v1/inference", "/v1/vision/completion")
_SAMPLES = resources.files("engines").joinpath("pocket", "samples")

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_HYBRID_PROPERTIES: Final[dict[str, Any]] = {
    "route": {**_TEXT, "enum": ["fast", "deep"], "description": "`fast`: answered at once; `deep`: a job"},
    "engine": {**_TEXT, "enum": ["glm", "owl2"], "description": "engine that gives the final answer"},
    "rule": {**_TEXT, "description": "name of the rule that decided"},
    "reasons": {
        "type": "array",
        "description": "measured values that made the rule apply, each with a sentence in English and Chinese",
        "items": {"type": "object"},
    },
    "preset": {**_TEXT, "description": "the rule set"},
    "stage": {
        "anyOf": [{**_TEXT, "enum": ["draft", "final"]}, {"type": "null"}],
        "description": "what the text is; null while there is none, or at the end of a job without an answer",
    },
    "response_id": {
        "anyOf": [_TEXT, {"type": "null"}],
        "description": "under which the response is read: `/v1/responses/{response_id}`; null if it leads nowhere, "
        "as of an answer that was not to be stored",
    },
    "merge": {**_TEXT, "description": "how the branches' answers became one: the strategy really used"},
    "draft": {
        "type": "object",
        "description": "GLM's first answer, kept beside the final one",
        "required": ["item_id", "model", "text"],
        "properties": {
            "item_id": _TEXT,
            "model": _TEXT,
            "text": _TEXT,
            "boxes": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Box"},
                "description": "places in pictures that it names; left out if there are none",
            },
        },
    },
    "agreement": {
        "anyOf": [_NUMBER, {"type": "null"}],
        "description": "0 to 1, how far the models agree; null if nothing can be compared",
    },
    "agreement_basis": {"type": "array", "items": _TEXT, "description": "what it was computed from"},
    "conflicts": {
        "type": "array",
        "items": {"type": "object"},
        "description": "where the models contradict each other",
    },
    "provenance": {
        "type": "object",
        "additionalProperties": _TEXT,
        "description": "of JSON merged field by field: by JSON pointer, where each field comes from",
    },
    "degraded": {"type": "array", "items": _TEXT, "description": "what is missing and why; empty when all is well"},
    "queue": {
        "$ref": "#/components/schemas/QueuePlace",
        "description": "how many are before it, and when it will be done",
    },
    "usage": {
        "type": "object",
        "description": "tokens of all engines: `total`, and `branches` by name, the merge among them; the answer's "
        "own are in the object's `usage`",
    },
    "captured": {
        "type": "boolean",
        "description": "true: it is kept for data sets and takes feedback; left out if not",
    },
    "cache": {
        "type": "object",
        "description": "what the answer cache had to do with it; left out if nothing",
        "required": ["status", "age_s"],
        "properties": {
            "status": {
                **_TEXT,
                "enum": ["hit", "joined", "miss"],
                "description": "hit: an earlier answer; joined: the run of an equal request; miss: a run of its own",
            },
            "age_s": {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "of a hit, how old it was"},
        },
    },
    "timings": {
        "type": "object",
        "description": "milliseconds by step; steps that did not happen or are not known yet are left out. "
        "`queue`, `prefill` and `decode` are of the branch whose text is shown, of a composed answer the main one",
        "properties": {name: {**_NUMBER, "description": about} for name, about in STEPS.items()},
    },
    "branches": {
        "type": "array",
        "description": "each engine's part: its state, model, times and failure",
        "items": {"type": "object"},
    },
    "groups": {
        "type": "array",
        "items": {"type": "object"},
        "description": "of many pictures: which were looked at together, and how that ended",
    },
    "template": {**_TEXT, "description": "the shipped schema that was asked for"},
    "boxes": {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Box"},
        "description": "places in pictures that the answer names",
    },
}


def _sample(name: str) -> str:
    """Return a picture that comes with the package, in base64: examples work as they stand."""
    return base64.b64encode(_SAMPLES.joinpath(name).read_bytes()).decode()


def _chat(picture: str, question: str, **hybrid: Any) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_sample(picture)}"}},
        {"type": "text", "text": question},
    ]
    body: dict[str, Any] = {"model": "glowl", "messages": [{"role": "user", "content": content}]}
    return {**body, "hybrid": hybrid} if hybrid else body


def _responses(**fields: Any) -> dict[str, Any]:
    pictures = [
        {"type": "input_image", "image_url": f"data:image/png;base64,{_sample(name)}"}
        for name in ("more-1.png", "more-2.png")
    ]
    question = {"type": "input_text", "text": "Which of the two pictures shows more blue shapes?"}
    return {"model": "glowl", "input": [{"role": "user", "content": [*pictures, question]}], **fields}


def _message(question: str, **fields: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": _sample("count.png")}
    content = [{"type": "image", "source": source}, {"type": "text", "text": question}]
    return {"model": "glowl", "max_tokens": 256, "messages": [{"role": "user", "content": content}], **fields}


def _upload(body: dict[str, Any]) -> str:
    return json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body})


def _bodies() -> dict[str, tuple[type[BaseModel], dict[str, Any]]]:
    """Return the shape and the examples of every JSON body, by path."""
    count = "一共有多少个图形？"
    chat = _chat("count.png", count)
    keep = {"keep_old_secret_active_for_24_hours": True}
    return {
        "/v1/chat/completions": (
            ChatRequest,
            {
                "plain": chat,
                "deep, or the draft after 30 s": _chat("count.png", count, route="deep", max_wait_s=30),
                "composed by GLM from both answers": _chat("count.png", count, route="deep", merge="compose"),
                "JSON of a shipped schema": _chat("price.png", "读出价格。", template="price_tag"),
            },
        ),
        "/v1/messages": (
            MessagesRequest,
            {"plain": _message(count), "with the draft as thinking": _message(count, thinking={"type": "adaptive"})},
        ),
        "/v1/messages/count_tokens": (CountRequest, {"plain": _message(count)}),
        "/v1/responses/compact": (CompactRequest, {"plain": _responses()}),
        "/v1/responses/input_tokens": (InputTokensRequest, {"plain": _responses()}),
        "/v1/route": (
            RouteRequest,
            {"plain": chat, "a stored response under other rules": {"response_id": "resp_...", "preset": "glm-only"}},
        ),
        "/v1/responses": (
            ResponsesRequest,
            {
                "plain": _responses(background=True),
                "draft now, refined later, in one stream": _responses(stream=True),
                "an answer within 20 s or what there is by then": _responses(hybrid={"deadline_ms": 20_000}),
                "a queued object only if the route is deep": _responses(hybrid={"async": "auto", "dial": 0.3}),
            },
        ),
        "/api/v1/inference": (InferenceRequest, {"plain": {"image": _sample("count.png"), "prompt": count}}),
        "/v1/vision/completion": (
            VisionRequest,
            {
                "plain": {
                    "image": f"data:image/png;base64,{_sample('count.png')}",
                    "prompt": count,
                    "max_tokens": 256,
                    "temperature": 0.7,
                }
            },
        ),
        "/v1/responses/{response_id}": (ResponseUpdate, {"a title": {"metadata": {"title": "Blue shapes"}}}),
        "/v1/responses/{response_id}/feedback": (
            FeedbackRequest,
            {
                "a thumb": {"rating": "up"},
                "a correction": {"rating": "down", "correction": "4", "comment": "miscounted"},
            },
        ),
        "/v1/batches": (
            BatchCreate,
            {
                "with the id of a file": {
                    "input_file_id": "file-...",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
            },
        ),
        "/v1/webhook_endpoints": (
            EndpointCreate,
            {
                "plain": {
                    "name": "production",
                    "url": "https://example.com/hooks",
                    "event_types": ["response.completed"],
                }
            },
        ),
        "/v1/webhook_endpoints/{endpoint_id}": (EndpointUpdate, {"plain": {"status": "enabled"}}),
        "/v1/webhook_endpoints/{endpoint_id}/rotate_secret": (SecretRotate, {"plain": keep}),
        "/v1/webhook_endpoints/{endpoint_id}/test": (EndpointTest, {"plain": {"event_type": "response.completed"}}),
        "/v1/webhook_secret/rotate": (SecretRotate, {"plain": keep}),
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
            swagger_ui_parameters={"persistAuthorization": True},
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
        for path, (model, examples) in _bodies().items():
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
            page["paths"][path]["post"]["requestBody"] = {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
                        "examples": {name: {"value": value} for name, value in examples.items()},
                    }
                },
            }
        _describe_answers(page)
        _describe_upload(page)
        _describe_keys(page)
        _describe_errors(page)
        _describe_security(page, is_needed=app.state.services.settings.asks_for_keys)
        app.openapi_schema = page
        return page

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_upload(page: dict[str, Any]) -> None:
    """Describe the one body that is a form."""
    properties = {
        "file": {"type": "string", "format": "binary", "description": "one request in JSON a line, or a picture"},
        "purpose": {
            "type": "string",
            "enum": ["batch", "vision"],
            "description": "`vision`: a picture, to be named as `file_id` in `/v1/responses`; send it before the file",
        },
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_TTL_S, "maximum": MAX_TTL_S},
    }
    schema = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": properties,
        "example": {"file": _upload(_chat("count.png", "一共有多少个图形？")), "purpose": "batch"},
    }
    page["paths"]["/v1/files"]["post"]["requestBody"] = {
        "required": True,
        "content": {"multipart/form-data": {"schema": schema}},
    }
    for path in ("/v1/files/{file_id}/content", "/v1/review/{response_id}/pictures/{sha256}"):
        page["paths"][path]["get"]["responses"]["200"] = {
            "description": "The bytes of the file",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }


def _describe_keys(page: dict[str, Any]) -> None:
    """Describe the header that makes a request safe to send again."""
    header = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The same request under the same key, within 24 hours, gets what the first one got",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    }
    for path in KEYED:
        page["paths"][path]["post"].setdefault("parameters", []).append(header)


def _describe_answers(page: dict[str, Any]) -> None:
    """Describe what no OpenAI client knows of an answer."""
    number = {"type": "number"}
    page["components"]["schemas"]["Box"] = {
        "type": "object",
        "description": "A place in a picture that the answer named, in pixels of the picture as it was sent, upright.",
        "required": ["image", "x1", "y1", "x2", "y2"],
        "properties": {
            "image": {"type": "integer", "description": "index among all pictures of the conversation, from 0"},
            "x1": {**number, "description": "left; 0 is the picture's left edge"},
            "y1": {**number, "description": "top; 0 is the picture's upper edge"},
            "x2": {**number, "description": "right"},
            "y2": {**number, "description": "bottom"},
        },
    }
    page["components"]["schemas"]["QueuePlace"] = {
        "type": "object",
        "description": "How far an unfinished response is; left out once it has ended.",
        "required": ["position", "eta_ms"],
        "properties": {
            "position": {
                "type": "integer",
                "description": "1 starts next; 0 if nothing of it is queued any more",
            },
            "eta_ms": {
                "anyOf": [{"type": "integer"}, {"type": "null"}],
                "description": "until the answer, learned from what ran lately; null while unknown",
            },
        },
    }
    page["components"]["schemas"]["HybridAnswer"] = {
        "type": "object",
        "description": "How the request was routed, how far it is, and what each engine did. Sentences are in the "
        "question's language: English unless it is Chinese.",
        "required": ["route", "engine", "rule", "reasons", "stage", "response_id", "degraded", "branches", "timings"],
        "properties": _HYBRID_PROPERTIES,
        "example": _HYBRID_EXAMPLE,
    }
    page["components"]["schemas"].update(OBJECTS)
    header = {
        "description": "The times of `hybrid.timings` (W3C Server Timing, `dur` in milliseconds). The header of a "
        "stream comes before its answer, so it has what is known at the start; the object in its last event has all.",
        "schema": {
            "type": "string",
            "example": "policy;dur=0.21, prefill;dur=180.4, decode;dur=412.9, total;dur=598.1",
        },
    }
    for (path, method), name in ANSWERS.items():
        answer: dict[str, Any] = {
            "description": OBJECTS[name].get("description", "The answer"),
            "content": {"application/json": {"schema": ref(name)}},
        }
        if (path, method) in STREAMS:
            answer["headers"] = {"Server-Timing": header, **_CACHE_HEADERS}
            answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
        page["paths"][path][method]["responses"]["200"] = answer
    _describe_preference(page)


def _describe_preference(page: dict[str, Any]) -> None:
    """Describe how the older shapes give a job instead of an answer; OpenAI's own shapes never do."""
    prefer = {
        "name": "Prefer",
        "in": "header",
        "required": False,
        "description": "`respond-async`: do not wait, give the address of a job (RFC 7240)",
        "schema": {"type": "string", "example": "respond-async"},
    }
    text = {"schema": {"type": "string"}}
    accepted = {
        "description": "With `Prefer: respond-async`: the job, to be read again at `Location`",
        "headers": {
            "Location": {**text, "description": "`/v1/jobs/{job_id}`"},
            "Preference-Applied": {**text, "description": "`respond-async`"},
        },
        "content": {"application/json": {"schema": ref("Job")}},
    }
    for path in ("/api/v1/inference", "/v1/vision/completion"):
        operation = page["paths"][path]["post"]
        operation.setdefault("parameters", []).append(prefer)
        operation["responses"]["202"] = accepted


def _describe_security(page: dict[str, Any], *, is_needed: bool) -> None:
    """Declare how keys are sent; Swagger shows its Authorize button by this."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "OpenAI's way: `Authorization: Bearer KEY`"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "api-key", "description": "Azure's way"},
        "xApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "Anthropic's way, and many gateways'",
        },
    }
    page["components"]["securitySchemes"] = schemes
    # An empty requirement means that none is needed: no key is configured here, and any is accepted.
    page["security"] = [{name: []} for name in schemes] if is_needed else [{}, {"bearer": []}]


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
