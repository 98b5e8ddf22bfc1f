"""A machine is lost with open jobs; on another one everything goes on from a backup made while it worked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

QUESTION = "What colour is the owl on the left, and why?"


def glowl(stack: ProcessStack, *arguments: str) -> str:
    command = [sys.executable, "-m", "router.cli", *arguments]
    done = subprocess.run(command, env={**os.environ, **stack.env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_open_jobs_files_and_keys_go_on_from_a_backup(tmp_path: Path) -> None:
    # Given an owner with a file, a job that has ended, and jobs that have not
    stack = ProcessStack(delay_s=0.3, env={"GLOWL_LEASE_S": "1.5", "GLOWL_RESEND_AFTER_S": "3", "GLOWL_DRAIN_S": "0.3"})
    try:
        stack.start()
        stack.wait_ready()
        glowl(stack, "owners", "create", "alice")
        key = glowl(stack, "keys", "create", "alice")
        with httpx.Client(
            base_url=stack.urls[0], timeout=60, trust_env=False, headers={"authorization": f"Bearer {key}"}
        ) as http:

            def ask() -> str:
                body = {"model": "glowl", "input": QUESTION, "background": True, "hybrid": {"route": "deep"}}
                return str(http.post("/v1/responses", json=body).raise_for_status().json()["id"])

            def ended(job_id: str) -> dict[str, Any] | None:
                job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
                return job if job["completed_at"] else None

            upload = http.post("/v1/files", files={"file": ("notes.jsonl", b"{}\n")}, data={"purpose": "batch"})
            first = ask()
            before = wait_until(lambda: ended(first), "the first job")
            ids = [ask() for _ in range(3)]

            # When a backup is made, and then everything is lost
            glowl(stack, "backup", str(tmp_path / "b.gz"))
            for name in list(stack.processes):
                stack.kill(name)
            shutil.rmtree(stack.dir / "appendonlydir")
            stack.start("redis")
            glowl(stack, "restore", str(tmp_path / "b.gz"))
            stack.start(*(name for name in stack.names if name != "redis"))
            stack.wait_ready()

            # Then the key is good, what had ended is as it was, and what had not ends
            assert ended(first) == before
            assert http.get(f"/v1/files/{upload.json()['id']}/content").content == b"{}\n"
            for job_id in ids:
                done = wait_until(lambda job_id=job_id: ended(job_id), f"{job_id} to end")  # type: ignore[misc]
                assert done["status"] == "completed"
                assert done["final"]["text"].endswith(QUESTION)
    finally:
        stack.stop()
