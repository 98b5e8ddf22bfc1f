"""What is written down of requests: whose, what for and what came of it, and nothing that they said."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.echo import EchoEngine
from router.app import create_app
from router.audit.chain import files_in
from router.audit.verify import verify
from router.auth.key_text import digest_of
from router.auth.records import configured_owner
from router.settings import Settings
from tests.router.audit.test_log import Disk
from tests.support.raw import send
from tests.support.servers import AppServer, RedisProcess, wait_until

Json = dict[str, Any]
ALICE, BOB = (configured_owner(digest_of(key)) for key in ("alice-key", "bob-key"))
QUESTION = "图里有几只猫？"
PICTURE = (Path(__file__).parents[3] / "engines/pocket/samples").glob("*.png")
PNG = sorted(PICTURE)[0].read_bytes()
CHAT: Json = {
    "model": "glowl",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": QUESTION},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}},
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def audited(echo_urls: dict[str, str], redis_process: RedisProcess, folder: Path) -> Iterator[AppServer]:
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        api_keys="alice-key,bob-key",
        data_dir=folder,
        audit="on",
        audit_text=BOB,
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()


def records(folder: Path) -> list[Json]:
    log = folder / "audit"
    return [json.loads(line) for file in files_in(log) for line in (log / file.name).read_bytes().splitlines()]


def ask(api: AppServer, folder: Path, method: str, path: str, body: Json | None = None, key: str = "alice-key") -> Json:
    """Send a request, and return what is written down of it."""
    request_id = f"test-{len(records(folder))}-{path}"
    headers = {"authorization": f"Bearer {key}", "x-request-id": request_id}
    with httpx.Client(base_url=api.url, timeout=300, trust_env=False) as client:
        client.request(method, path, json=body, headers=headers)
    return found(folder, request_id)


def found(folder: Path, request_id: str) -> Json:
    matches = wait_until(lambda: [each for each in records(folder) if each.get("request_id") == request_id], "a record")
    assert len(matches) == 1
    record: Json = matches[0]
    return record


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_is_written_down_without_its_words(audited: AppServer, folder: Path, is_streamed: bool) -> None:
    record = ask(audited, folder, "POST", "/v1/chat/completions", {**CHAT, "stream": is_streamed})

    assert (
        record.items()
        >= {
            "kind": "request",
            "owner": ALICE,
            "address": "127.0.0.1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": 200,
            "outcome": "answered",
            "state": "completed",
            "route": "fast",
            "engine": "glm",
            "asked_model": "glowl",
            "pictures": [hashlib.sha256(PNG).hexdigest()],
            "finish_reason": "stop",
        }.items()
    )
    assert record["key_id"] not in ("", "alice-key")
    assert record["bytes_in"] > len(PNG)
    assert record["bytes_out"] > 100
    assert record["prompt_tokens"] > 0
    assert record["completion_tokens"] > 0
    assert "question" not in record
    text = "".join((folder / "audit" / file.name).read_text() for file in files_in(folder / "audit"))
    assert not any(secret in text for secret in (QUESTION, "alice-key", base64.b64encode(PNG).decode()[:60]))


def test_the_texts_of_owners_who_want_it_are_kept(audited: AppServer, folder: Path) -> None:
    record = ask(audited, folder, "POST", "/v1/responses", {"model": "glowl", "input": QUESTION}, key="bob-key")
    assert record["owner"] == BOB
    assert record["question"] == QUESTION
    assert QUESTION in record["answer"]


def test_a_job_is_written_down_as_it_was_accepted(audited: AppServer, folder: Path) -> None:
    body = {"model": "glowl", "input": "Why?", "background": True, "hybrid": {"route": "deep"}}
    record = ask(audited, folder, "POST", "/v1/responses", body)
    assert (record["status"], record["state"], record["route"], record["engine"]) == (200, "queued", "deep", "owl2")

    read = ask(audited, folder, "GET", f"/v1/responses/{record['response_id']}")
    assert (read["status"], read["path"]) == (200, f"/v1/responses/{record['response_id']}")


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status", "code"),
    [
        ("POST", "/v1/chat/completions", CHAT, "wrong-key", 401, "invalid_api_key"),
        ("POST", "/v1/chat/completions", {"model": "glowl"}, "alice-key", 400, "missing_required_parameter"),
        ("GET", "/v1/responses/resp_nothing", None, "alice-key", 404, "response_not_found"),
        ("GET", "/nowhere", None, "alice-key", 404, "not_found"),
    ],
)
def test_refusals_are_written_down_with_their_code(
    audited: AppServer, folder: Path, method: str, path: str, body: Json | None, key: str, status: int, code: str
) -> None:
    record = ask(audited, folder, method, path, body, key)
    assert (record["status"], record["outcome"], record["code"]) == (status, "refused", code)
    assert record["owner"] == ("" if status == 401 else ALICE)


def test_a_client_that_hangs_up_is_written_down(
    audited: AppServer, folder: Path, echoes: dict[str, EchoEngine]
) -> None:
    echoes["glm"].delta_delay_s = 5.0
    headers = {"authorization": "Bearer alice-key", "x-request-id": "gone"}
    with send(audited, "/v1/chat/completions", {**CHAT, "stream": True}, headers):
        pass
    assert found(folder, "gone")["outcome"] == "broken_off"


def test_probes_are_not_and_the_log_is_right(audited: AppServer, folder: Path) -> None:
    ask(audited, folder, "GET", "/v1/models")
    with httpx.Client(base_url=audited.url, trust_env=False) as client:
        client.get("/healthz")
        client.get("/readyz")
    last = ask(audited, folder, "GET", "/v1/models")
    assert records(folder)[-2]["path"] == last["path"] == "/v1/models"
    assert verify(folder / "audit").is_good


class FullDisk:
    """A disk of 256 KB that a test fills, and empties again; a fake one where nobody may mount a real one."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"
        self.fake = Disk()
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
        self.is_real = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
        self._folder = folder

    def fill(self) -> None:
        self.fake.is_full = not self.is_real
        if self.is_real:
            with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

    def empty(self) -> None:
        self.fake.is_full = False
        self._filler.unlink(missing_ok=True)

    def end(self) -> None:
        if self.is_real:
            subprocess.run(["umount", str(self._folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[FullDisk]:
    disk = FullDisk(tmp_path / "data")
    yield disk
    disk.end()


def test_a_full_disk_refuses_what_must_be_written_down_until_there_is_room(
    echo_urls: dict[str, str], redis_process: RedisProcess, tmp_path: Path, full_disk: FullDisk
) -> None:
    # Given an api that answers nothing without a record
    data = tmp_path / "data"
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=echo_urls["glm"],
        owl2_url=echo_urls["owl2"],
        data_dir=data,
        audit="required",
    )
    server = AppServer(create_app(settings))
    if not full_disk.is_real:
        server._app.state.services.audit._writer._write = full_disk.fake
    body = {"model": "glowl", "messages": [{"role": "user", "content": "你好"}]}
    sent: list[tuple[str, int]] = []
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http:

        def status() -> int:
            answer = http.post("/v1/chat/completions", json=body)
            sent.append((answer.headers["x-request-id"], answer.status_code))
            return answer.status_code

        def readiness() -> tuple[int, str]:
            answer = http.get("/readyz")
            return answer.status_code, answer.json()["audit"]

        assert (status(), readiness()) == (200, (200, "up"))

        # When its disk is full
        full_disk.fill()

        # Then requests are refused as soon as a line does not fit, and probes see why
        refused = wait_until(lambda: status() == 503 and http.post("/v1/chat/completions", json=body), "a refusal")
        assert refused.json()["error"]["code"] == "audit_unavailable"
        assert refused.headers["retry-after"] == "5"
        assert readiness() == (503, "failing")
        # And when there is room again, it goes on by itself, with nothing missing.
        full_disk.empty()
        wait_until(lambda: readiness() == (200, "up"), "the log to be written again")
        assert status() == 200
    server.stop()
    written = {each["request_id"]: each["status"] for each in records(data) if each["kind"] == "request"}
    assert dict(sent).items() <= written.items()
    report = verify(data / "audit")
    assert report.is_good
    assert [note for chain in report.chains for note in chain.notes] == []
