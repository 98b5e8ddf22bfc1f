"""The two older request shapes run as their clients send them."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest
from PIL import Image

from tests.support.servers import AppServer


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture_url() -> Iterator[str]:
    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Pictures)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/cat.png"
    server.shutdown()
    server.server_close()


def test_inference_takes_base64_and_says_the_answer_in_every_place_clients_look(http: httpx.Client) -> None:
    body = {"image": base64.b64encode(png()).decode(), "prompt": "图里有什么？"}

    answer = http.post("/api/v1/inference", json=body).json()

    said = "[echo glm] 1 picture (64x48 png), question: 图里有什么？"
    assert answer["choices"][0]["message"]["content"] == said
    assert answer["response"] == answer["result"] == said


def test_inference_runs_without_a_json_content_type(api: AppServer) -> None:
    body = json.dumps({"image": base64.b64encode(png()).decode(), "prompt": "图里有什么？"}).encode()
    request = urllib.request.Request(api.url + "/api/v1/inference", data=body)

    with urllib.request.urlopen(request) as response:
        answer = json.load(response)

    assert request.get_header("Content-type") == "application/x-www-form-urlencoded"
    assert answer["result"].startswith("[echo glm] 1 picture")


def test_vision_completion_runs_from_a_shell_as_written(api: AppServer) -> None:
    data_url = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = json.dumps({"image": data_url, "prompt": "图里有什么？", "max_tokens": 64, "temperature": 0.7})

    done = subprocess.run(
        ["curl", "-s", "--noproxy", "*", "-X", "POST", api.url + "/v1/vision/completion", "-d", body],
        capture_output=True,
        check=True,
    )

    answer = json.loads(done.stdout)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].startswith("[echo glm] 1 picture (64x48 png)")
    assert answer["usage"]["total_tokens"] > 0


def test_vision_completion_stops_at_max_tokens(http: httpx.Client) -> None:
    body = {"image": base64.b64encode(png()).decode(), "prompt": "图里有什么？", "max_tokens": 2}

    answer = http.post("/v1/vision/completion", json=body).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


def test_vision_completion_refuses_a_private_picture_url_by_default(http: httpx.Client, picture_url: str) -> None:
    refused = http.post("/v1/vision/completion", json={"image": picture_url, "prompt": "图里有什么？"})

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "image"


def test_vision_completion_fetches_a_picture_url(http: httpx.Client, picture_url: str, api: AppServer) -> None:
    # Given an operator who allows private addresses (the only kind a test may fetch from)
    services = api._app.state.services
    original = services.fetcher._settings
    services.fetcher._settings = original.model_copy(update={"allow_private_urls": True})
    try:
        answer = http.post("/v1/vision/completion", json={"image": picture_url, "prompt": "图里有什么？"}).json()
    finally:
        services.fetcher._settings = original

    assert answer["choices"][0]["message"]["content"].startswith("[echo glm] 1 picture (64x48 png)")


PATHS = ("/api/v1/inference", "/v1/vision/completion")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("image", ["", " ", "data:image/png;base64,"])
def test_an_empty_picture_is_refused_and_the_question_not_answered_without_it(
    http: httpx.Client, path: str, image: str
) -> None:
    refused = http.post(path, json={"image": image, "prompt": "图里有什么？"})

    assert refused.status_code == 400, refused.text
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("empty_image_file", "image")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "name", ["image_url", "imageUrl", "images", "Image", "image_base64", "picture", "img", "video"]
)
def test_a_picture_under_another_name_is_refused_and_the_right_one_said(
    http: httpx.Client, path: str, name: str
) -> None:
    sent = base64.b64encode(png()).decode()
    value = [sent] if name == "images" else {"url": sent} if name == "image_url" else sent

    refused = http.post(path, json={name: value, "prompt": "图里有什么？"}, headers={"accept-language": "en"})

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "unsupported_value", name)
    assert "send the picture as 'image'" in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_every_other_unknown_field_changes_nothing(http: httpx.Client, path: str) -> None:
    body = {"image": base64.b64encode(png()).decode(), "prompt": "图里有什么？"}

    answer = http.post(path, json={**body, "images": [], "image_url": None, "history": ["x"], "language": "zh"}).json()

    assert answer["choices"][0]["message"]["content"].startswith("[echo glm] 1 picture")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prefer", ["respond-async", "wait=10, Respond-Async; x=1"])
def test_who_prefers_not_to_wait_gets_the_address_of_a_job(http: httpx.Client, path: str, prefer: str) -> None:
    body = {"image": base64.b64encode(png()).decode(), "prompt": "图里有什么？"}

    accepted = http.post(path, json=body, headers={"Prefer": prefer})

    assert accepted.status_code == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    job = http.get(accepted.headers["location"])
    assert job.status_code == 200
    assert (job.json()["id"], job.json()["status"]) == (accepted.json()["id"], "queued")
    assert "openai-poll-after-ms" in accepted.headers


def test_no_other_preference_changes_an_answer(http: httpx.Client) -> None:
    body = {"image": base64.b64encode(png()).decode(), "prompt": "图里有什么？"}

    answer = http.post("/api/v1/inference", json=body, headers={"Prefer": "return=minimal, wait=3"})

    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


def test_openais_own_shape_is_never_answered_with_another_body(http: httpx.Client) -> None:
    body = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}

    answer = http.post("/v1/chat/completions", json=body, headers={"Prefer": "respond-async"})

    assert (answer.status_code, answer.json()["object"]) == (200, "chat.completion")
    assert "preference-applied" not in answer.headers


def test_both_docs_pages_and_every_route_are_there(http: httpx.Client) -> None:
    for path in ("/docs", "/api/docs"):
        page = http.get(path)
        assert page.status_code == 200
        # Every file the page needs is served here: it works without internet.
        needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(needed) >= 3
        for file in needed:
            assert file.startswith("/")
            assert http.get(file).status_code == 200
    paths = http.get("/openapi.json").json()["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/models",
        "/v1/route",
        "/v1/jobs/{job_id}",
        "/api/v1/inference",
        "/v1/vision/completion",
    } <= set(paths)
    assert "requestBody" in paths["/v1/chat/completions"]["post"]
    for operations in paths.values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert "default" in operation["responses"]
