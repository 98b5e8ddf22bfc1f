#!/usr/bin/env python3
"""Bring compose.yaml up on this machine's docker, ask it, break it, and take it down again.

    python3 deploy/check_compose.py              # 5 to 20 minutes, by what has to be downloaded and built
    python3 deploy/check_compose.py --edge       # the same through nginx, with two apis
    python3 deploy/check_compose.py --keep       # leave it running

Out: a line per check; exit status 1 if one failed. It is a project of its own, glowl-check, on a port of its own: what
runs here already stays as it is. What .env says is said to it too. Needs docker compose and Python alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "engines/pocket/samples"
# One container of each kind.
KINDS = ("redis", "api", "worker", "worker-owl2", "worker-light", "glm", "owl2")
HEALTHY_S = 300.0
ENDED_S = 300.0


class Project:
    """The containers of one run.

    Args:
        port: where the service is published.
        has_edge: whether nginx stands in front of two apis.
    """

    def __init__(self, port: int, *, has_edge: bool) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.kinds = (*KINDS, "edge") if has_edge else KINDS
        files = ["compose.yaml", *(["deploy/compose.edge.yaml"] if has_edge else [])]
        profiles = ["cpu", *(["edge"] if has_edge else [])]
        self._command = ["docker", "compose", "-p", "glowl-check"]
        self._command += [word for file in files for word in ("-f", file)]
        self._command += [word for profile in profiles for word in ("--profile", profile)]
        self._env = {**os.environ, "GLOWL_PORT": str(port), "EDGE_PORT": str(port)}

    def compose(self, *arguments: str, is_checked: bool = True) -> str:
        """Run docker compose, and return what it printed.

        Raises:
            SystemExit: if it failed, with its last lines.
        """
        command = [*self._command, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, text=True)
        if is_checked and done.returncode:
            raise SystemExit(f"docker compose {' '.join(arguments)}: {(done.stderr or done.stdout)[-1500:]}")
        return done.stdout

    def up(self, *options: str) -> None:
        """Start everything, and wait until it is healthy."""
        self.compose("up", *options, "--wait")

    def containers(self) -> list[dict[str, Any]]:
        """Every container, running or not."""
        listed = self.compose("ps", "--all", "--format", "json").strip()
        found = json.loads(listed) if listed.startswith("[") else [json.loads(line) for line in listed.splitlines()]
        return [each for each in found if isinstance(each, dict)]

    def is_healthy(self) -> bool:
        """Whether all are."""
        return all(each["State"] == "running" and each["Health"] == "healthy" for each in self.containers())

    def started_at(self, service: str) -> list[str]:
        """When each container of a service began, as docker says it."""
        ids = self.compose("ps", "--quiet", service).split()
        done = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.StartedAt}}", *ids], capture_output=True, text=True
        )
        return sorted(done.stdout.split())

    def crash(self, service: str) -> None:
        """Kill a container's processes from within: what `docker kill` ends is not started again."""
        self.compose("exec", "-T", service, "sh", "-c", "kill -9 -1", is_checked=False)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the service; status 0 where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        # The questions repeat, and an answer from the cache would show nothing.
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        request = urllib.request.Request(self.base + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")[:300]
        except OSError as error:
            return 0, repr(error)


def picture(name: str) -> str:
    """A shipped picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode((SAMPLES / name).read_bytes()).decode()


def wait_until(is_true: Callable[[], bool], limit_s: float) -> float | None:
    """Seconds until it was so, or None."""
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        if is_true():
            return round(time.monotonic() - started, 1)
        time.sleep(0.5)
    return None


class Checks:
    """What is looked at, one line each.

    Args:
        project: what is looked at.
    """

    def __init__(self, project: Project) -> None:
        self.num_failed = 0
        self._project = project

    def note(self, what: str, is_right: bool, **found: Any) -> None:
        """Print a line."""
        self.num_failed += not is_right
        details = ", ".join(f"{name} {value}" for name, value in found.items())
        print(f"{'ok    ' if is_right else 'FAILED'} {what}: {details}", flush=True)

    def up(self) -> None:
        """Build and start."""
        started = time.monotonic()
        self._project.up("--build")
        self.note("up --build --wait", self._project.is_healthy(), s=round(time.monotonic() - started))

    def ask(self) -> None:
        """A question that is answered at once, and one that becomes a job."""
        status, body = self._project.call(
            "POST",
            "/v1/chat/completions",
            {
                "model": "glowl",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "图中的菱形是什么颜色的？"},
                            {"type": "image_url", "image_url": {"url": picture("colour.png")}},
                        ],
                    }
                ],
            },
        )
        answer = body["choices"][0]["message"]["content"] if status == 200 else body
        self.note("a fast question", status == 200 and "粉" in answer, answer=answer)
        self.ended("a deep question", [self.begin()])

    def begin(self) -> str:
        """Begin a job; its id."""
        wanted = [{"type": "input_image", "image_url": picture(f"more-{number}.png")} for number in (1, 2)]
        asked = {"type": "input_text", "text": "Which of the two pictures shows more blue shapes?"}
        body = {"model": "glowl", "background": True, "input": [{"role": "user", "content": [asked, *wanted]}]}
        status, job = self._project.call("POST", "/v1/responses", body)
        return str(job["id"]) if status == 200 else f"refused with {status}: {job}"

    def ended(self, what: str, jobs: list[str], **found: Any) -> None:
        """Wait for the end of jobs."""
        answers = [self._answer(job) for job in jobs]
        self.note(what, all("second" in answer.lower() for answer in answers), **found, answers=answers)

    def _answer(self, job: str) -> str:
        if not job.startswith("resp_"):
            return job
        last: list[Any] = [None]

        def has_ended() -> bool:
            status, body = self._project.call("GET", f"/v1/responses/{job}")
            last[0] = body
            return status == 200 and body["status"] not in ("queued", "in_progress")

        if wait_until(has_ended, ENDED_S) is None or last[0]["status"] != "completed":
            return f"not completed: {str(last[0])[:300]}"
        parts = [part for item in last[0]["output"] for part in item.get("content", [])]
        return "".join(part.get("text", "") for part in parts)

    def crash(self, service: str) -> None:
        """SIGKILL in a container while jobs run: it comes back, and they end."""
        before, jobs = self._project.started_at(service), [self.begin() for _ in range(2)]
        self._project.crash(service)
        back_s = wait_until(
            lambda: self._project.started_at(service) != before and self._project.is_healthy(), HEALTHY_S
        )
        self.ended(f"kill -9 in {service}", jobs, healthy_after_s=back_s)
        if back_s is None:
            self.note(f"{service} is healthy again", False, containers=self._project.containers())

    def down_and_up(self) -> None:
        """All containers removed and made anew while jobs are open."""
        jobs = [self.begin() for _ in range(3)]
        self._project.compose("down")
        self._project.up()
        self.ended("down and up with open jobs", jobs)


def main() -> int:
    """Run all checks; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8471, help="where it is published on 127.0.0.1")
    parser.add_argument("--edge", action="store_true", help="with nginx in front of two apis")
    parser.add_argument("--keep", action="store_true", help="leave it running at the end")
    arguments = parser.parse_args()
    project = Project(arguments.port, has_edge=arguments.edge)
    checks = Checks(project)
    try:
        checks.up()
        checks.ask()
        for service in project.kinds:
            checks.crash(service)
        checks.down_and_up()
    finally:
        if not arguments.keep:
            project.compose("down", "--volumes", is_checked=False)
    print("all well" if not checks.num_failed else f"{checks.num_failed} checks failed")
    return int(bool(checks.num_failed))


if __name__ == "__main__":
    sys.exit(main())
