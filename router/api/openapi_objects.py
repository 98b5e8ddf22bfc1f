"""The objects that the api answers with, as JSON Schemas for the OpenAPI page.

In: nothing. Out: `OBJECTS` by name, and which route answers with which (`ANSWERS`). OpenAI's own objects are described
as far as a reader needs; their full description is OpenAI's.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from router.jobs.job import JobState

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer"}
_NUMBER: Final[Json] = {"type": "number"}
_FLAG: Final[Json] = {"type": "boolean"}
_ANY: Final[Json] = {"type": "object"}
_TIME: Final[Json] = {"type": "integer", "description": "seconds since 1970"}


def ref(name: str) -> Json:
    """Return a reference to one of the objects."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(about: str, properties: Json, *, kind: str | None = None, optional: tuple[str, ...] = ()) -> Json:
    if kind is not None:
        properties = {"object": {"type": "string", "enum": [kind]}, **properties}
    required = [name for name in properties if name not in optional]
    return {"type": "object", "description": about, "required": required, "properties": properties}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _page(item: str) -> Json:
    properties = {
        "data": _list(ref(item)),
        "first_id": _or_null(_TEXT),
        "last_id": {**_or_null(_TEXT), "description": "send it as `after` to read on"},
        "has_more": _FLAG,
    }
    return _object("One page of a list.", properties, kind="list")


def _whole_list(item: Json) -> Json:
    return _object("The whole list.", {"data": _list(item)}, kind="list")


_CHOICE = _object(
    "One answer; there is always one.",
    {
        "index": _COUNT,
        "message": _object(
            "The answer.",
            {"role": _TEXT, "content": _or_null(_TEXT), "refusal": _or_null(_TEXT), "tool_calls": _list(_ANY)},
            optional=("refusal", "tool_calls"),
        ),
        "logprobs": _or_null(_ANY),
        "finish_reason": {**_TEXT, "description": "`stop`, `length`, `content_filter`, `tool_calls`"},
    },
)
_BATCH_TIMES = (
    *("in_progress_at", "expires_at", "finalizing_at"),
    *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
)
_BATCH_STATES = (
    *("validating", "failed", "in_progress", "finalizing"),
    *("completed", "expired", "cancelling", "cancelled"),
)
_STATE: Final[Json] = {"type": "string", "enum": list(get_args(JobState))}
_ENDPOINT = {
    "id": _TEXT,
    "created_at": _TIME,
    "updated_at": _TIME,
    "name": _TEXT,
    "url": _TEXT,
    "event_types": _list(_TEXT),
    "signing_secret_hint": _TEXT,
    "status": {"type": "string", "enum": ["enabled", "disabled"]},
}

OBJECTS: Final[dict[str, Json]] = {
    "ChatCompletion": _object(
        "OpenAI's chat completion, with `hybrid`: the route and why, the draft, how far the models agree.",
        {
            "id": _TEXT,
            "created": _TIME,
            "model": _TEXT,
            "choices": _list(_CHOICE),
            "usage": _or_null(_ANY),
            "hybrid": ref("HybridAnswer"),
        },
        kind="chat.completion",
    ),
    "Response": _object(
        "OpenAI's response, with `hybrid`: the route and why, the draft, how far the models agree.",
        {
            "id": _TEXT,
            "created_at": _TIME,
            "status": _STATE,
            "background": _FLAG,
            "error": _or_null(_ANY),
            "incomplete_details": _or_null(_ANY),
            "model": _TEXT,
            "output": _list(_ANY),
            "previous_response_id": _or_null(_TEXT),
            "metadata": _ANY,
            "usage": _or_null(_ANY),
            "hybrid": ref("HybridAnswer"),
        },
        kind="response",
    ),
    "Message": _object(
        "Anthropic's message, with `hybrid`: the route and why, the draft, how far the models agree.",
        {
            "id": _TEXT,
            "type": {"type": "string", "enum": ["message"]},
            "role": _TEXT,
            "model": _TEXT,
            "content": {**_list(_ANY), "description": "`text`; before it `thinking`, the draft, if it was asked for"},
            "stop_reason": _or_null({**_TEXT, "description": "`end_turn`, `max_tokens`, `refusal`"}),
            "stop_sequence": _or_null(_TEXT),
            "usage": _ANY,
            "hybrid": ref("HybridAnswer"),
        },
    ),
    "Compaction": _object(
        "A shorter conversation: send `output` as the beginning of the next `input`.",
        {"id": _TEXT, "created_at": _TIME, "output": _list(_ANY), "usage": _ANY},
        kind="response.compaction",
    ),
    "InputTokens": _object(
        "How many tokens the engine of the final answer would read.",
        {"input_tokens": _COUNT, "hybrid": ref("Counted")},
        kind="response.input_tokens",
    ),
    "MessageTokens": _object(
        "How many tokens the engine of the final answer would read.",
        {"input_tokens": _COUNT, "hybrid": ref("Counted")},
    ),
    "Counted": _object(
        "Where the request would go, and what each engine would read.",
        {
            "route": {"type": "string", "enum": ["fast", "deep"]},
            "engine": _TEXT,
            "rule": _TEXT,
            "input_tokens": {"type": "object", "additionalProperties": _COUNT, "description": "by engine"},
            "is_exact": {**_FLAG, "description": "false: estimated, as the engine could not be asked"},
        },
    ),
    "Deleted": _object("What was deleted.", {"id": _TEXT, "object": _TEXT, "deleted": _FLAG}),
    "InputItems": _page("InputItem"),
    "InputItem": _object(
        "One message of the input, a function's call or its result.",
        {
            "id": _TEXT,
            "type": _TEXT,
            "role": _TEXT,
            "content": _list(_ANY),
            "call_id": _TEXT,
            "name": _TEXT,
            "arguments": _TEXT,
            "output": _list(_ANY),
        },
        optional=("role", "content", "call_id", "name", "arguments", "output"),
    ),
    "ResponseList": _page("Response"),
    "Job": _object(
        "A job as operators see it: its record, with every unit of work.",
        {
            "id": _TEXT,
            "status": _STATE,
            "created_at": _NUMBER,
            "started_at": _or_null(_NUMBER),
            "completed_at": _or_null(_NUMBER),
            "decision": {**_ANY, "description": "the route, its rule and reasons"},
            "merge": _TEXT,
            "batch_id": _or_null(_TEXT),
            "units": _list(_ANY),
            "final": _or_null(_ANY),
            "failure": _or_null(_ANY),
        },
        kind="job",
    ),
    "JobSummary": _object(
        "A job as lists have it.",
        {
            "id": _TEXT,
            "status": _STATE,
            "created_at": _NUMBER,
            "model": _TEXT,
            "route": _TEXT,
            "engines": _list(_TEXT),
            "question": _TEXT,
            "num_images": _COUNT,
            "metadata": _ANY,
            "previous_response_id": _or_null(_TEXT),
            "queue": {**_or_null(ref("QueuePlace")), "description": "of one that has not ended"},
            "units": _list(_ANY),
            "failures": _COUNT,
            "failure": _or_null(_ANY),
        },
        kind="job",
    ),
    "JobList": _page("JobSummary"),
    "File": _object(
        "OpenAI's file.",
        {"id": _TEXT, "bytes": _COUNT, "created_at": _TIME, "expires_at": _TIME, "filename": _TEXT, "purpose": _TEXT},
        kind="file",
    ),
    "FileList": _page("File"),
    "Batch": _object(
        "OpenAI's batch.",
        {
            "id": _TEXT,
            "endpoint": _TEXT,
            "input_file_id": _TEXT,
            "completion_window": _TEXT,
            "status": {"type": "string", "enum": list(_BATCH_STATES)},
            "errors": _or_null(_ANY),
            "output_file_id": _or_null(_TEXT),
            "error_file_id": _or_null(_TEXT),
            "created_at": _TIME,
            **{name: _or_null(_TIME) for name in _BATCH_TIMES},
            "request_counts": _object("Of its lines.", {"total": _COUNT, "completed": _COUNT, "failed": _COUNT}),
            "metadata": _ANY,
        },
        kind="batch",
    ),
    "BatchList": _page("Batch"),
    "Model": _object(
        "What may be written as `model`.",
        {"id": _TEXT, "created": _TIME, "owned_by": _TEXT, "hybrid": _ANY},
        kind="model",
    ),
    "ModelList": _whole_list(ref("Model")),
    "Template": _object(
        "A JSON Schema that is shipped.",
        {"id": _TEXT, "title": _TEXT, "description": _TEXT, "schema": _ANY},
        kind="template",
    ),
    "TemplateList": _whole_list(ref("Template")),
    "Route": _object(
        "Where a request would go, and why.",
        {
            "route": {"type": "string", "enum": ["fast", "deep"]},
            "engine": _TEXT,
            "rule": _TEXT,
            "reasons": _list(_ANY),
            "health": {**_ANY, "description": "what was known of the engines: up, and how old their queues are"},
            "features": {**_ANY, "description": "what was measured of the question"},
            "explanation": {"description": "the same in words"},
        },
        kind="route",
    ),
    "PresetList": _whole_list(
        _object("A set of rules.", {"id": _TEXT, "rules": _list(_TEXT), "is_active": _FLAG}, kind="preset")
    ),
    "EventTypeList": _whole_list(_TEXT),
    "WebhookEndpoint": _object("A receiver of events.", _ENDPOINT, kind="webhook_endpoint"),
    "NewWebhookEndpoint": _object(
        "A receiver of events, with the secret that is shown once.",
        {**_ENDPOINT, "signing_secret": _TEXT},
        kind="webhook_endpoint",
    ),
    "WebhookEndpointList": _page("WebhookEndpoint"),
    "WebhookTest": _object(
        "What a receiver answered: `status_code`. `success` is always true, as in OpenAI's API.",
        {"webhook_endpoint_id": _TEXT, "event_type": _TEXT, "status_code": _COUNT, "success": _FLAG},
        kind="webhook_endpoint.test",
    ),
    "WebhookDelivery": _object(
        "An event to one receiver, with every attempt.",
        {
            "id": _TEXT,
            "webhook_endpoint_id": _or_null(_TEXT),
            "url": _or_null(_TEXT),
            "event_id": _TEXT,
            "event_type": _TEXT,
            "status": _TEXT,
            "failure": _or_null(_TEXT),
            "num_attempts": _COUNT,
            "created_at": _TIME,
            "next_attempt_at": _or_null(_TIME),
            "expires_at": _TIME,
            "attempts": _list(_ANY),
        },
        kind="webhook_delivery",
    ),
    "WebhookDeliveryList": _page("WebhookDelivery"),
    "WebhookSecret": _object(
        "The secret that signs events to URLs named in requests.",
        {"signing_secret": _TEXT, "source": {"type": "string", "enum": ["settings", "generated"]}},
        kind="webhook_secret",
    ),
    "Feedback": _object(
        "What somebody thinks of an answer, as it is kept: redacted.",
        {
            "response_id": _TEXT,
            "rating": _or_null({"type": "string", "enum": ["up", "down"]}),
            "correction": {"description": "the right answer: a text or JSON; null if none was given"},
            "fields": _ANY,
            "comment": _TEXT,
            "created_at": _TIME,
        },
        kind="response.feedback",
    ),
    "ReviewItem": _object(
        "A kept answer of which nobody has said what is right.",
        {
            "id": _TEXT,
            "created_at": _TIME,
            "reasons": {"type": "array", "items": {"type": "string", "enum": ["corrected", "down", "conflict", "low"]}},
            "question": _TEXT,
            "answer": {"type": "string", "description": "what the caller got"},
            "answers": {"type": "object", "description": "each model's own, as `glm` and `owl2`; null if it gave none"},
            "model": _TEXT,
            "agreement": _or_null({"type": "number"}),
            "conflicts": {"type": "array", "items": _ANY},
            "rating": _or_null({"type": "string", "enum": ["down"]}),
            "pictures": {"type": "array", "items": _ANY},
        },
        kind="review.item",
    ),
    "ReviewList": _page("ReviewItem"),
    "InferenceAnswer": {
        "allOf": [
            ref("ChatCompletion"),
            _object("The bare text, where clients of this shape look for it.", {"response": _TEXT, "result": _TEXT}),
        ]
    },
}
# Of an answer with status 200, by path and method.
ANSWERS: Final[dict[tuple[str, str], str]] = {
    ("/v1/chat/completions", "post"): "ChatCompletion",
    ("/v1/messages", "post"): "Message",
    ("/v1/responses", "post"): "Response",
    ("/v1/messages/count_tokens", "post"): "MessageTokens",
    ("/v1/responses/compact", "post"): "Compaction",
    ("/v1/responses/input_tokens", "post"): "InputTokens",
    ("/v1/responses", "get"): "ResponseList",
    ("/v1/responses/{response_id}", "get"): "Response",
    ("/v1/responses/{response_id}", "post"): "Response",
    ("/v1/responses/{response_id}", "delete"): "Deleted",
    ("/v1/responses/{response_id}/cancel", "post"): "Response",
    ("/v1/responses/{response_id}/input_items", "get"): "InputItems",
    ("/v1/responses/{response_id}/feedback", "post"): "Feedback",
    ("/v1/responses/{response_id}/feedback", "get"): "Feedback",
    ("/v1/review", "get"): "ReviewList",
    ("/v1/jobs", "get"): "JobList",
    ("/v1/jobs/{job_id}", "get"): "Job",
    ("/v1/jobs/{job_id}/retry", "post"): "Job",
    ("/v1/files", "post"): "File",
    ("/v1/files", "get"): "FileList",
    ("/v1/files/{file_id}", "get"): "File",
    ("/v1/files/{file_id}", "delete"): "Deleted",
    ("/v1/batches", "post"): "Batch",
    ("/v1/batches", "get"): "BatchList",
    ("/v1/batches/{batch_id}", "get"): "Batch",
    ("/v1/batches/{batch_id}/cancel", "post"): "Batch",
    ("/api/v1/inference", "post"): "InferenceAnswer",
    ("/v1/vision/completion", "post"): "ChatCompletion",
    ("/v1/models", "get"): "ModelList",
    ("/v1/models/{model}", "get"): "Model",
    ("/v1/templates", "get"): "TemplateList",
    ("/v1/route", "post"): "Route",
    ("/v1/presets", "get"): "PresetList",
    ("/v1/webhook_event_types", "get"): "EventTypeList",
    ("/v1/webhook_endpoints", "post"): "NewWebhookEndpoint",
    ("/v1/webhook_endpoints", "get"): "WebhookEndpointList",
    ("/v1/webhook_endpoints/{endpoint_id}", "get"): "WebhookEndpoint",
    ("/v1/webhook_endpoints/{endpoint_id}", "post"): "WebhookEndpoint",
    ("/v1/webhook_endpoints/{endpoint_id}", "delete"): "Deleted",
    ("/v1/webhook_endpoints/{endpoint_id}/rotate_secret", "post"): "NewWebhookEndpoint",
    ("/v1/webhook_endpoints/{endpoint_id}/test", "post"): "WebhookTest",
    ("/v1/webhook_endpoints/{endpoint_id}/deliveries", "get"): "WebhookDeliveryList",
    ("/v1/webhook_deliveries", "get"): "WebhookDeliveryList",
    ("/v1/webhook_deliveries/{delivery_id}", "get"): "WebhookDelivery",
    ("/v1/webhook_deliveries/{delivery_id}/redeliver", "post"): "WebhookDelivery",
    ("/v1/webhook_secret", "post"): "WebhookSecret",
    ("/v1/webhook_secret/rotate", "post"): "WebhookSecret",
}
# Those that can be streams.
STREAMS: Final = (
    ("/v1/chat/completions", "post"),
    ("/v1/messages", "post"),
    ("/v1/responses", "post"),
    ("/v1/responses/{response_id}", "get"),
)
