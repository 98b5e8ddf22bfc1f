"""No log of any process has a key, a token, a picture, a question, or what is secret in an address.

Each line is JSON, and those of one request have its id, from the door to the webhook.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from router.audit.verify import verify
from router.auth.admin import create_key, create_owner
from router.auth.store import OwnerStore
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack
from tests.support.tokens import SECRET, secret, sign

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PNG = (Path(__file__).parents[2] / "engines/pocket/samples/price.png").read_bytes()
ENV_KEY, WRONG_KEY = "alice-8d1f77c0b2", "mallory-2f90aa31c4"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"the secret of all webhooks").decode()
ASKED = "这个问题只有提问者知道"
IN_URL = "address-secret-55d0"
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _fast_engines() -> None:
    """Keep the stack of the other journeys from being started: here logs are read."""


@pytest.fixture
def stack() -> Iterator[ProcessStack]:
    stack = ProcessStack(
        env={
            "GLOWL_API_KEYS": ENV_KEY,
            "GLOWL_JWT_SECRET": SECRET,
            "GLOWL_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "GLOWL_WEBHOOK_DELAYS_S": "0.1",
            "GLOWL_AUDIT": "on",
            "GLOWL_LOG_LEVEL": "DEBUG",
        }
    )
    try:
        stack.start()
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


async def make_key(redis_url: str) -> str:
    async with Redis.from_url(redis_url) as redis:
        store = OwnerStore(redis)
        await store.change(lambda found: create_owner(found, time.time(), "bob"))
        return (await store.change(lambda found: create_key(found, time.time(), "bob"))).text


def lines_of(log: str) -> list[Json]:
    """Read a log; but for what celery's signal handler and Python's runner write by themselves, all is JSON."""
    own = ("worker: ", "<frozen runpy>")
    return [json.loads(line) for line in log.splitlines() if line and not line.startswith(own)]


def chat(picture: bytes | str, **more: Any) -> Json:
    url = picture if isinstance(picture, str) else f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    content = [{"type": "text", "text": ASKED}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "glowl", "messages": [{"role": "user", "content": content}], **more}


def test_logs_of_a_busy_run_tell_nothing_that_is_secret(stack: ProcessStack) -> None:
    claims = {"sub": "carol", "exp": time.time() + 600}
    token = sign({"alg": "HS256"}, claims, secret())
    expired = sign({"alg": "HS256"}, {**claims, "exp": 1}, secret())
    forged = token[:-8] + "AAAAAAAA"
    made = asyncio.run(make_key(stack.redis_url))
    hook = {"metadata": {"webhook_url": f"http://127.0.0.1:9/{IN_URL}?token={IN_URL}"}}
    bodies = [
        chat(PNG),
        chat(PNG, stream=True),
        chat(PNG, hybrid={"route": "deep"}, **hook),
        chat(PNG[:300]),
        chat(f"http://127.0.0.1:9/picture.png?sig={IN_URL}"),
        chat(PNG, hybrid={"route": "sideways"}),
        {"model": ASKED, "messages": 7},
    ]
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat(PNG)}

    with httpx.Client(base_url=stack.urls[0], timeout=120, trust_env=False) as http:
        for key in (ENV_KEY, made, token):
            for number, body in enumerate(bodies):
                ids = {"x-request-id": f"door-{number}"}
                http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}", **ids})
        headers = {"authorization": f"Bearer {ENV_KEY}"}
        for key in (WRONG_KEY, expired, forged, made[:-1] + "x"):
            for name, value in (("authorization", f"Bearer {key}"), ("api-key", key), ("x-api-key", key)):
                assert http.post("/v1/chat/completions", json=bodies[0], headers={name: value}).status_code in (
                    401,
                    429,
                )
        http.post("/v1/chat/completions", content=b'{"model": "' + ASKED.encode(), headers=headers)
        http.post("/v1/responses", json={"model": "glowl", "input": ASKED, "background": True}, headers=headers)
        file = http.post(
            "/v1/files", files={"file": ("a.jsonl", json.dumps(line))}, data={"purpose": "batch"}, headers=headers
        )
        batch = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        begun = http.post("/v1/batches", json=batch, headers=headers).json()["id"]
        wait_until(
            lambda: http.get(f"/v1/batches/{begun}", headers=headers).json()["status"] == "completed", "the batch"
        )
        ended = http.get(f"/v1/batches/{begun}", headers=headers).json()["output_file_id"]
        of_line = http.get(f"/v1/files/{ended}/content", headers=headers).json()["response"]["request_id"]
        stack.kill("redis")  # errors are logged too
        for path in ("/v1/responses", "/v1/chat/completions"):
            asked = (
                {"input": ASKED, "background": True} if path == "/v1/responses" else chat(PNG, hybrid={"route": "deep"})
            )
            http.post(path, json={"model": "glowl", **asked}, headers=headers)

    stack.end()
    logs = {
        path.name: path.read_text(errors="replace")
        for path in stack.dir.rglob("*")
        if path.suffix in (".log", ".jsonl")
    }
    assert {"api0.log", "worker0.log", "glm.log"} < logs.keys()
    assert len(logs["api0.log"]) > 1000
    picture = base64.b64encode(PNG).decode()
    secrets = {
        **{"key": ENV_KEY, "wrong key": WRONG_KEY, "made key": made[14:], "webhook secret": WEBHOOK_SECRET[6:30]},
        **{"token": token.split(".")[2][:20], "expired token": expired.split(".")[2], "token secret": SECRET},
        **{"claims": token.split(".")[1], "picture": picture[200:240], "picture's end": picture[-60:-20]},
        **{"question": ASKED, "escaped question": json.dumps(ASKED)[1:20], "address": IN_URL},
    }
    assert [(name, file) for name, text in secrets.items() for file, log in logs.items() if text in log] == []
    assert verify(stack.dir / "audit").is_good
    lines = {name: lines_of(logs[f"{name}.log"]) for name in ("api0", "worker0", "glm", "owl2")}
    of_one = {name: [each for each in found if each.get("request_id") == "door-2"] for name, found in lines.items()}
    said = {name: [each["message"] for each in found] for name, found in of_one.items()}
    assert said["api0"].count("POST /v1/chat/completions 200") == 3
    assert [text for text in said["worker0"] if text.startswith("deep of resp_") and text.endswith("completed")]
    assert [text for text in said["worker0"] if text.startswith("resp_") and text.endswith("has completed")]
    assert [text for text in said["worker0"] if text.startswith("webhook whd_")]
    assert "an answer has ended: stop" in said["owl2"]
    runs = [each for each in of_one["worker0"] if each.get("unit") == "deep"]
    assert all(each["response_id"] in each["message"] and each["completion_tokens"] > 0 for each in runs)
    assert [each for each in lines["glm"] if each.get("request_id") == of_line]
