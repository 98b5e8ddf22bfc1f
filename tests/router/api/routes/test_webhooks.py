"""Webhook endpoints through the unmodified client and by hand: shapes, owners, secrets, tests, deliveries."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import openai
import orjson
import pytest
import redis
from openai.types.webhooks import ResponseFailedWebhookEvent

from router.app import create_app
from router.settings import Settings
from router.webhooks.records import EVENT_TYPES
from tests.support.servers import AppServer, RedisProcess, free_port, wait_until

URL = "https://hooks.example/here"
TYPES: Any = ["response.completed", "response.failed"]


class Receiver(BaseHTTPRequestHandler):
    """Answers every post with ``status``."""

    status = 204
    received: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((dict(self.headers.items()), body))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    handler = type("Handler", (Receiver,), {"received": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def open_api(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[AppServer]:
    """An api that may post to this machine, with two keys."""
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        api_keys=("alice", "bob"),
        allow_private_urls=True,
        webhook_timeout_s=2,
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()


def client_of(server: AppServer, key: str = "alice") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)


def http_of(server: AppServer, key: str = "alice", **headers: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}", **headers}
    return httpx.Client(base_url=server.url, headers=headers, timeout=300, trust_env=False)


@pytest.fixture
def alice(open_api: AppServer, redis_process: RedisProcess) -> Iterator[openai.OpenAI]:
    redis_process.flush()
    with client_of(open_api) as client:
        yield client


def test_the_unmodified_client_creates_reads_changes_and_deletes_an_endpoint(alice: openai.OpenAI) -> None:
    created = alice.webhooks.create(name="production", url=URL, event_types=TYPES)
    assert (created.object, created.name, created.url) == ("webhook_endpoint", "production", URL)
    assert created.event_types == TYPES
    assert created.updated_at == created.created_at
    assert 24 <= len(base64.b64decode(created.signing_secret.removeprefix("whsec_"), validate=True)) <= 64

    read = alice.webhooks.retrieve(created.id)
    assert read.signing_secret_hint == "whsec_..." + created.signing_secret[-4:]
    assert read.model_dump(exclude={"status"}) == created.model_dump(exclude={"signing_secret", "status"})

    changed = alice.webhooks.update(created.id, name="staging", event_types=["response.incomplete"])
    assert (changed.name, changed.url, changed.event_types) == ("staging", URL, ["response.incomplete"])

    gone = alice.webhooks.delete(created.id)
    assert (gone.id, gone.deleted, gone.object) == (created.id, True, "webhook_endpoint.deleted")
    with pytest.raises(openai.NotFoundError) as caught:
        alice.webhooks.retrieve(created.id)
    assert caught.value.code == "webhook_endpoint_not_found"


def test_the_unmodified_client_lists_newest_first_and_pages_by_itself(alice: openai.OpenAI) -> None:
    ids = [alice.webhooks.create(name=str(number), url=URL, event_types=TYPES).id for number in range(5)]
    page = alice.webhooks.list(limit=2)
    assert page.has_more is True
    assert sorted(each.id for each in page) == sorted(ids)
    assert [each.id for each in page.data] == sorted(ids, reverse=True)[:2]
    # Whoever deletes while reading still reaches the end.
    for each in alice.webhooks.list(limit=2):
        alice.webhooks.delete(each.id)
    assert alice.webhooks.list().data == []


def test_the_unmodified_client_lists_the_event_types(alice: openai.OpenAI) -> None:
    types = alice.webhooks.event_types.list()
    assert (types.object, types.data) == ("list", list(EVENT_TYPES))


def test_the_unmodified_client_rotates_a_secret_and_sees_both_sign(
    alice: openai.OpenAI, receiver: tuple[str, type[Receiver]]
) -> None:
    url, handler = receiver
    first = alice.webhooks.create(name="n", url=url, event_types=TYPES)
    second = alice.webhooks.rotate_secret(first.id, keep_old_secret_active_for_24_hours=True)
    assert second.signing_secret != first.signing_secret

    result = alice.webhooks.test(first.id, event_type="response.failed")

    assert (result.object, result.success, result.status_code) == ("webhook_endpoint.test", True, 204)
    assert (result.webhook_endpoint_id, result.event_type) == (first.id, "response.failed")
    [(headers, body)] = handler.received
    assert json.loads(body)["hybrid"] == {"test": True}
    for secret in (first.signing_secret, second.signing_secret):
        assert isinstance(alice.webhooks.unwrap(body, headers, secret=secret), ResponseFailedWebhookEvent)

    third = alice.webhooks.rotate_secret(first.id)  # without overlap: nothing else signs any more
    alice.webhooks.test(first.id, event_type="response.failed")
    headers, body = handler.received[-1]
    alice.webhooks.unwrap(body, headers, secret=third.signing_secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        alice.webhooks.unwrap(body, headers, secret=second.signing_secret)


def test_a_test_says_what_the_receiver_answered_even_if_it_is_an_error(
    alice: openai.OpenAI, receiver: tuple[str, type[Receiver]]
) -> None:
    url, handler = receiver
    handler.status = 500
    endpoint = alice.webhooks.create(name="n", url=url, event_types=TYPES)
    result = alice.webhooks.test(endpoint.id, event_type="response.completed")
    assert (result.success, result.status_code) == (True, 500)


def test_a_test_that_reaches_nobody_is_a_clear_refusal(alice: openai.OpenAI, open_api: AppServer) -> None:
    endpoint = alice.webhooks.create(name="n", url=f"http://127.0.0.1:{free_port()}/", event_types=TYPES)
    with pytest.raises(openai.BadRequestError) as caught:
        alice.webhooks.test(endpoint.id, event_type="response.completed")
    assert caught.value.code == "webhook_unreachable"
    assert "could not be reached" in caught.value.message
    with http_of(open_api, **{"accept-language": "zh"}) as http:
        refused = http.post(f"/v1/webhook_endpoints/{endpoint.id}/test", json={"event_type": "response.completed"})
    assert "无法连接" in refused.json()["error"]["message"]


def test_an_endpoint_belongs_to_the_key_that_made_it(alice: openai.OpenAI, open_api: AppServer) -> None:
    endpoint = alice.webhooks.create(name="n", url=URL, event_types=TYPES)
    with client_of(open_api, "bob") as bob:
        assert bob.webhooks.list().data == []
        for use in (
            lambda: bob.webhooks.retrieve(endpoint.id),
            lambda: bob.webhooks.update(endpoint.id, name="mine"),
            lambda: bob.webhooks.rotate_secret(endpoint.id),
            lambda: bob.webhooks.test(endpoint.id, event_type="response.completed"),
            lambda: bob.webhooks.delete(endpoint.id),
        ):
            with pytest.raises(openai.NotFoundError):
                use()
    assert alice.webhooks.retrieve(endpoint.id).name == "n"
    with client_of(open_api, "nobody") as nobody, pytest.raises(openai.AuthenticationError):
        nobody.webhooks.list()


def test_no_answer_to_a_get_holds_a_secret(
    alice: openai.OpenAI, open_api: AppServer, receiver: tuple[str, type[Receiver]]
) -> None:
    endpoint = alice.webhooks.create(name="n", url=receiver[0], event_types=TYPES)
    queue_event(open_api, alice)
    with http_of(open_api) as http:
        secret = http.post("/v1/webhook_secret").json()["signing_secret"]
        paths = ["", f"/{endpoint.id}", f"/{endpoint.id}/deliveries"]
        shown = [http.get(f"/v1/webhook_endpoints{path}").text for path in paths]
        shown.append(http.get("/v1/webhook_deliveries").text)
        shown.append(http.post(f"/v1/webhook_endpoints/{endpoint.id}", json={"name": "m"}).text)
    for text in shown:
        assert endpoint.signing_secret not in text
        assert secret not in text


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example/x",
        f"https://{'a.' * 126}com/x",
        "hooks.example/x",
        "https://",
        "https://user:pass@hooks.example/",
        "http://127.0.0.1:9/",
        "http://10.0.0.7/hook",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "http://localhost/hook",
        "https://hooks.example\\@evil.example/",
    ],
)
def test_a_url_that_is_not_posted_to_is_refused_at_once(http: httpx.Client, url: str) -> None:
    body = {"name": "n", "url": url, "event_types": TYPES}
    refused = http.post("/v1/webhook_endpoints", json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_url", "url")
    assert "public host" in error["message"]
    is_inner = any(host in url for host in ("127.0.0.1", "10.0.0.7", "::1", "169.254", "localhost"))
    assert ("GLOWL_ALLOW_PRIVATE_URLS" in error["message"]) is is_inner
    chinese = http.post("/v1/webhook_endpoints", json=body, headers={"accept-language": "zh-CN"})
    assert "公网" in chinese.json()["error"]["message"]

    named = {"model": "glowl", "input": "hello", "background": True, "metadata": {"webhook_url": url}}
    error = http.post("/v1/responses", json=named).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_url", "metadata.webhook_url")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"event_types": []}, "event_types"),
        ({"event_types": ["response.completed", "eval.run.failed"]}, "event_types[1]"),
        ({"event_types": None}, "event_types"),
        ({"name": ""}, "name"),
        ({"name": "n" * 257}, "name"),
        ({"url": 7}, "url"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_named(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    refused = http.post("/v1/webhook_endpoints", json={"name": "n", "url": URL, "event_types": TYPES, **change})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


@pytest.mark.parametrize("limit", ["0", "101", "x"])
def test_a_page_has_a_size_within_bounds(http: httpx.Client, limit: str) -> None:
    refused = http.get("/v1/webhook_endpoints", params={"limit": limit})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limit")


def queue_event(api: AppServer, client: openai.OpenAI, **metadata: str) -> str:
    """Start a job and cancel it: the quickest way to an event without a worker."""
    response = client.responses.create(model="glowl", input="hello", background=True, metadata=metadata)
    client.responses.cancel(response.id)
    return response.id


def test_what_is_answered_at_once_is_told_only_to_the_url_in_its_request(
    alice: openai.OpenAI, open_api: AppServer
) -> None:
    endpoint = alice.webhooks.create(name="n", url=URL, event_types=["response.completed"])
    with http_of(open_api) as http:
        before = http.get("/v1/webhook_deliveries").json()["data"]

        answered = alice.responses.create(model="glm-4.6v-flash", input="你好", metadata={"webhook_url": URL})

        assert (answered.status, answered.model_extra["hybrid"]["route"]) == ("completed", "fast")  # type: ignore[index]
        after = http.get("/v1/webhook_deliveries").json()["data"]
        assert [each["webhook_endpoint_id"] for each in after if each not in before] == [None]
        assert http.get(f"/v1/webhook_endpoints/{endpoint.id}/deliveries").json()["data"] == []


def test_deliveries_show_what_is_to_be_sent_where_and_can_be_sent_again(
    alice: openai.OpenAI, open_api: AppServer, redis_process: RedisProcess
) -> None:
    endpoint = alice.webhooks.create(name="n", url=URL, event_types=["response.cancelled"])
    queue_event(open_api, alice, webhook_url="https://own.example/")
    with http_of(open_api) as http:
        everything = http.get("/v1/webhook_deliveries").json()
        assert (everything["object"], everything["has_more"], len(everything["data"])) == ("list", False, 2)
        [delivery] = http.get(f"/v1/webhook_endpoints/{endpoint.id}/deliveries").json()["data"]
        assert delivery["object"] == "webhook_delivery"
        assert (delivery["status"], delivery["event_type"]) == ("pending", "response.cancelled")
        assert (delivery["webhook_endpoint_id"], delivery["url"]) == (endpoint.id, None)
        [other] = [each for each in everything["data"] if each["id"] != delivery["id"]]
        assert (other["webhook_endpoint_id"], other["url"]) == (None, "https://own.example/")
        assert other["event_id"] == delivery["event_id"]
        path = f"/v1/webhook_deliveries/{delivery['id']}"
        assert http.get(path).json() == delivery

        # Given up, and then sent again, it is due at once.
        with redis.Redis.from_url(redis_process.url) as client:
            client.hset(f"glowl:delivery:{delivery['id']}", mapping={"state": "failed", "next_at": ""})
        assert http.get(path).json()["next_attempt_at"] is None
        again = http.post(f"{path}/redeliver").json()
        assert (again["status"], again["id"]) == ("pending", delivery["id"])
        assert again["next_attempt_at"] <= time.time() + 1

        http.post(f"/v1/webhook_endpoints/{endpoint.id}", json={"status": "disabled"})
        refused = http.post(f"{path}/redeliver")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "webhook_endpoint_disabled")
    with http_of(open_api, "bob") as http:
        assert http.get("/v1/webhook_deliveries").json()["data"] == []
        for call in (http.get(path), http.post(f"{path}/redeliver"), http.get("/v1/webhook_deliveries?after=whd_1")):
            assert (call.status_code, call.json()["error"]["code"]) == (404, "webhook_delivery_not_found")


def test_the_sweeper_sends_what_a_cancelled_job_left_to_be_told(
    alice: openai.OpenAI, open_api: AppServer, redis_process: RedisProcess
) -> None:
    queue_event(open_api, alice, webhook_url="https://own.example/")
    with redis.Redis.from_url(redis_process.url) as client:

        def message() -> Any:
            return [orjson.loads(each) for each in client.lrange("glowl:celery:glowl.webhooks", 0, -1)]

        [sent] = wait_until(message, "a ticket")
    assert orjson.loads(base64.b64decode(sent["body"]))[0] == ["webhooks"]


def test_each_key_has_its_own_secret_for_urls_in_requests_and_can_change_it(
    alice: openai.OpenAI, open_api: AppServer
) -> None:
    with http_of(open_api) as http, http_of(open_api, "bob") as bob:
        first = http.post("/v1/webhook_secret").json()
        assert (first["object"], first["source"]) == ("webhook_secret", "generated")
        assert http.post("/v1/webhook_secret").json() == first
        assert bob.post("/v1/webhook_secret").json()["signing_secret"] != first["signing_secret"]
        changed = http.post("/v1/webhook_secret/rotate", json={"keep_old_secret_active_for_24_hours": True}).json()
        assert changed["signing_secret"] != first["signing_secret"]
        assert http.post("/v1/webhook_secret").json() == changed
        assert http.get("/v1/webhook_secret").status_code == 405


def test_a_secret_from_the_settings_is_shown_and_changed_there_only(redis_process: RedisProcess) -> None:
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    server = AppServer(create_app(Settings(REDIS_URL=redis_process.url, webhook_secret=secret)))
    with http_of(server) as http:
        assert http.post("/v1/webhook_secret").json() == {
            "object": "webhook_secret",
            "signing_secret": secret,
            "source": "settings",
        }
        refused = http.post("/v1/webhook_secret/rotate")
    server.stop()
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "webhook_secret_configured")


def test_the_docs_page_describes_every_body(http: httpx.Client) -> None:
    page = http.get("/openapi.json").json()
    for path, schema in (
        ("/v1/webhook_endpoints", "EndpointCreate"),
        ("/v1/webhook_endpoints/{endpoint_id}", "EndpointUpdate"),
        ("/v1/webhook_endpoints/{endpoint_id}/rotate_secret", "SecretRotate"),
        ("/v1/webhook_endpoints/{endpoint_id}/test", "EndpointTest"),
        ("/v1/webhook_secret/rotate", "SecretRotate"),
    ):
        content = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(schema)
        assert schema in page["components"]["schemas"]
