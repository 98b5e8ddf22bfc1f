"""``/v1/webhook_endpoints`` and what became of each delivery: register, rotate, test, look, send again.

In: endpoint settings and ids. Out: the objects OpenAI clients know, and ``webhook_delivery`` objects of our own. A
signing secret leaves only in the answer to the POST that made it, or that asks for it by name.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal, NoReturn

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from engines.json_text import dump_line
from router.api import texts
from router.api.checks import check_webhook_url
from router.api.errors import json_response, wants_chinese
from router.api.intake import owner, parse, services_of
from router.api.paging import Limit, to_page
from router.api.schemas import ClosedModel, Items
from router.errors import BadRequestError, NotFoundError, QueueUnavailableError
from router.fetch import FetchError, UrlRefusedError, fetching_for
from router.jobs.queue import WEBHOOKS
from router.services import Services
from router.webhooks.records import EVENT_TYPES, MAX_ENDPOINTS, Attempt, Delivery, Endpoint, new_endpoint_id
from router.webhooks.signing import mask, to_headers
from router.webhooks.store import make_event

routes = APIRouter(tags=["webhooks"])

Json = dict[str, Any]


def _check_type(event_type: str) -> str:
    if event_type not in EVENT_TYPES:
        raise PydanticCustomError("unknown_event", "choose from {accepted}", {"accepted": ", ".join(EVENT_TYPES)})
    return event_type


EventType = Annotated[str, AfterValidator(_check_type)]
EventTypes = Annotated[Items[EventType], Field(min_length=1, max_length=64)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class EndpointCreate(ClosedModel):
    """``POST /v1/webhook_endpoints``."""

    name: Name
    url: str = Field(description="http(s) URL that events are posted to")
    event_types: EventTypes


class EndpointUpdate(ClosedModel):
    """``POST /v1/webhook_endpoints/{id}``: what is left out stays as it is."""

    name: Name | None = None
    url: str | None = None
    event_types: EventTypes | None = None
    status: Literal["enabled", "disabled"] | None = Field(
        None, description="a receiver that answers 410 disables its endpoint; this enables it again"
    )


class SecretRotate(ClosedModel):
    """``POST /v1/webhook_endpoints/{id}/rotate_secret``."""

    keep_old_secret_active_for_24_hours: bool = False


class EndpointTest(ClosedModel):
    """``POST /v1/webhook_endpoints/{id}/test``."""

    event_type: EventType


@routes.get("/v1/webhook_event_types")
async def list_event_types(request: Request) -> Response:
    """List what endpoints may ask for."""
    owner(request, "jobs")
    return json_response({"object": "list", "data": list(EVENT_TYPES)})


@routes.post("/v1/webhook_endpoints")
async def create_endpoint(request: Request) -> Response:
    """Register an endpoint by `name`, `url` and `event_types`; its signing secret is shown in this answer only."""
    services, caller = services_of(request), owner(request, "admin")
    body = await parse(request, EndpointCreate)
    url = check_webhook_url(body.url, "url", services.settings)
    types = tuple(dict.fromkeys(body.event_types))
    endpoint_id = new_endpoint_id()
    try:
        created = await services.webhooks.create_endpoint(
            caller, name=body.name, url=url, event_types=types, endpoint_id=endpoint_id
        )
    except QueueUnavailableError as error:
        services.dispatcher.take_back(error, lambda: services.webhooks.delete_endpoint(caller, endpoint_id))
        raise
    if created is None:
        raise BadRequestError(
            texts.TOO_MANY_ENDPOINTS.fill(max_endpoints=MAX_ENDPOINTS), code="too_many_webhook_endpoints"
        )
    endpoint, secret = created
    return json_response({**to_endpoint(endpoint), "signing_secret": secret})


@routes.get("/v1/webhook_endpoints")
async def list_endpoints(request: Request, after: str = "", limit: Limit = 20) -> Response:
    """List endpoints, newest first."""
    services, caller = services_of(request), owner(request, "jobs")
    found, has_more = await services.webhooks.list_endpoints(caller, after=after, limit=limit)
    return json_response(to_page([to_endpoint(endpoint) for endpoint in found], has_more=has_more))


@routes.get("/v1/webhook_endpoints/{endpoint_id}")
async def get_endpoint(request: Request, endpoint_id: str) -> Response:
    """Describe an endpoint."""
    return json_response(to_endpoint(await _find(services_of(request), owner(request, "jobs"), endpoint_id)))


@routes.post("/v1/webhook_endpoints/{endpoint_id}")
async def update_endpoint(request: Request, endpoint_id: str) -> Response:
    """Change an endpoint's `name`, `url`, `event_types` or `status`; retries under way go by the new settings."""
    services, caller = services_of(request), owner(request, "admin")
    body = await parse(request, EndpointUpdate)
    changes: dict[str, str] = {}
    if body.name is not None:
        changes["name"] = body.name
    if body.url is not None:
        changes["url"] = check_webhook_url(body.url, "url", services.settings)
    if body.event_types is not None:
        changes["event_types"] = ",".join(dict.fromkeys(body.event_types))
    if body.status is not None:
        changes["status"] = body.status
    updated = await services.webhooks.update_endpoint(caller, endpoint_id, changes)
    return json_response(to_endpoint(updated or _missing(endpoint_id)))


@routes.delete("/v1/webhook_endpoints/{endpoint_id}")
async def delete_endpoint(request: Request, endpoint_id: str) -> Response:
    """Forget an endpoint; what was still to be sent to it is given up."""
    if not await services_of(request).webhooks.delete_endpoint(owner(request, "admin"), endpoint_id):
        _missing(endpoint_id)
    return json_response({"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})


@routes.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret")
async def rotate_secret(request: Request, endpoint_id: str) -> Response:
    """Make a new signing secret, shown in this answer only; for a day the old one may go on signing beside it."""
    services, caller = services_of(request), owner(request, "admin")
    keep_old = await _read_overlap(request)
    endpoint, secret = await services.webhooks.rotate_secret(caller, endpoint_id, keep_old=keep_old) or _missing(
        endpoint_id
    )
    return json_response({**to_endpoint(endpoint), "signing_secret": secret})


@routes.post("/v1/webhook_endpoints/{endpoint_id}/test")
async def test_endpoint(request: Request, endpoint_id: str) -> Response:
    """Post a signed sample event now, once, and say in `status_code` what the receiver answered."""
    services, caller = services_of(request), owner(request, "jobs")
    body = await parse(request, EndpointTest)
    endpoint = await _find(services, caller, endpoint_id)
    now = time.time()
    subject = f"{'batch' if body.event_type.startswith('batch.') else 'resp'}_{secrets.token_hex(16)}"
    # The id leads nowhere: receivers that would fetch it, or count it, can tell.
    event = {**make_event(body.event_type, {"id": subject}, now), "hybrid": {"test": True}}
    payload = dump_line(event)
    headers = to_headers(event["id"], int(now), payload, endpoint.signing_secrets(now))
    try:
        with fetching_for(caller):
            answer = await services.webhook_fetcher.post_json(endpoint.url, payload, headers)
    except FetchError as error:
        is_refused = isinstance(error, UrlRefusedError)
        why = texts.URL_NOT_POSTED_TO if is_refused else error.text
        raise BadRequestError(
            texts.TEST_FAILED.fill(why=why), code="webhook_unreachable", param="webhook_endpoint_id"
        ) from None
    return json_response(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint_id,
            "event_type": body.event_type,
            "status_code": answer.status,
            # As in OpenAI's API, where it is always true: an answer came, whatever it was.
            "success": True,
        }
    )


@routes.get("/v1/webhook_endpoints/{endpoint_id}/deliveries")
async def list_endpoint_deliveries(request: Request, endpoint_id: str, after: str = "", limit: Limit = 20) -> Response:
    """List what was, or is still to be, sent to an endpoint, newest first, with every attempt."""
    await _find(services_of(request), owner(request, "jobs"), endpoint_id)
    return await _list_deliveries(request, endpoint_id, after, limit)


@routes.get("/v1/webhook_deliveries")
async def list_deliveries(request: Request, after: str = "", limit: Limit = 20) -> Response:
    """List deliveries to endpoints and to URLs that requests named, newest first, with every attempt."""
    return await _list_deliveries(request, "", after, limit)


@routes.get("/v1/webhook_deliveries/{delivery_id}")
async def get_delivery(request: Request, delivery_id: str) -> Response:
    """Show a delivery and its attempts."""
    delivery = await services_of(request).webhooks.get_delivery(owner(request, "jobs"), delivery_id)
    if delivery is None:
        raise _no_delivery(delivery_id)
    return json_response(to_delivery(delivery, is_chinese=wants_chinese(request)))


@routes.post("/v1/webhook_deliveries/{delivery_id}/redeliver")
async def redeliver(request: Request, delivery_id: str) -> Response:
    """Send an event again, under the same id, with all its retries; whatever became of it before."""
    services, caller = services_of(request), owner(request, "jobs")
    was_begun = await services.webhooks.redeliver(caller, delivery_id)
    delivery = await services.webhooks.get_delivery(caller, delivery_id)
    if was_begun is None or delivery is None:
        raise _no_delivery(delivery_id)
    if not was_begun:
        raise BadRequestError(texts.ENDPOINT_DISABLED, code="webhook_endpoint_disabled", param="delivery_id")
    await services.queue.send_tickets({WEBHOOKS: 1})
    return json_response(to_delivery(delivery, is_chinese=wants_chinese(request)))


@routes.post("/v1/webhook_secret")
async def show_request_secret(request: Request) -> Response:
    """Show the secret that signs events to URLs named in requests; made now if there was none."""
    services, caller = services_of(request), owner(request, "admin")
    secret, *_ = await services.webhooks.request_secrets(caller)
    return json_response(_to_request_secret(services, secret))


@routes.post("/v1/webhook_secret/rotate")
async def rotate_request_secret(request: Request) -> Response:
    """Make a new secret for URLs named in requests; for a day the old one may go on signing beside it."""
    services, caller = services_of(request), owner(request, "admin")
    keep_old = await _read_overlap(request)
    if services.webhooks.has_configured_secret:
        raise BadRequestError(texts.SECRET_IS_SET, code="webhook_secret_configured")
    secret = await services.webhooks.rotate_request_secret(caller, keep_old=keep_old)
    return json_response(_to_request_secret(services, secret))


def to_endpoint(endpoint: Endpoint) -> Json:
    """Return an endpoint as OpenAI clients know it; ``status`` is our own."""
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "created_at": int(endpoint.created_at),
        "updated_at": int(endpoint.updated_at),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "signing_secret_hint": mask(endpoint.secret),
        "status": endpoint.status,
    }


def to_delivery(delivery: Delivery, *, is_chinese: bool = False) -> Json:
    """Return a delivery with its attempts, oldest first."""
    return {
        "id": delivery.id,
        "object": "webhook_delivery",
        "webhook_endpoint_id": delivery.endpoint_id or None,
        "url": delivery.url or None,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "status": delivery.state,
        "failure": delivery.failure or None,
        "num_attempts": delivery.num_attempts,
        "created_at": int(delivery.created_at),
        "next_attempt_at": None if delivery.next_attempt_at is None else int(delivery.next_attempt_at),
        "expires_at": int(delivery.expires_at),
        "attempts": [_to_attempt(attempt, is_chinese=is_chinese) for attempt in delivery.attempts],
    }


def _to_attempt(attempt: Attempt, *, is_chinese: bool) -> Json:
    return {
        "number": attempt.number,
        "started_at": attempt.started_at,
        "status_code": attempt.status_code,
        "duration_ms": attempt.duration_ms,
        "error": attempt.error_zh if is_chinese else attempt.error,
    }


def _to_request_secret(services: Services, secret: str) -> Json:
    source = "settings" if services.webhooks.has_configured_secret else "generated"
    return {"object": "webhook_secret", "signing_secret": secret, "source": source}


async def _read_overlap(request: Request) -> bool:
    # Every field may be left out, and then the whole body is.
    body = await parse(request, SecretRotate, if_empty=b"{}")
    return body.keep_old_secret_active_for_24_hours


async def _list_deliveries(request: Request, endpoint_id: str, after: str, limit: int) -> Response:
    services, caller = services_of(request), owner(request, "jobs")
    page = await services.webhooks.list_deliveries(caller, endpoint_id=endpoint_id, after=after, limit=limit)
    if page is None:
        raise _no_delivery(after, param="after")
    found, has_more = page
    is_chinese = wants_chinese(request)
    return json_response(to_page([to_delivery(each, is_chinese=is_chinese) for each in found], has_more=has_more))


async def _find(services: Services, caller: str, endpoint_id: str) -> Endpoint:
    return await services.webhooks.get_endpoint(caller, endpoint_id) or _missing(endpoint_id)


def _missing(endpoint_id: str) -> NoReturn:
    """Refuse an endpoint that is not there, or somebody else's.

    Raises:
        NotFoundError: always.
    """
    raise NotFoundError(
        texts.NO_ENDPOINT.fill(endpoint_id=endpoint_id), code="webhook_endpoint_not_found", param="webhook_endpoint_id"
    )


def _no_delivery(delivery_id: str, *, param: str = "delivery_id") -> NotFoundError:
    return NotFoundError(
        texts.NO_DELIVERY.fill(delivery_id=delivery_id), code="webhook_delivery_not_found", param=param
    )
