"""Restarts, on purpose and not: what was accepted is done, once, and nobody has to restart anything else."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

import httpx
import pytest
import redis

from engines.base import GenerationFailedError
from tests.journeys.conftest import Stack
from tests.support.servers import Process, free_port, start_worker, wait_until

pytestmark = pytest.mark.e2e

# Runs are counted, and no worker dies without a word: a busy machine must not look like one that did.
LEASE_S = 300.0
QUESTION = "What colour is the owl on the left?"
ANSWER = f"[echo owl2] no pictures, question: {QUESTION}"


def units_of(stack: Stack, response_id: str) -> dict[str, Any]:
    with stack.http as http:
        return {unit["name"]: unit for unit in http.get(f"/v1/jobs/{response_id}").json()["units"]}


def accept(stack: Stack) -> str:
    return stack.client.responses.create(model="glowl", input=QUESTION, background=True).id


def test_a_worker_that_is_told_to_end_finishes_what_it_can_in_time(stack: Stack) -> None:
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.05
    response_id = accept(stack)
    wait_until(lambda: engine.num_running > 0, "the deep branch to run")

    stack.worker.child.send_signal(signal.SIGTERM)
    assert stack.worker.child.wait(300) == 0
    stack.worker.stop()
    stack.restart_worker()

    assert stack.wait_for(response_id, "completed").output_text == ANSWER
    assert units_of(stack, response_id)["deep"]["runs"] == 1


def test_a_worker_that_cannot_finish_in_time_hands_back_and_another_goes_on(stack: Stack) -> None:
    # Given a run that would take for ever, and another worker beside
    stack.worker.stop()
    stack.worker = start_worker({**stack.env, "GLOWL_DRAIN_S": "0.2"}, stack.dir / "worker.log")
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 3600.0
    response_id = accept(stack)
    wait_until(lambda: engine.num_running > 0, "the deep branch to run")
    leaving = stack.worker
    stack.restart_worker()

    # When the first is told to end
    engine.delta_delay_s = 0.0
    leaving.child.send_signal(signal.SIGTERM)

    # Then the other does it, and it counts as no failure
    assert stack.wait_for(response_id, "completed").output_text == ANSWER
    deep = units_of(stack, response_id)["deep"]
    assert (deep["runs"], deep["failures"]) == (2, 0)
    assert leaving.child.wait(300) == 0
    leaving.stop()


def test_a_redis_that_is_killed_and_comes_back_loses_nothing_and_needs_no_restart(stack: Stack) -> None:
    # Given a job that runs, one whose stream is read, and many that wait. What redis gave to a worker that it could not
    # answer any more, is soon given again.
    stack.worker.stop()
    stack.worker = start_worker({**stack.env, "GLOWL_LEASE_S": "1.5"}, stack.dir / "worker.log")
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.2
    accepted = [accept(stack) for _ in range(10)]
    events: list[Any] = []
    reader = threading.Thread(
        target=lambda: events.extend(stack.client.responses.retrieve(accepted[0], stream=True)), daemon=True
    )
    reader.start()
    wait_until(lambda: engine.num_running > 0 and events, "a run and a stream")

    # When redis is killed, callers are told to come back
    stack.redis.kill()
    with stack.http as http:
        for refused in (
            http.post("/v1/responses", json={"model": "glowl", "input": QUESTION, "background": True}),
            http.get(f"/v1/responses/{accepted[0]}"),
            http.get(f"/v1/jobs/{accepted[0]}"),
            http.post("/v1/responses", json={"model": "glowl", "input": "你好"}, headers={"Idempotency-Key": "away"}),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_unavailable")
            assert int(refused.headers["retry-after"]) >= 1

    # Then, once it is back, everything that was accepted is answered
    stack.redis.start()
    engine.delta_delay_s = 0.0
    for response_id in accepted:
        assert stack.wait_for(response_id, "completed").output_text == ANSWER
    reader.join(300)
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert stack.wait_for(accept(stack), "completed").output_text == ANSWER
    stack.worker.stop()
    stack.restart_worker()


def test_a_redis_that_lacks_a_replica_for_a_while_loses_nothing_and_ends_no_worker(stack: Stack) -> None:
    # Given jobs that run and that wait
    stack.worker.stop()
    log = stack.dir / "patient.log"
    stack.worker = start_worker({**stack.env, "GLOWL_LEASE_S": "1.5"}, log)
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.2
    accepted = [accept(stack) for _ in range(6)]
    wait_until(lambda: engine.num_running > 0, "a run")

    with redis.Redis.from_url(stack.redis.url) as client:
        # When redis refuses writes, as a master does that lost its replicas
        client.config_set("min-replicas-to-write", 1)
        with stack.http as http:
            refused = http.post("/v1/responses", json={"model": "glowl", "input": QUESTION, "background": True})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_unavailable")
        wait_until(lambda: log.read_text(encoding="utf-8").count("Cannot connect") >= 2, "attempts of the worker")
        client.config_set("min-replicas-to-write", 0)

    # Then the worker goes on, once it takes writes again, and everything that was accepted is answered
    engine.delta_delay_s = 0.0
    for response_id in accepted:
        assert stack.wait_for(response_id, "completed").output_text == ANSWER
    assert stack.worker.child.poll() is None
    stack.worker.stop()
    stack.restart_worker()


def test_a_job_that_failed_is_begun_again_when_the_engine_is_well(stack: Stack) -> None:
    for engine in stack.engines.values():
        engine.fail_with = GenerationFailedError("the card is on fire")
    response_id = accept(stack)
    stack.wait_for(response_id, "failed")
    for engine in stack.engines.values():
        engine.fail_with = None

    with stack.http as http:
        # A worker may be quicker than the answer to the call.
        assert http.post(f"/v1/jobs/{response_id}/retry").json()["status"] in ("queued", "in_progress", "completed")

    assert stack.wait_for(response_id, "completed").output_text == ANSWER


def test_an_api_that_is_told_to_end_says_so_first_and_lets_its_streams_end(stack: Stack) -> None:
    # Given an api process of its own, in the middle of a stream
    port = free_port()
    argv = [sys.executable, "-m", "router.cli", "api", "--port", str(port)]
    api = Process(argv, stack.dir / "api.log", {**stack.env, "GLOWL_DRAIN_NOTICE_S": "1"})
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as http:

        def status() -> int:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code
            except httpx.TransportError:
                return 0

        wait_until(lambda: status() == 200, "the api")
        engine = stack.engines["glm"]
        engine.delta_delay_s = 0.2
        body = {"model": "glowl", "input": "你好，你好吗？", "stream": True}
        with http.stream("POST", "/v1/responses", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: response.created"

            # When it is told to end
            api.child.send_signal(signal.SIGTERM)

            # Then it is not ready any more, and still answers; then it listens no longer
            def is_draining() -> bool:
                with httpx.Client(trust_env=False) as other:
                    answer = other.get(f"http://127.0.0.1:{port}/readyz")
                    return (answer.status_code, answer.json()["status"]) == (503, "draining")

            wait_until(is_draining, "the notice")
            assert httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).status_code == 200
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    engine.delta_delay_s = 0.0
    assert events[-1]["type"] == "response.completed"
    api.child.wait(300)
    assert status() == 0
    api.stop()


def test_an_api_that_must_end_before_its_answer_refuses_it_and_another_api_answers(stack: Stack) -> None:
    # Given an api process of its own that answers a question for ever
    port = free_port()
    argv = [sys.executable, "-m", "router.cli", "api", "--port", str(port)]
    api = Process(argv, stack.dir / "api.log", {**stack.env, "GLOWL_DRAIN_NOTICE_S": "0", "GLOWL_DRAIN_S": "0"})
    base = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{base}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_ready, "the api")
    engine = stack.engines["glm"]
    engine.delta_delay_s = 3600.0
    body = {"model": "glowl", "input": "你好，你好吗？"}
    key = {"Idempotency-Key": "ends before"}
    answers: list[httpx.Response] = []
    ask = {"json": body, "headers": key, "timeout": 300, "trust_env": False}
    asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{base}/v1/responses", **ask)), daemon=True)
    asking.start()
    wait_until(lambda: engine.num_running > 0, "the run")

    # When it is told to end, then it says so in the answer, and nothing runs on
    api.child.send_signal(signal.SIGTERM)
    asking.join(300)
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "shutting_down")
    assert answers[0].headers["retry-after"] == "1"
    assert api.child.wait(300) == 0
    api.stop()
    log = (stack.dir / "api.log").read_text()
    assert "not ended within 0 s, so broken off: 1 requests" in log
    assert "Traceback" not in log
    wait_until(lambda: engine.num_running == 0, "the run to be ended")

    # And the same request, sent again, is answered by another
    engine.delta_delay_s = 0.0
    with stack.http as http:
        again = http.post("/v1/responses", json=body, headers=key)
        assert (again.status_code, again.json()["status"]) == (200, "completed")


def test_a_rolling_restart_of_everything_but_redis_loses_nothing(stack: Stack) -> None:
    # Given work that goes on while both processes are replaced, one after the other
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.02
    accepted = [accept(stack) for _ in range(4)]
    old = stack.worker
    stack.restart_worker()
    old.child.send_signal(signal.SIGTERM)
    accepted += [accept(stack) for _ in range(4)]
    stack.api.stop()
    stack.api.start()
    accepted += [accept(stack) for _ in range(4)]

    for response_id in accepted:
        assert stack.wait_for(response_id, "completed").output_text == ANSWER
        deep = units_of(stack, response_id)["deep"]
        assert (deep["runs"], deep["failures"]) == (1, 0)
    assert old.child.wait(300) == 0
    old.stop()
