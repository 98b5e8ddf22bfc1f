"""Everything is stopped, or killed, with open jobs, and started again: the engines load, and then all jobs are done."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ENGLISH, CHINESE = "What colour is the owl on the left, and why?", "左边的猫头鹰是什么颜色？为什么？"
DEEP = {"route": "deep"}
BODIES: tuple[dict[str, Any], ...] = (
    {"model": "glowl", "input": ENGLISH, "hybrid": DEEP},
    {"model": "glowl", "input": CHINESE, "hybrid": DEEP},
    {"model": "mplug-owl2", "input": ENGLISH},
    {"model": "glm-4.6v-flash", "input": CHINESE},
)
# Longer than three runs a second apart, which is how soon such jobs once failed.
LOAD_S = 6.0


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_open_jobs_are_done_after_everything_was_started_again(is_killed: bool) -> None:
    # Given jobs, of which some have begun and none has ended
    env = {"GLOWL_LEASE_S": "1.5", "GLOWL_RESEND_AFTER_S": "3", "GLOWL_DRAIN_S": "0.3"}
    stack = ProcessStack(delay_s=0.3, env=env)
    try:
        stack.start()
        stack.wait_ready()
        with httpx.Client(base_url=stack.urls[0], timeout=300, trust_env=False) as http:
            ids = [http.post("/v1/responses", json={**body, "background": True}).json()["id"] for body in BODIES * 2]

            def look(job_id: str) -> dict[str, Any]:
                found: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
                return found

            wait_until(lambda: any(unit["runs"] for unit in look(ids[2])["units"]), "a run")

            # When everything ends at a time, and starts again with engines that load
            if is_killed:
                for name in list(stack.processes):
                    stack.kill(name)
            else:
                stack.end()
            stack.load_for(LOAD_S)
            stack.start()

            # Then each has its answer, by the engine that was to give it, and nothing ran out of runs
            stack.wait_ready("glm", "owl2", "api0", "worker0")
            for job_id, body in zip(ids, BODIES * 2, strict=True):
                done = wait_until(
                    lambda job_id=job_id: (job := look(job_id))["completed_at"] and job,  # type: ignore[misc]
                    f"{job_id} to end",
                )
                assert done["status"] == "completed", done
                final = done["final"]
                assert final["text"].endswith(body["input"]), final
                units = {unit["name"]: unit for unit in done["units"]}
                assert units.get("deep", units.get("fast"))["status"] == "completed", units
                assert max(unit["failures"] for unit in done["units"]) <= 1
    finally:
        stack.stop()
