"""GLM accepts and never answers: what needs only Owl2 comes all the same, and is told, in the product's own layout."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx
import orjson
import pytest

from router.cli.specs import WORKERS
from tests.support.receiver import Receiver
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

pytestmark = pytest.mark.e2e


@pytest.fixture
def processes() -> Iterator[ProcessStack]:
    stack = ProcessStack(workers=list(WORKERS.values()))
    try:
        stack.start()
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def test_jobs_of_owl2_end_and_are_told_while_glm_says_nothing_and_holds_all_its_places(
    processes: ProcessStack, receiver: Receiver
) -> None:
    glm = processes.processes["glm"].child.pid
    os.kill(glm, signal.SIGSTOP)
    try:
        with httpx.Client(base_url=processes.urls[0], timeout=300, trust_env=False) as http:

            def begin(model: str, **more: object) -> str:
                body = {"model": model, "input": "How many boxes are open?", "background": True, **more}
                answer = http.post("/v1/responses", json=body)
                assert answer.status_code == 200, answer.text
                return str(answer.json()["id"])

            # Given more jobs of GLM alone than its worker has places
            stuck = [begin("glm-4.6v-flash") for _ in range(12)]

            told = {"metadata": {"webhook_url": receiver.url}}
            alone = [begin("mplug-owl2", **told) for _ in range(4)]
            pairs = [begin("glowl", hybrid={"route": "deep", "merge": "deep"}, **told) for _ in range(4)]

            heard = {orjson.loads(receiver.next()[1])["data"]["id"] for _ in range(8)}
            assert heard == {*alone, *pairs}
            for job_id in heard:
                answer = http.get(f"/v1/responses/{job_id}").json()
                assert answer["status"] == "completed"
                assert answer["hybrid"]["engine"] == "owl2"
            assert not any(http.get(f"/v1/responses/{job_id}").json()["status"] == "completed" for job_id in stuck)

            # Then GLM wakes up, and nothing of it was lost
            os.kill(glm, signal.SIGCONT)
            for job_id in stuck:
                wait_until(
                    lambda job_id=job_id: http.get(f"/v1/responses/{job_id}").json()["status"] == "completed", job_id
                )
    finally:
        os.kill(glm, signal.SIGCONT)
