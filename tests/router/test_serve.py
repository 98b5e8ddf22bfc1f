"""The api's server: what it writes down of those who ask."""

import logging
import signal
import sys

import httpx
import pytest

from router.serve import _is_no_probe
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

    assert api.child.wait(60) == 0
    api.stop()
    log = (tmp_path / "api.log").read_text()
    assert "Application shutdown complete." in log
    assert "Traceback" not in log
