"""Models, presets, the decision alone, and health.

In: nothing much. Out: ``/v1/models``, ``/v1/presets``, ``/v1/route``, ``/healthz``, ``/readyz``.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import cache
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from engines.adapter_names import MODEL_NAMES, model_with
from policies.explain import explain
from policies.rules import Rules, load_preset, preset_names
from router.api import texts
from router.api.calls import to_call, to_stored_call
from router.api.errors import json_response, wants_chinese
from router.api.intake import owner, parse, services_of
from router.api.models import AUTO_MODEL, resolve_model
from router.api.schemas import RouteRequest
from router.errors import BadRequestError
from router.redis import RedisState
from router.services import Services
from router.templates import NAMES, template_schema

routes = APIRouter(tags=["system"])

_CREATED = 1764547200
_REDIS_PROBE_S = 0.7


@routes.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List what may be written as ``model``."""
    owner(request, "ask")
    return json_response({"object": "list", "data": _models(services_of(request))})


@routes.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> Response:
    """Describe one model."""
    owner(request, "ask")
    services = services_of(request)
    target = resolve_model(model, services.monitor)
    listed = {(entry["hybrid"]["engine"], entry["hybrid"]["adapter"]): entry for entry in _models(services)}
    return json_response(listed[target.engine, target.adapter or None])


@routes.get("/v1/templates")
async def list_templates(request: Request) -> Response:
    """List what may be written as ``hybrid.template``, with the JSON Schemas."""
    owner(request, "ask")
    language: Literal["en", "zh"] = "zh" if wants_chinese(request) else "en"
    data = [_template(name, language) for name in NAMES]
    return json_response({"object": "list", "data": data})


@routes.get("/v1/presets")
async def list_presets(request: Request) -> Response:
    """List the rules that may be written as `preset` in a request to `/v1/route`, with the names of their rules."""
    owner(request, "ask")
    in_use = services_of(request).settings.preset
    data = [
        {
            "id": name,
            "object": "preset",
            "rules": [rule.name for rule in _preset(name).rules],
            "is_active": name == in_use,
        }
        for name in preset_names()
    ]
    return json_response({"object": "list", "data": data})


@routes.post("/v1/route")
async def decide_only(request: Request) -> Response:
    """Say where a chat request would go, and why, without answering it."""
    services = services_of(request)
    caller = owner(request, "ask")
    body = await parse(request, RouteRequest)
    rules = _preset(body.preset) if body.preset is not None else None
    call = await (to_stored_call(body, caller, services) if body.response_id else to_call(body, caller, services))
    routed = services.dispatcher.route(call, rules)
    language: Literal["en", "zh"] = "zh" if wants_chinese(request) else "en"
    return json_response(
        {
            "object": "route",
            **routed.decision.to_dict(),
            "features": asdict(routed.features),
            "health": routed.health.to_dict(),
            "explanation": explain(routed.decision, routed.features, language, routed.health),
        }
    )


@routes.get("/healthz", include_in_schema=False)
async def healthz() -> Response:
    """Say that the process lives."""
    return json_response({"status": "ok"})


@routes.get("/readyz", include_in_schema=False)
async def readyz(request: Request) -> Response:
    """Say whether questions are answered: an engine is up, a required audit log is written. It names what is not."""
    services = services_of(request)
    engines = {name: services.monitor.is_up(name) for name in services.engines}
    redis = await _ask_redis(services)
    has_redis = redis == "up"
    body: dict[str, Any] = {
        "engines": {name: "up" if up else "down" for name, up in engines.items()},
        "redis": has_redis,
        "redis_state": redis,
    }
    queues = services.overload.status()
    if queues:
        body["queues"] = queues
    backends = services.monitor.backends()
    if backends:  # a dead server among several costs speed, not answers
        # By their place in the setting: addresses, and reasons that name them, are for the api's log.
        body["backends"] = {
            name: [
                {"server": number, "status": "up" if server.is_up else "down"}
                for number, server in enumerate(servers, start=1)
            ]
            for name, servers in backends.items()
        }
    if services.rules_file is not None and services.rules_file.error is not None:
        # The last good rules go on deciding; the operator finds here why the edited file is not used.
        body["rules_error"] = services.rules_file.error
    is_ready = engines.get("glm", False) or (has_redis and any(engines.values()))
    if services.audit is not None:
        is_failing = services.audit.is_failing
        body["audit"] = "failing" if is_failing else "up"
        is_ready = is_ready and not (is_failing and services.settings.audit == "required")
    if services.draining.is_set():
        return json_response({"status": "draining", **body}, 503)
    return json_response({"status": "ready" if is_ready else "not ready", **body}, 200 if is_ready else 503)


async def _ask_redis(services: Services) -> RedisState:
    """Ask, within the usual timeout of a probe; a redis that hangs is as good as none."""
    probe = asyncio.ensure_future(services.store.probe())
    # Not `wait_for`: redis' client may swallow a cancellation, or take its time over it.
    await asyncio.wait({probe}, timeout=_REDIS_PROBE_S)
    if probe.done():
        return probe.result()
    probe.cancel()
    return "away"


@cache
def _preset(name: str) -> Rules:
    """Load a preset that ships with the package, once.

    Raises:
        BadRequestError: if there is none of that name.
    """
    names = preset_names()
    if name not in names:
        known = ", ".join(names)
        raise BadRequestError(
            texts.UNKNOWN_PRESET.fill(name=name[:64], known=known), code="unsupported_value", param="preset"
        )
    return load_preset(name)


def _template(name: str, language: Literal["en", "zh"]) -> dict[str, Any]:
    schema = template_schema(name, language)
    return {
        "id": name,
        "object": "template",
        "title": schema["title"],
        "description": schema["description"],
        "schema": schema,
    }


def _models(services: Services) -> list[dict[str, Any]]:
    entries = [_entry(AUTO_MODEL, None, is_up=True)]
    for name, bare in MODEL_NAMES.items():
        info = services.monitor.info(name)
        is_up = services.monitor.is_up(name)
        revision = info.revision if info else ""
        entries.append(_entry(info.model_id if info else bare, name, is_up=is_up, revision=revision))
        if info is not None:
            entries += [
                _entry(
                    model_with(info.model_id, each), name, is_up=is_up, adapter=each, revision=info.revision_with(each)
                )
                for each in info.adapters
            ]
    return entries


def _entry(
    model: str, engine: str | None, *, is_up: bool, adapter: str | None = None, revision: str = ""
) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": _CREATED,
        "owned_by": "glowl",
        "hybrid": {
            "engine": engine,
            "adapter": adapter,
            "status": "up" if is_up else "down",
            "revision": revision or None,
        },
    }
