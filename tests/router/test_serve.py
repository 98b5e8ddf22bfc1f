"""The api's server: what it writes down of those who ask."""

import logging

import pytest

from router.serve import _is_no_probe


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
