"""Who may do what: each route of the OpenAPI page without key, with a wrong one, with too few scopes, as a stranger."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import redis
from redis.asyncio import Redis

from router.app import create_app
from router.auth.admin import create_key, create_owner, revoke_key, rotate_key
from router.auth.caller import SCOPES, Scope
from router.auth.key_text import new_key
from router.auth.store import OwnerStore
from router.settings import Settings
from tests.support.exchanges import make_picture
from tests.support.servers import AppServer, RedisProcess, wait_until

# Every route, and what a key needs for it. A new route needs a row here.
ROUTES: dict[str, Scope] = {
    "POST /v1/chat/completions": "ask",
    "POST /v1/messages": "ask",
    "POST /v1/messages/count_tokens": "ask",
    "POST /v1/responses/input_tokens": "ask",
    "POST /v1/responses/compact": "ask",
    "POST /v1/responses": "ask",
    "GET /v1/responses": "ask",
    "GET /v1/responses/{response_id}": "ask",
    "POST /v1/responses/{response_id}": "ask",
    "DELETE /v1/responses/{response_id}": "ask",
    "POST /v1/responses/{response_id}/cancel": "ask",
    "GET /v1/responses/{response_id}/input_items": "ask",
    "POST /v1/responses/{response_id}/feedback": "ask",
    "GET /v1/responses/{response_id}/feedback": "ask",
    "GET /v1/review": "ask",
    "GET /v1/review/{response_id}/pictures/{sha256}": "ask",
    "GET /v1/jobs": "jobs",
    "GET /v1/jobs/{job_id}": "jobs",
    "POST /v1/jobs/{job_id}/retry": "jobs",
    "POST /v1/files": "files",
    "GET /v1/files": "files",
    "GET /v1/files/{file_id}": "files",
    "DELETE /v1/files/{file_id}": "files",
    "GET /v1/files/{file_id}/content": "files",
    "POST /v1/batches": "jobs",
    "GET /v1/batches": "jobs",
    "GET /v1/batches/{batch_id}": "jobs",
    "POST /v1/batches/{batch_id}/cancel": "jobs",
    "POST /api/v1/inference": "ask",
    "POST /v1/vision/completion": "ask",
    "GET /v1/models": "ask",
    "GET /v1/models/{model}": "ask",
    "GET /v1/templates": "ask",
    "GET /v1/presets": "ask",
    "POST /v1/route": "ask",
    "GET /metrics": "admin",
    "GET /v1/webhook_event_types": "jobs",
    "POST /v1/webhook_endpoints": "admin",
    "GET /v1/webhook_endpoints": "jobs",
    "GET /v1/webhook_endpoints/{endpoint_id}": "jobs",
    "POST /v1/webhook_endpoints/{endpoint_id}": "admin",
    "DELETE /v1/webhook_endpoints/{endpoint_id}": "admin",
    "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": "admin",
    "POST /v1/webhook_endpoints/{endpoint_id}/test": "jobs",
    "GET /v1/webhook_endpoints/{endpoint_id}/deliveries": "jobs",
    "GET /v1/webhook_deliveries": "jobs",
    "GET /v1/webhook_deliveries/{delivery_id}": "jobs",
    "POST /v1/webhook_deliveries/{delivery_id}/redeliver": "jobs",
    "POST /v1/webhook_secret": "admin",
    "POST /v1/webhook_secret/rotate": "admin",
}
# What everybody may see: how to ask, and whether it would be answered.
OPEN = {"/openapi.json", "/docs", "/api/docs", "/healthz", "/readyz"}
# Bodies that are right, so that nothing but the id is wrong.
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/responses/{response_id}": {"metadata": {"title": "mine"}},
    "POST /v1/responses/{response_id}/feedback": {"rating": "up"},
    "POST /v1/webhook_endpoints/{endpoint_id}": {"name": "mine"},
    "POST /v1/webhook_endpoints/{endpoint_id}/test": {"event_type": "response.completed"},
}
EACH = pytest.mark.parametrize("route", ROUTES)


@dataclass
class Service:
    """An api with two owners, and what the first of them has stored."""

    server: AppServer
    redis_url: str
    http: httpx.Client
    keys: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def ask(self, route: str, key: str = "", ids: dict[str, str] | None = None) -> httpx.Response:
        method, path = route.split(" ")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        known = self.ids if ids is None else ids
        options = {} if method == "GET" else {"json": BODIES.get(route, {})}
        return self.http.request(method, path.format_map(known), headers=headers, **options)

    def change(self, make: Any) -> Any:
        async def once() -> Any:
            async with Redis.from_url(self.redis_url) as redis:
                return await OwnerStore(redis).change(make)

        return asyncio.run(once())

    def make_key(self, owner: str, **options: Any) -> str:
        return self.known(self.change(lambda all_: create_key(all_, time.time(), owner, **options)).text)

    def known(self, key: str) -> str:
        """Wait until the api knows a key: it hears of changes a moment after they are made."""
        wait_until(lambda: self.ask("GET /v1/models", key).status_code != 401, "the api to know the key")
        return key


@pytest.fixture(scope="module")
def service(
    echo_urls: dict[str, str], redis_process: RedisProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    url = redis_process.url.replace("db=0", "db=3")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    settings = Settings(
        REDIS_URL=url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        allow_private_urls=True,
        data_dir=tmp_path_factory.mktemp("data"),
    )
    server = AppServer(create_app(settings))
    service = Service(server, url, httpx.Client(base_url=server.url, trust_env=False, timeout=300))
    for name in ("alice", "bob"):
        service.change(
            lambda all_, name=name: create_owner(all_, time.time(), name, scopes=SCOPES, captures="pictures")
        )
        service.keys[name] = service.make_key(name)
    for scope in SCOPES:
        rest = SCOPES - {scope}
        service.keys[f"all but {scope}"] = service.make_key("alice", scopes=rest)
    wait_until(lambda: service.ask("GET /v1/models").status_code == 401, "the api to hear of the owners")
    service.ids = store_things(service)
    yield service
    service.http.close()
    server.stop()


def to_input_image(data: bytes) -> dict[str, Any]:
    return {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}


def store_things(service: Service) -> dict[str, str]:
    """Let Alice have one of everything; returns the ids by the names that paths give them."""
    headers = {"authorization": f"Bearer {service.keys['alice']}"}
    with httpx.Client(base_url=service.server.url + "/v1", headers=headers, trust_env=False, timeout=300) as http:
        hook = {"name": "a", "url": "http://127.0.0.1:9/hook", "event_types": ["response.cancelled"]}
        endpoint_id = http.post("/webhook_endpoints", json=hook).json()["id"]
        picture = make_picture()
        content = [to_input_image(picture.data), {"type": "input_text", "text": "你好"}]
        asked = [{"role": "user", "content": content}]
        question = {"model": "glowl", "input": asked, "background": True, "hybrid": {"route": "deep"}}
        response_id = http.post("/responses", json=question).json()["id"]
        http.post(f"/responses/{response_id}/cancel")
        http.post(f"/responses/{response_id}/feedback", json={"rating": "up"})
        path = f"/review/{response_id}/pictures/{picture.sha256}"
        wait_until(lambda: http.get(path).status_code == 200, "the answer to be kept")
        line = {"custom_id": "1", "method": "POST", "url": "/v1/responses", "body": {"model": "glowl", "input": "hi"}}
        file = {"file": ("a.jsonl", json.dumps(line).encode())}
        file_id = http.post("/files", data={"purpose": "batch"}, files=file).json()["id"]
        batch = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h"}
        batch_id = http.post("/batches", json=batch).json()["id"]
        delivery_id = http.get("/webhook_deliveries").json()["data"][0]["id"]
    ids = {"response_id": response_id, "job_id": response_id, "file_id": file_id, "batch_id": batch_id}
    return {**ids, "endpoint_id": endpoint_id, "delivery_id": delivery_id, "sha256": picture.sha256, "model": "glowl"}


def test_every_route_has_its_row(service: Service) -> None:
    page = service.ask("GET /openapi.json").json()
    described = {f"{method.upper()} {path}" for path, each in page["paths"].items() for method in each}
    assert described == set(ROUTES)
    # What is not on the page is open to everybody, on purpose.
    paths = {path for route in service.server._app.routes if (path := getattr(route, "path", "")).startswith("/")}
    undescribed = {path.replace(":path", "") for path in paths} - set(page["paths"])
    assert {path for path in undescribed if not path.startswith(("/static", "/docs/"))} <= OPEN


@EACH
def test_without_a_key_or_with_a_wrong_one_a_route_is_closed(service: Service, route: str) -> None:
    for key in ("", new_key(), service.keys["alice"][:-1], "made-up"):
        refused = service.ask(route, key)
        assert refused.status_code == 401, (key, refused.text)
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert not key or key not in refused.text


@EACH
def test_a_key_needs_the_scope_of_a_route_and_no_other(service: Service, route: str) -> None:
    scope = ROUTES[route]
    refused = service.ask(route, service.keys[f"all but {scope}"])
    assert refused.status_code == 403
    error = refused.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("insufficient_scope", "permission_error", None)
    assert f"'{scope}'" in error["message"]

    nothing = dict.fromkeys(service.ids, "none")
    for other in sorted(SCOPES - {scope}):
        assert service.ask(route, service.keys[f"all but {other}"], nothing).status_code not in (401, 403)


@pytest.mark.parametrize("route", [route for route in ROUTES if "{" in route and "{model}" not in route])
def test_what_is_somebody_elses_is_not_there(service: Service, route: str) -> None:
    foreign = service.ask(route, service.keys["bob"])
    missing = service.ask(route, service.keys["bob"], {name: value[:-3] + "000" for name, value in service.ids.items()})
    assert foreign.status_code == missing.status_code == 404, foreign.text
    assert foreign.json()["error"]["code"] == missing.json()["error"]["code"]


@pytest.mark.parametrize("route", [route for route in ROUTES if route.startswith("GET") and "{" not in route])
def test_lists_hold_ones_own_only(service: Service, route: str) -> None:
    answer = service.ask(route, service.keys["bob"])
    assert answer.status_code == 200
    for name, value in service.ids.items():
        assert name == "model" or value not in answer.text


def test_a_rotated_key_keeps_jobs_files_and_webhooks(service: Service) -> None:
    alice = service.keys["alice"]
    new = service.known(service.change(lambda all_: rotate_key(all_, time.time(), alice, overlap_s=3600)).text)
    for key in (new, alice):
        for route in ROUTES:
            if route.startswith("GET"):
                assert service.ask(route, key).status_code == 200, route


def test_a_revoked_key_is_refused_and_a_stream_under_way_goes_on(service: Service, echoes: dict[str, Any]) -> None:
    key = service.make_key("alice")
    echoes["glm"].delta_delay_s = 0.05
    question = [{"role": "user", "content": "one two three four five six"}]
    body = {"model": "glowl", "stream": True, "messages": question, "hybrid": {"route": "fast"}}
    headers = {"authorization": f"Bearer {key}"}
    with service.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        service.change(lambda all_: revoke_key(all_, time.time(), key))
        wait_until(lambda: service.ask("GET /v1/models", key).status_code == 401, "the key to be refused")
        rest = list(lines)
    assert first.startswith("data: ")
    assert "data: [DONE]" in rest


def test_what_an_owner_stores_is_kept_no_longer_than_it_wants(service: Service) -> None:
    # Given an owner who wants nothing to be kept for more than an hour
    service.change(lambda all_: create_owner(all_, time.time(), "carol", retention_s=3600))
    key = service.make_key("carol")
    headers = {"authorization": f"Bearer {key}"}

    # When it stores one of everything and asks for a day
    question = {"model": "glowl", "input": "你好"}
    job = service.http.post("/v1/responses", json={**question, "background": True}, headers=headers).json()
    answer = {"custom_id": "1", "method": "POST", "url": "/v1/responses", "body": question}
    file = service.http.post(
        "/v1/files",
        data={"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "86400"},
        files={"file": ("a.jsonl", json.dumps(answer).encode())},
        headers=headers,
    ).json()
    wanted = {"output_expires_after": {"anchor": "created_at", "seconds": 86400}, "completion_window": "24h"}
    batch = service.http.post(
        "/v1/batches", json={"input_file_id": file["id"], "endpoint": "/v1/responses", **wanted}, headers=headers
    ).json()

    # Then all of it goes within the hour
    assert file["expires_at"] - file["created_at"] == 3600
    with redis.Redis.from_url(service.redis_url) as client:
        assert client.hget(f"glowl:job:{job['id']}", "ttl") == b"3600"
        assert client.hmget(f"glowl:batch:{batch['id']}", ["ttl", "output_ttl"]) == [b"3600", b"3600"]


def test_a_page_elsewhere_may_ask_with_a_key(service: Service) -> None:
    # With owners, foreign hosts are no longer the guard.
    headers = {"host": "glowl.example.com", "authorization": f"Bearer {service.keys['alice']}"}
    assert service.http.get("/v1/models", headers=headers).status_code == 200
