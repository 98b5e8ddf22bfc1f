"""Inputs that users sent to systems like this one, each with its right answer, to the shipped models.

The files lie beside the checkout; what is sent as raw bytes is in ``tests/router/api/test_raw_cases.py``, and what
another server answers in ``tests/router/test_dispatch.py``.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers import wait_until
from tests.support.stack import ROOT, PocketStack

CASES = ROOT.parent / "shared" / "cases"
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")]


@pytest.fixture(scope="module")
def stack(pocket_stack: PocketStack) -> PocketStack:
    return pocket_stack


@pytest.fixture
def http(stack: PocketStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.urls[0], timeout=120, trust_env=False) as client:
        yield client


def chat(http: httpx.Client, name: str, **headers: str) -> httpx.Response:
    body = (CASES / name).read_bytes()
    return http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json", **headers})


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def ask_about(http: httpx.Client, data: bytes, media_type: str = "image/png") -> httpx.Response:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    content = [
        {"type": "text", "text": "图中的菱形是什么颜色的？"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return http.post(
        "/v1/chat/completions", json={"model": "glowl", "messages": [{"role": "user", "content": content}]}
    )


@pytest.mark.parametrize("name", ["png-labelled-as-jpeg.json", "jpeg-labelled-image-jfif.json"])
def test_the_bytes_decide_what_a_picture_is(http: httpx.Client, name: str) -> None:
    assert "粉色" in text_of(chat(http, name))


@pytest.mark.parametrize(
    "name",
    [
        "scene.png",
        "png-with-1.5-mb-of-compressed-text.png",
        "png-with-bad-checksum-in-text.png",
        "jpeg-without-end-marker.jpg",
    ],
)
def test_a_picture_whose_pixels_are_all_there_is_looked_at(http: httpx.Client, name: str) -> None:
    assert "粉色" in text_of(ask_about(http, (CASES / name).read_bytes()))


def test_a_picture_195_times_as_wide_as_high_is_looked_at(http: httpx.Client) -> None:
    assert text_of(ask_about(http, (CASES / "png-195-times-as-wide-as-high.png").read_bytes()))


def test_a_keyword_of_null_is_as_if_it_were_not_there(http: httpx.Client) -> None:
    assert len(json.loads(text_of(chat(http, "schema-enum-is-null.json")))["a"]) <= 8


def test_a_list_of_types_with_a_null_in_it_is_refused_by_keyword_and_place(http: httpx.Client) -> None:
    refused = chat(http, "schema-null-inside-type-list.json")

    assert refused.status_code == 400
    assert refused.headers["x-request-id"]
    error = refused.json()["error"]
    assert error["param"] == "response_format"
    assert "'type'" in error["message"]
    assert "a" in error["message"]


def test_an_object_of_numbers_is_one(http: httpx.Client) -> None:
    prices = json.loads(text_of(chat(http, "schema-record-with-property-names.json")))["prices"]
    assert all(isinstance(price, int | float) for price in prices.values())


def test_an_unknown_format_asks_for_any_string(http: httpx.Client) -> None:
    assert isinstance(json.loads(text_of(chat(http, "schema-format-uri-reference.json")))["link"], str)


def test_one_of_a_definition_and_null_is_either(http: httpx.Client) -> None:
    found = json.loads(text_of(chat(http, "schema-oneof-ref-or-null.json")))["a"]
    assert found is None or set(found) == {"v"}


def test_a_length_of_1_0_is_one(http: httpx.Client) -> None:
    assert 1 <= len(json.loads(text_of(chat(http, "schema-length-1.0.json")))["a"]) <= 8


def test_a_pattern_that_looks_around_is_dropped_beside_its_format_and_that_is_said(http: httpx.Client) -> None:
    response = chat(http, "schema-email-with-look-ahead.json")

    assert re.fullmatch(r"[^@\s]+@[^@\s]+", json.loads(text_of(response))["mail"])
    assert any("pattern" in sentence for sentence in response.json()["hybrid"]["degraded"])


@pytest.mark.parametrize(
    "name",
    ["top-p-zero.json", "last-message-is-system.json", "tools-with-tool-choice-none.json", "body-with-bom.json"],
)
def test_what_nothing_speaks_against_is_answered_in_words(http: httpx.Client, name: str) -> None:
    assert text_of(chat(http, name)).strip()


def test_a_packed_body_is_read(http: httpx.Client) -> None:
    assert text_of(chat(http, "body.json.gz", **{"Content-Encoding": "gzip"})).strip()


def test_a_forced_tool_is_called(http: httpx.Client) -> None:
    answered = chat(http, "one-forced-tool.json")
    assert answered.status_code == 200
    (call,) = answered.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"


def test_a_stream_without_usage_may_say_null_for_it(http: httpx.Client) -> None:
    response = chat(http, "include-usage-null.json")

    assert response.status_code == 200
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)
    assert not any(chunk.get("usage") for chunk in chunks)


def upload(http: httpx.Client, name: str) -> httpx.Response:
    with (CASES / name).open("rb") as file:
        return http.post("/v1/files", files={"file": (name, file)}, data={"purpose": "batch"})


def ended(http: httpx.Client, file_id: str) -> dict[str, Any]:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id = http.post("/v1/batches", json=body).json()["id"]

    def look() -> dict[str, Any] | None:
        batch: dict[str, Any] = http.get(f"/v1/batches/{batch_id}").json()
        return batch if batch["status"] in ("completed", "failed", "expired", "cancelled") else None

    return wait_until(look, f"{batch_id} to end")


def test_a_batch_in_utf_16_fails_with_one_clear_message(http: httpx.Client) -> None:
    uploaded = upload(http, "batch-in-utf-16.jsonl")
    if uploaded.status_code == 200:
        batch = ended(http, uploaded.json()["id"])
        assert batch["status"] == "failed"
        (error,) = batch["errors"]["data"]
        said = error["message"]
    else:
        assert uploaded.status_code == 400
        said = uploaded.json()["error"]["message"]

    assert "UTF-8" in said


def test_an_odd_line_of_a_batch_costs_no_other_its_answer(http: httpx.Client) -> None:
    batch = ended(http, upload(http, "batch-with-one-odd-schema.jsonl").json()["id"])

    answers = http.get(f"/v1/files/{batch['output_file_id']}/content").text.splitlines()
    assert {json.loads(line)["custom_id"] for line in answers} >= {"r1", "r3"}
    assert sum(batch["request_counts"][kind] for kind in ("completed", "failed")) == 3


def test_separators_inside_a_text_end_no_line_of_a_batch(http: httpx.Client) -> None:
    batch = ended(http, upload(http, "batch-with-line-separators.jsonl").json()["id"])

    answers = http.get(f"/v1/files/{batch['output_file_id']}/content").text.splitlines()
    assert {json.loads(line)["custom_id"] for line in answers} == {"r1", "r2"}


@pytest.mark.parametrize("name", ["questions-space-after-comma.csv", "questions-in-gbk.csv"])
def test_a_table_of_questions_is_asked_with_its_picture(stack: PocketStack, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.jsonl"
    argv = [sys.executable, "-m", "router.cli", "batch", str(CASES / name), "--out", str(out), "--url", stack.urls[0]]
    done = subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )

    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert "粉色" in out.read_text()


def test_a_redis_password_that_is_not_escaped_is_refused_and_not_repeated(tmp_path: Path) -> None:
    name, _, url = (CASES / "redis-password-not-escaped.env").read_text().strip().partition("=")
    env = {**os.environ, name: url, "PYTHONPATH": str(ROOT), "GLOWL_DATA_DIR": str(tmp_path)}
    argv = [sys.executable, "-m", "router.cli", "up", "--models", "echo", "--port", "0"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)

    said = (done.stdout + done.stderr).strip()
    assert done.returncode != 0
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1, said
    assert "%" in said  # what to write instead
    for part in ("p@ss", "w#rd", "rd-tail", "ss/w"):
        assert part not in said
