"""Pictures that are uploaded once and named by id: what is stored, what is refused, who may name it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.app import create_app
from router.settings import Settings
from tests.journeys.conftest import picture
from tests.support.servers import AppServer, RedisProcess

SAMPLE = Path("engines/pocket/samples/count.png")


def png(colour: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    return base64.b64decode(picture(colour, size).partition(",")[2])


def upload(http: httpx.Client, data: bytes, *, purpose: str = "vision", **headers: str) -> httpx.Response:
    files = {"file": ("a.png", data, "image/png")}
    return http.post("/v1/files", data={"purpose": purpose}, files=files, headers=headers)


def ask(http: httpx.Client, *file_ids: str, **headers: str) -> httpx.Response:
    content = [{"type": "input_image", "file_id": each} for each in file_ids]
    content.append({"type": "input_text", "text": "What colour is it?"})
    body = {"model": "glowl", "input": [{"role": "user", "content": content}], "hybrid": {"route": "fast"}}
    return http.post("/v1/responses", json=body, headers=headers)


def test_a_picture_is_uploaded_once_and_asked_about_twice(http: httpx.Client) -> None:
    # Given an uploaded picture
    file = upload(http, png()).json()
    assert (file["purpose"], file["bytes"]) == ("vision", len(png()))
    # When it is asked about by its id, then again in a further turn
    first = ask(http, file["id"]).json()
    assert first["status"] == "completed"
    body = {"model": "glowl", "input": "And now?", "previous_response_id": first["id"], "hybrid": {"route": "fast"}}
    second = http.post("/v1/responses", json=body).json()
    # Then what was asked names the file in both, and never holds the picture
    for response in (first, second):
        items = http.get(f"/v1/responses/{response['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert items[0]["content"][0]["file_id"] == file["id"]
    # And the file can be read back
    assert http.get(f"/v1/files/{file['id']}/content").content == png()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_image_file"),
        (b"%PDF-1.7 no picture", "unsupported_image_media_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image_media_type"),
        (png(size=(20000, 1)), "image_too_large"),
        (png() + b"\0" * 100_000, "image_file_too_large"),
    ],
    ids=["empty", "pdf", "svg", "wide", "bytes"],
)
def test_what_no_engine_would_take_is_not_stored(http: httpx.Client, data: bytes, code: str) -> None:
    before = len(http.get("/v1/files").json()["data"])
    answer = upload(http, data)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, "file")
    assert len(http.get("/v1/files").json()["data"]) == before


def test_a_file_of_requests_is_no_picture_and_a_picture_no_file_of_requests(http: httpx.Client) -> None:
    requests = upload(http, b"{}", purpose="batch").json()["id"]
    refused = ask(http, requests).json()["error"]
    assert (refused["code"], refused["param"]) == ("invalid_input_file", "input[0].content[0].file_id")
    shown = upload(http, png()).json()["id"]
    batch = {"input_file_id": shown, "endpoint": "/v1/responses", "completion_window": "24h"}
    assert http.post("/v1/batches", json=batch).json()["error"]["code"] == "invalid_input_file"


def test_named_pictures_may_be_as_large_together_as_a_body(http: httpx.Client) -> None:
    # Given four pictures just below the limit of one, that of a body being three times that
    noise = Path("engines/pocket/samples/price.png").read_bytes()
    large = noise + b"\0" * (99_000 - len(noise))
    ids = [upload(http, large + bytes([number])).json()["id"] for number in range(4)]
    answer = ask(http, *ids)
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == "input[0].content[3].file_id"


@pytest.fixture(scope="module")
def keyed(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[httpx.Client]:
    settings = Settings(
        REDIS_URL=redis_process.url, glm_url=echo_urls["glm"], owl2_url=echo_urls["owl2"], api_keys="one,two"
    )
    server = AppServer(create_app(settings))
    with httpx.Client(base_url=server.url, timeout=300, trust_env=False) as client:
        yield client
    server.stop()


def test_nobody_else_may_name_or_read_it(keyed: httpx.Client) -> None:
    one: dict[str, Any] = {"authorization": "Bearer one"}
    two: dict[str, Any] = {"authorization": "Bearer two"}
    file_id = upload(keyed, png(), **one).json()["id"]
    assert ask(keyed, file_id, **one).status_code == 200
    refused = ask(keyed, file_id, **two)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "file_not_found")
    assert keyed.get(f"/v1/files/{file_id}/content", headers=two).status_code == 404
