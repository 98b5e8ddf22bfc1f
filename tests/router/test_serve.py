"""The api's server: what it writes down of those who ask."""

import logging
import signal
import sys

import httpx
import pytest
import uvicorn
from uvicorn.logging import AccessFormatter

from router.serve import AccessLines, _is_no_probe
from tests.support.servers import Process, free_port, wait_until


@pytest.mark.parametrize(
    ("method", "path", "status", "is_written"),
    [
        ("GET", "/healthz", 200, False),
        ("GET", "/readyz?verbose", 200, False),
        ("GET", "/readyz", 503, True),
        ("GET", "/v1/models", 200, True),
        ("POST", "/v1/chat/completions", 500, True),
    ],
)
def test_good_answers_to_probes_are_not_written_down(method, path, status, is_written):
    # Given a record as uvicorn's access log makes it
    args = ("127.0.0.1:1", method, path, "1.1", status)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    assert _is_no_probe(record) is is_written


@pytest.mark.parametrize("status", [200, 404, 499, 503])
def test_an_access_is_written_as_uvicorn_writes_it(status):
    args = ("127.0.0.1:1", "POST", "/v1/responses?a=%20b", "1.1", status)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    theirs = AccessFormatter(uvicorn.config.LOGGING_CONFIG["formatters"]["access"]["fmt"], use_colors=False)
    assert AccessLines().format(record) == theirs.format(record)


def test_a_record_of_another_shape_is_written_down():
    assert _is_no_probe(logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "words", None, None))


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
