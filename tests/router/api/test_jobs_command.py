"""`glowl jobs` against a real api: what it prints and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from router.cli import responses
from router.cli.main import app
from router.jobs.results import FinalAnswer, UnitResult
from router.jobs.store import JobStore
from tests.router.api.routes.test_jobs import accept, fail, on_store
from tests.support.jobs import make_spec
from tests.support.servers import AppServer, RedisProcess

Glowl = Callable[..., Result]


@pytest.fixture(autouse=True)
def _empty(redis_process: RedisProcess) -> None:
    redis_process.flush()


@pytest.fixture
def glowl(api: AppServer) -> Glowl:
    def run(*arguments: str, lang: str = "en") -> Result:
        return CliRunner().invoke(app, ["jobs", *arguments, "--url", api.url, "--lang", lang])

    return run


async def complete(store: JobStore, job_id: str) -> None:
    for name in ("draft", "deep"):
        epoch = await store.claim(job_id, name) or 0
        await store.append(job_id, name, epoch, f"{name} owl")
        await store.finish(job_id, name, epoch, UnitResult(text=f"{name} owl", model="m"))
    merge = await store.claim(job_id, "merge") or 0
    await store.complete(job_id, merge, final=FinalAnswer("deep owl", "m", "owl2", "deep"))


def test_failed_jobs_are_listed_with_their_reason_and_retried(
    http: httpx.Client, glowl: Glowl, redis_process: RedisProcess
) -> None:
    running, failed = accept(http, 2)
    on_store(redis_process, lambda store: fail(store, failed))

    listed = glowl("list", "--state", "failed")

    assert failed in listed.stdout
    assert running not in listed.stdout
    assert "server_error: the card is on fire" in listed.stdout
    assert "原因" in glowl("list", lang="zh").stdout
    shown = glowl("show", failed)
    assert f"{failed}: failed" in shown.stdout
    assert "draft" in shown.stdout
    assert glowl("retry", failed).stdout == f"{failed} is queued again\n"
    assert http.get(f"/v1/jobs/{failed}").json()["status"] == "queued"
    again = glowl("retry", failed)
    assert (again.exit_code, "Only a failed job" in again.stderr) == (1, True)
    assert "只有失败的任务" in glowl("retry", failed, lang="zh").stderr


def test_lists_go_on_over_pages_and_are_json_for_scripts(http: httpx.Client, glowl: Glowl) -> None:
    assert glowl("list").stdout == "none\n"
    ids = accept(http, 3)

    first = glowl("list", "--limit", "2")
    rest = glowl("list", "--after", ids[1], "--json")

    assert [job_id in first.stdout for job_id in ids] == [False, True, True]
    assert f"more: --after {ids[1]}" in first.stdout
    assert [json.loads(line)["id"] for line in rest.stdout.splitlines()] == [ids[0]]


def test_lines_of_a_batch_are_listed_when_asked_for(
    http: httpx.Client, glowl: Glowl, redis_process: RedisProcess
) -> None:
    (mine,) = accept(http)
    on_store(redis_process, lambda store: store.create(make_spec(id="resp_line", priority="batch", batch_id="batch_1")))

    everything, lines = glowl("list", "--json"), glowl("list", "--batch", "batch_1", "--json")

    assert [json.loads(line)["id"] for line in everything.stdout.splitlines()] == [mine]
    assert [json.loads(line)["id"] for line in lines.stdout.splitlines()] == ["resp_line"]
    unknown = glowl("list", "--batch", "batch_2")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "batch_2" in unknown.stderr


def test_wait_ends_with_the_outcome(http: httpx.Client, glowl: Glowl, redis_process: RedisProcess) -> None:
    good, bad, cancelled, waiting = accept(http, 4)
    on_store(redis_process, lambda store: fail(store, bad))
    assert glowl("cancel", cancelled).stdout == f"{cancelled}: cancelled\n"

    # Given one that ends only while it is waited for
    results: list[Result] = []
    waiter = threading.Thread(target=lambda: results.append(glowl("wait", good, "--json")))
    waiter.start()
    on_store(redis_process, lambda store: complete(store, good))
    waiter.join(300)

    assert results[0].exit_code == 0
    assert json.loads(results[0].stdout)["output"][-1]["content"][0]["text"] == "deep owl"
    for job_id, state in [(bad, "failed"), (cancelled, "cancelled")]:
        ended = glowl("wait", job_id)
        assert (ended.exit_code, ended.stdout) == (1, f"{job_id}: {state}\n")
    late = glowl("wait", waiting, "--timeout", "0")
    assert (late.exit_code, late.stderr) == (1, f"glowl: {waiting} has not ended within 0 s\n")
    assert glowl("wait", "resp_nobody").exit_code == 1


def test_tail_prints_what_is_said_and_every_event_as_json(
    http: httpx.Client, glowl: Glowl, redis_process: RedisProcess
) -> None:
    (job_id,) = accept(http)
    on_store(redis_process, lambda store: complete(store, job_id))

    told = glowl("tail", job_id)
    events = [json.loads(line) for line in glowl("tail", job_id, "--json").stdout.splitlines()]

    assert told.stdout == f"**Draft by glm-4.6v-flash-echo**\n\ndraft owl\nanswer:\ndeep owl\n{job_id}: completed\n"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


class Cutting(BaseHTTPRequestHandler):
    """A service that goes away after every second event, and once says that it is not there."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if len(self.asked) == 2:
            self.send_response(503)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        after = int(self.path.rpartition("=")[2])
        for number in (after + 1, after + 2):
            kind = "response.completed" if number == 3 else "response.in_progress"
            event = {"type": kind, "sequence_number": number, "response": {"status": kind.removeprefix("response.")}}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def cutting() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Cutting,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stream_that_breaks_is_taken_up_where_it_was(
    cutting: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_RECONNECT_S", 0.0)
    url, asked = cutting

    told = CliRunner().invoke(app, ["jobs", "tail", "resp_1", "--json", "--url", url])

    assert [json.loads(line)["sequence_number"] for line in told.stdout.splitlines()] == [0, 1, 2, 3]
    assert [path.rpartition("=")[2] for path in asked] == ["-1", "1", "1"]


def test_a_service_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "_RECONNECT_S", 0.0)
    monkeypatch.setattr("router.cli.jobs.PATIENCE_S", 0.0)

    told = CliRunner().invoke(app, ["jobs", "wait", "resp_1", "--url", "http://127.0.0.1:9"])

    assert (told.exit_code, "could not be resumed" in told.stderr) == (1, True)
