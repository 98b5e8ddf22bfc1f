"""The api's server: how it ends, and its second port."""

import signal
import sys

import httpx
import pytest

from tests.support.servers import Process, free_port, wait_until


@pytest.mark.e2e
def test_an_api_that_is_asked_to_end_ends_without_an_error(tmp_path):
    # Given an api, with nothing behind it
    port = free_port()
    env = {"REDIS_URL": "redis://127.0.0.1:1/0", "GLOWL_DRAIN_NOTICE_S": "0"}
    api = Process([sys.executable, "-m", "router.cli", "api", "--port", str(port)], tmp_path / "api.log", env)

    def lives() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(lives, "the api")

    api.child.send_signal(signal.SIGTERM)

    assert api.child.wait(300) == 0
    api.stop()
    log = (tmp_path / "api.log").read_text()
    assert "Application shutdown complete." in log
    assert "Traceback" not in log


@pytest.mark.e2e
def test_the_page_has_a_port_of_its_own_where_that_is_free(tmp_path):
    # Given two apis that are to serve the page at the same port
    env = {"REDIS_URL": "redis://127.0.0.1:1/0", "GLOWL_DRAIN_NOTICE_S": "0", "GLOWL_UI_PORT": str(free_port())}
    page = f"http://127.0.0.1:{env['GLOWL_UI_PORT']}"
    ports = [free_port(), free_port()]

    def start(port: int) -> Process:
        argv = [sys.executable, "-m", "router.cli", "api", "--port", str(port)]
        process = Process(argv, tmp_path / f"{port}.log", env)
        wait_until(lambda: is_served(f"http://127.0.0.1:{port}"), "the api")
        return process

    def is_served(url: str) -> bool:
        try:
            return httpx.get(f"{url}/ui/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    first, second = (start(port) for port in ports)
    # Then the first one has it, page and api, and the second one does without and says so
    assert is_served(page)
    assert httpx.get(f"{page}/healthz", trust_env=False).json() == {"status": "ok"}
    assert "the page has no port of its own" in (tmp_path / f"{ports[1]}.log").read_text()
    # And it is given up with the process
    first.stop()
    assert not is_served(page)
    assert is_served(f"http://127.0.0.1:{ports[1]}")
    second.stop()
