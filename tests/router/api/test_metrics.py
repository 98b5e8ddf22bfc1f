"""``/metrics``: what happened is counted, whoever may read it reads it, and nothing that a client sent is a label."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from router.app import create_app
from router.settings import Settings
from router.telemetry import families
from tests.support.pictures import data_url, png
from tests.support.servers import AppServer, RedisProcess, wait_until

HOSTILE = 'x"} 1\nglowl_redis_up 0 {a="'


def read(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    found = text_string_to_metric_families(answer.text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in found for each in family.samples}


def value(http: httpx.Client, name: str, **labels: str) -> float:
    return read(http).get((name, frozenset(labels.items())), 0.0)


def ask(http: httpx.Client, text: str, **more: Any) -> httpx.Response:
    body = {"model": "glowl", "messages": [{"role": "user", "content": text}], **more}
    return http.post("/v1/chat/completions", json=body)


def test_a_direct_answer_is_counted_with_its_way_and_its_times(http: httpx.Client) -> None:
    before = read(http)
    assert ask(http, "你好").status_code == 200
    after = read(http)

    def more(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after.get(key, 0.0) - before.get(key, 0.0)

    fast = {"route": "fast", "engine": "glm"}
    assert more("glowl_answers_total", **fast, state="completed", cache="") == 1
    assert more("glowl_e2e_request_latency_seconds_count", **fast) == 1
    assert more("glowl_time_to_first_token_seconds_count", route="fast") == 1
    assert more("glowl_generation_tokens_total", engine="glm") > 0
    assert more("glowl_http_requests_total", path="/v1/chat/completions", status="200") == 1
    assert more("glowl_http_request_duration_seconds_count", path="/v1/chat/completions") == 1
    decided = {dict(labels)["rule"] for (name, labels) in after if name == "glowl_decisions_total"}
    assert decided
    assert after["glowl_http_requests_in_flight", frozenset()] == 1  # this one


def test_a_picture_is_counted_with_its_size(http: httpx.Client) -> None:
    before = value(http, "glowl_picture_bytes_sum")
    picture = png("red")
    url = data_url(picture)
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "是什么？"}]
    body = {"model": "glowl", "messages": [{"role": "user", "content": content}], "hybrid": {"route": "fast"}}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert value(http, "glowl_picture_bytes_sum") - before == len(picture.data)


def test_what_is_refused_is_counted_by_its_code(http: httpx.Client) -> None:
    refused = {"code": "model_not_found", "status": "404"}
    before = value(http, "glowl_refusals_total", **refused)
    assert ask(http, "hi", model="nobody's").status_code == 404
    assert value(http, "glowl_refusals_total", **refused) - before == 1


def test_the_refusal_that_an_alert_waits_for_is_shown_before_the_first_one(http: httpx.Client) -> None:
    assert ("glowl_refusals_total", frozenset({("code", "storage_full"), ("status", "503")})) in read(http)


@pytest.fixture
def own(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[httpx.Client]:
    """An api that has counted nothing yet, may download from here, and limits each address."""
    urls = {"glm_url": echo_urls["glm"], "owl2_url": echo_urls["owl2"], "REDIS_URL": redis_process.url}
    server = AppServer(
        create_app(Settings(address_limits="requests=8/min", allow_private_urls=True, cache_bytes=1_000_000, **urls))
    )
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
        yield http
    server.stop()


class OnePicture(BaseHTTPRequestHandler):
    """Has one picture, and nothing else."""

    def do_GET(self) -> None:
        content = png("red").data
        self.send_response(200 if self.path == "/red.png" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def test_downloads_the_cache_and_limits_are_counted(own: httpx.Client) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), OnePicture) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def look_at(name: str) -> httpx.Response:
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            part = {"type": "image_url", "image_url": {"url": url}}
            content = [part, {"type": "text", "text": "这是什么？"}]
            body = {"model": "glowl", "messages": [{"role": "user", "content": content}], "store": True}
            return own.post("/v1/chat/completions", json=body)

        # When a picture is asked for three times, and another cannot be had
        statuses = [look_at(name).status_code for name in ("red.png", "red.png", "none.png", "red.png")]
        server.shutdown()
    assert statuses == [200, 200, 400, 200]
    # And then there are too many requests
    refused = [answer.status_code for answer in (ask(own, f"你好 {number}") for number in range(200))].count(429)
    assert refused > 0
    found = read(own)

    def count(name: str, **labels: str) -> float:
        return found.get((name, frozenset(labels.items())), 0.0)

    assert count("glowl_picture_fetch_seconds_count", outcome="good") == 3
    assert count("glowl_picture_fetch_seconds_count", outcome="failed") == 1
    assert count("glowl_request_pictures_sum") == 3
    assert count("glowl_picture_pixels_count") == 3
    assert count("glowl_answer_cache_hits_total") == 2
    assert count("glowl_answer_cache_queries_total") == 3
    fast = {"route": "fast", "engine": "glm"}
    assert count("glowl_answers_total", **fast, state="completed", cache="hit") == 2
    asked = sum(count("glowl_answers_total", **fast, state="completed", cache=cache) for cache in ("", "miss"))
    assert count("glowl_e2e_request_latency_seconds_count", **fast) == asked > 0
    assert count("glowl_limits_refused_total", whose="address", what="requests") == refused


def test_the_engines_and_redis_are_shown_as_they_are(http: httpx.Client) -> None:
    found = read(http)
    assert found["glowl_redis_up", frozenset()] == 1
    assert found["glowl_engine_up", frozenset({("engine", "glm")})] == 1
    assert found["glowl_engine_servers_up", frozenset({("engine", "owl2")})] == 1
    assert found["glowl_engine_num_waiting", frozenset({("engine", "owl2")})] == 0
    assert found["glowl_redis_memory_used_bytes", frozenset()] > 0


def test_nothing_that_a_client_sends_is_a_label(http: httpx.Client) -> None:
    read(http)
    number = len(read(http))

    # When clients send names that nobody else does, wherever there is room for one
    for turn in range(40):
        word = f"quokka{turn}{HOSTILE}"
        http.get(f"/v1/models/quokka{turn}")
        http.get(f"/quokka{turn}/path")
        http.request("GET", f"/v1/jobs/quokka{turn}", headers={"x-request-id": f"quokka{turn}"})
        ask(http, word, model=word)
        ask(http, word, metadata={"quokka": word}, user=word)
        ask(http, word, hybrid={"route": word})
        ask(http, word, service_tier=f"quokka{turn}")
        http.post("/v1/route", json={"preset": f"quokka{turn}", "messages": [{"role": "user", "content": "hi"}]})

    # Then their names are nowhere, and there are hardly more series than before
    text = http.get("/metrics").text
    assert "quokka" not in text
    assert len(read(http)) - number < 400
    words = set(re.findall(r'"([^"]*)"', text)) - {"+Inf"}
    assert all(re.fullmatch(r"[a-zA-Z0-9_./{}:+-]*( [a-z]+)?", word) for word in words), words


def test_only_admins_read_them_where_keys_are_used(keyed_api: AppServer) -> None:
    with httpx.Client(base_url=keyed_api.url, trust_env=False) as http:
        assert http.get("/metrics").status_code == 401
        text = http.get("/metrics", headers={"authorization": "Bearer alice"}).text
    assert "glowl_http_requests_total" in text
    assert "alice" not in text


def test_prometheus_gets_open_metrics_if_it_asks_for_them(http: httpx.Client) -> None:
    answer = http.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_what_ends_is_kept_for_counting_before_anybody_has_asked(
    echo_urls: dict[str, str], redis_process: RedisProcess, redis_client: redis.Redis
) -> None:
    urls = {"glm_url": echo_urls["glm"], "owl2_url": echo_urls["owl2"], "REDIS_URL": redis_process.url}
    api = AppServer(create_app(Settings(**urls)))
    try:
        wait_until(lambda: redis_client.exists("glowl:metrics:asked"), "ends to be kept")
    finally:
        api.stop()


def test_without_metrics_there_is_nothing_to_read(echo_urls: dict[str, str], redis_process: RedisProcess) -> None:
    urls = {"glm_url": echo_urls["glm"], "owl2_url": echo_urls["owl2"], "REDIS_URL": redis_process.url}
    server = AppServer(create_app(Settings(metrics=False, **urls)))
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
        assert ask(http, "你好").status_code == 200
        refused = http.get("/metrics")
    server.stop()
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "metrics_off")


def test_every_family_is_named_by_the_rules(http: httpx.Client) -> None:
    for family in families.API:
        assert re.fullmatch(r"glowl_[a-z0-9_]+", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total"), family.name
        assert family.help.endswith("."), family.name
        if family.kind == "histogram":
            assert family.name.endswith(("_seconds", "_bytes", "_pixels", "_ratio", "_pictures")), family.name
    shown = {line.split()[2] for line in http.get("/metrics").text.splitlines() if line.startswith("# HELP")}
    assert {family.name for family in families.OWN} <= shown
