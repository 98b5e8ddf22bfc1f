"""`glowl webhooks` against a small fake of the public API: what it sends, what it prints, how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from typer.testing import CliRunner, Result

from router.cli.main import app
from router.cli.net import free_port
from router.cli.webhooks import DEFAULT_EVENTS
from router.webhooks.records import EVENT_TYPES

SECRET = "whsec_c2VjcmV0"
ENDPOINT = {
    "id": "whe_1",
    "name": "production",
    "url": "https://hooks.example/",
    "event_types": ["response.completed"],
    "signing_secret_hint": "whsec_...abcd",
    "status": "enabled",
}
ATTEMPT = {"number": 1, "started_at": 1.5, "status_code": 500, "duration_ms": 7, "error": "the receiver answered 500"}
DELIVERY = {
    "id": "whd_1",
    "status": "pending",
    "event_type": "response.completed",
    "event_id": "evt_1",
    "webhook_endpoint_id": None,
    "url": "https://own.example/",
    "failure": None,
    "next_attempt_at": 60,
    "attempts": [ATTEMPT],
}


class FakeApi:
    """Answers from ``answers`` by method and path; what it was asked is in ``asked``."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                fake.headers = {key.lower(): value for key, value in self.headers.items()}
                asked = f"{self.command} {self.path}"
                fake.asked.append((asked, orjson.loads(body) if body else None))
                status, answer = fake.answers[f"{self.command} {urlsplit(self.path).path}"]
                data = orjson.dumps(answer.pop(0) if isinstance(answer, list) else answer)
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_DELETE(self) -> None:
                self.answer()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    thread = threading.Thread(target=fake.server.serve_forever, daemon=True)
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


def run(api: FakeApi, *arguments: str, lang: str = "en") -> Result:
    argv = ["webhooks", *arguments, "--url", api.url + "/v1", "--api-key", "alice", "--lang", lang]
    return CliRunner().invoke(app, argv)


def test_create_prints_the_secret_alone_on_stdout(api: FakeApi) -> None:
    api.answers["POST /v1/webhook_endpoints"] = 200, {**ENDPOINT, "signing_secret": SECRET}
    done = run(api, "create", "https://hooks.example/", "--name", "production", "--event", "response.completed")
    assert done.exit_code == 0
    assert done.stdout == SECRET + "\n"
    assert "whe_1" in done.stderr
    body = {"name": "production", "url": "https://hooks.example/", "event_types": ["response.completed"]}
    assert api.asked == [("POST /v1/webhook_endpoints", body)]
    assert api.headers["authorization"] == "Bearer alice"


def test_create_asks_for_every_event_unless_told_otherwise(api: FakeApi) -> None:
    api.answers["POST /v1/webhook_endpoints"] = 200, {**ENDPOINT, "signing_secret": SECRET}
    run(api, "create", "https://hooks.example/")
    assert api.asked[0][1]["event_types"] == DEFAULT_EVENTS == list(EVENT_TYPES)


def test_list_goes_through_all_pages_and_shows_no_secret(api: FakeApi) -> None:
    other = {**ENDPOINT, "id": "whe_0", "status": "disabled"}
    pages = [
        {"data": [ENDPOINT], "has_more": True, "last_id": "whe_1"},
        {"data": [other], "has_more": False, "last_id": "whe_0"},
    ]
    api.answers["GET /v1/webhook_endpoints"] = 200, pages
    done = run(api, "list")
    first, second = done.stdout.splitlines()
    assert "whe_1  enabled   production  https://hooks.example/  response.completed  whsec_...abcd" in first
    assert "disabled" in second
    assert [path for path, _ in api.asked] == [
        "GET /v1/webhook_endpoints?after=&limit=100",
        "GET /v1/webhook_endpoints?after=whe_1&limit=100",
    ]


def test_an_empty_list_says_so_in_the_users_language(api: FakeApi) -> None:
    api.answers["GET /v1/webhook_endpoints"] = 200, {"data": [], "has_more": False, "last_id": None}
    assert run(api, "list").stdout == "none\n"
    assert run(api, "list", lang="zh").stdout == "无\n"
    assert api.headers["accept-language"] == "zh"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        (["--enable"], {"status": "enabled"}),
        (["--disable", "--name", "n"], {"status": "disabled", "name": "n"}),
        (["--receiver", "https://x.example"], {"url": "https://x.example"}),
        (["--event", "response.failed"], {"event_types": ["response.failed"]}),
    ],
)
def test_update_sends_only_what_was_given(api: FakeApi, options: list[str], body: dict[str, Any]) -> None:
    api.answers["POST /v1/webhook_endpoints/whe_1"] = 200, ENDPOINT
    assert run(api, "update", "whe_1", *options).exit_code == 0
    assert api.asked == [("POST /v1/webhook_endpoints/whe_1", body)]


def test_update_without_a_change_is_wrong_usage(api: FakeApi) -> None:
    assert run(api, "update", "whe_1").exit_code == 2
    assert api.asked == []


@pytest.mark.parametrize(("options", "keep_old"), [([], True), (["--drop-old"], False)])
def test_rotate_keeps_the_old_secret_for_a_day_unless_it_is_to_be_dropped(
    api: FakeApi, options: list[str], keep_old: bool
) -> None:
    api.answers["POST /v1/webhook_endpoints/whe_1/rotate_secret"] = 200, {**ENDPOINT, "signing_secret": SECRET}
    done = run(api, "rotate", "whe_1", *options)
    assert done.stdout.splitlines()[0] == SECRET
    assert ("24 hours" in done.stdout) == keep_old
    assert api.asked[0][1] == {"keep_old_secret_active_for_24_hours": keep_old}


@pytest.mark.parametrize(("status", "code"), [(204, 0), (500, 1)])
def test_a_test_fails_when_the_receiver_does_not_take_it(api: FakeApi, status: int, code: int) -> None:
    api.answers["POST /v1/webhook_endpoints/whe_1/test"] = 200, {"status_code": status}
    done = run(api, "test", "whe_1", "--event", "response.failed")
    assert done.exit_code == code
    assert str(status) in done.output
    assert api.asked[0][1] == {"event_type": "response.failed"}


def test_delete_forgets_an_endpoint(api: FakeApi) -> None:
    api.answers["DELETE /v1/webhook_endpoints/whe_1"] = 200, {"deleted": True}
    assert run(api, "delete", "whe_1").stdout == "deleted whe_1\n"


def test_deliveries_shows_every_attempt_and_when_the_next_one_is(api: FakeApi) -> None:
    api.answers["GET /v1/webhook_deliveries"] = 200, {"data": [DELIVERY]}
    given_up = {**DELIVERY, "status": "failed", "failure": "gave_up", "next_attempt_at": None, "attempts": []}
    api.answers["GET /v1/webhook_endpoints/whe_1/deliveries"] = 200, {"data": [given_up]}
    head, attempt, next_attempt = run(api, "deliveries", "--limit", "5").stdout.splitlines()
    assert "whd_1  pending      response.completed  evt_1  https://own.example/" in head
    assert "the receiver answered 500 after 7 ms" in attempt
    assert "next attempt at 19" in next_attempt
    assert api.asked[0][0] == "GET /v1/webhook_deliveries?limit=5"
    assert "given up: gave_up" in run(api, "deliveries", "whe_1").stdout


def test_redeliver_sends_an_event_again(api: FakeApi) -> None:
    api.answers["POST /v1/webhook_deliveries/whd_1/redeliver"] = 200, DELIVERY
    assert run(api, "redeliver", "whd_1").exit_code == 0


def test_secret_prints_nothing_but_the_secret_and_can_make_a_new_one(api: FakeApi) -> None:
    api.answers["POST /v1/webhook_secret"] = 200, {"signing_secret": SECRET}
    api.answers["POST /v1/webhook_secret/rotate"] = 200, {"signing_secret": SECRET + "2"}
    assert run(api, "secret").stdout == SECRET + "\n"
    assert run(api, "secret", "--rotate").stdout == SECRET + "2\n"


def test_an_id_cannot_lead_to_another_route(api: FakeApi) -> None:
    api.answers["DELETE /v1/webhook_endpoints/..%2Fresponses%2Fresp_1"] = 404, {"error": {"message": "no such"}}
    done = run(api, "delete", "../responses/resp_1")
    assert done.exit_code == 1
    assert "404" in done.stderr
    assert "no such" in done.stderr


def test_a_service_that_does_not_run_is_named(api: FakeApi) -> None:
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    done = CliRunner().invoke(app, ["webhooks", "list", "--url", url, "--lang", "en"])
    assert done.exit_code == 1
    assert url in done.stderr
