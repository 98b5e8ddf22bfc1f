"""A service without keys answers programs of its machine, and no web page that was not allowed to ask."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from router.settings import Settings
from tests.router.middleware.conftest import MakeApp, client_of

POST = ("POST", "/v1/route")
GET = ("GET", "/v1/models")
HELLO = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}


async def ask(app: Any, what: tuple[str, str] = GET, host: str = "127.0.0.1:8000", **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client_of(app) as http:
        content = {"json": HELLO} if what[0] == "POST" else {}
        return await http.request(*what, headers={"host": host, **sent}, **content)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.:8000", "127.0.0.1", "127.0.0.9:80", "[::1]", "[::1]:8000"],
)
async def test_names_of_loopback_are_own(make_app: MakeApp, host: str) -> None:
    assert (await ask(make_app(), host=host)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1@evil.example",
        "10.0.0.1:8000",
        "0.0.0.0:8000",
        "[::2]",
        "2130706433",
        "localhost:abc",
        "",
        "localhost/evil",
        "xn--localhost-.example",
    ],
)
@pytest.mark.parametrize("what", [GET, POST, ("GET", "/v1/jobs"), ("GET", "/healthz"), ("GET", "/docs")])
async def test_a_foreign_host_is_refused_on_every_path(make_app: MakeApp, host: str, what: tuple[str, str]) -> None:
    answer = await ask(make_app(), what, host)
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host_not_allowed")
    assert "GLOWL_ALLOWED_HOSTS" in answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]


async def test_names_in_the_settings_are_own_and_with_keys_or_any_no_name_is_foreign(make_app: MakeApp) -> None:
    named = make_app(allowed_hosts="glowl.example.com, [fd00::1]")
    assert (await ask(named, host="GLOWL.example.com:443")).status_code == 200
    assert (await ask(named, host="[fd00::1]:8000")).status_code == 200
    assert (await ask(named, host="other.example.com")).status_code == 421
    assert (await ask(make_app(allowed_hosts="*"), host="other.example.com")).status_code == 200
    keyed = make_app(api_keys="alice")
    assert (await ask(keyed, host="other.example.com", authorization="Bearer alice")).status_code == 200
    evil = await ask(keyed, POST, origin="https://evil.example", authorization="Bearer alice")
    assert evil.status_code == 200


async def test_on_other_addresses_hosts_are_checked_only_if_they_are_named(make_app: MakeApp) -> None:
    assert (await ask(make_app(host="0.0.0.0"), host="gpubox.lan:8000")).status_code == 200
    named = make_app(host="0.0.0.0", allowed_hosts="localhost")
    assert (await ask(named, host="gpubox.lan:8000")).status_code == 421
    assert (await ask(named, host="192.168.1.7:8000")).status_code == 200  # an address cannot be rebound
    assert (await ask(named, POST, origin="http://evil.example")).status_code == 403


FOREIGN: list[dict[str, str]] = [
    {"origin": "https://evil.example"},
    {"origin": "https://localhost.evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:8000@evil.example"},
    {"origin": "chrome-extension://abcdef"},
    {"origin": "file://"},
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    {"referer": "https://evil.example/page"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
async def test_a_post_from_a_foreign_page_is_refused(
    make_app: MakeApp, headers: dict[str, str], content_type: str
) -> None:
    answer = await ask(make_app(), POST, content_type=content_type, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_type": "text/plain"},
        {"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
        {"origin": "http://[::1]:5173"},
        {"referer": "http://localhost:8000/docs"},
    ],
    ids=str,
)
async def test_programs_and_pages_of_this_machine_may_post(make_app: MakeApp, headers: dict[str, str]) -> None:
    assert (await ask(make_app(), POST, **headers)).status_code == 200


async def test_a_link_on_another_site_may_lead_here_but_nothing_of_it_may_be_embedded(make_app: MakeApp) -> None:
    app = make_app()
    link = {"sec_fetch_site": "cross-site", "referer": "https://blog.example/"}
    assert (await ask(app, ("GET", "/docs"), sec_fetch_mode="navigate", **link)).status_code == 200
    assert (await ask(app, ("GET", "/v1/jobs"), sec_fetch_mode="no-cors", **link)).status_code == 403


PREFLIGHT = {
    "access_control_request_method": "POST",
    "access_control_request_headers": "authorization,content-type,idempotency-key",
    "access_control_request_private_network": "true",
}


@pytest.mark.parametrize("keys", ["", "alice"])
async def test_pages_of_an_allowed_origin_may_read_every_answer(make_app: MakeApp, keys: str) -> None:
    app = make_app(cors_origins="https://app.example.com/, http://localhost:3000", api_keys=keys)
    for origin in ("https://app.example.com", "http://localhost:3000"):
        asked = await ask(app, ("OPTIONS", "/v1/chat/completions"), origin=origin, **PREFLIGHT)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin)
        assert "idempotency-key" in asked.headers["access-control-allow-headers"]
        answered = await ask(app, POST, origin=origin, authorization="Bearer alice")
        assert answered.headers["access-control-allow-origin"] == origin
        assert "x-request-id" in answered.headers["access-control-expose-headers"]
        assert "Origin" in answered.headers["vary"]
        missing = await ask(app, ("GET", "/nowhere"), origin=origin)
        assert missing.headers["access-control-allow-origin"] == origin


async def test_a_bug_can_be_read_by_an_allowed_page(make_app: MakeApp, monkeypatch: Any) -> None:
    app = make_app(cors_origins="*")
    monkeypatch.setattr(app.state.services.monitor, "info", lambda *_: 1 / 0)
    answer = await ask(app, origin="https://any.example")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, "*")


@pytest.mark.parametrize("origins", ["", "https://app.example.com"])
async def test_no_other_origin_gets_a_cors_header(make_app: MakeApp, origins: str) -> None:
    app = make_app(cors_origins=origins)
    for origin in ("http://localhost:3001", "https://evil.example", "https://app.example.com.evil.example"):
        for what in (("OPTIONS", "/v1/chat/completions"), POST, GET):
            answer = await ask(app, what, origin=origin, **PREFLIGHT)
            assert not [name for name in answer.headers if name.startswith("access-control-")]
            assert answer.status_code in ((200, 405) if "localhost" in origin else (403,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "app.example.com"),
        ("cors_origins", "https://*.example.com"),
        ("cors_origins", "https://app.example.com/path"),
        ("allowed_hosts", "https://glowl.example.com"),
        ("allowed_hosts", "glowl.example.com:8000"),
        ("allowed_hosts", "*.example.com"),
    ],
)
def test_wrong_settings_stop_the_start(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**{name: value})
    assert name in str(refused.value)
