"""What a worker shows of itself, if it is told where."""

from __future__ import annotations

import urllib.request

import pytest
from pydantic import ValidationError

from router.settings import Settings
from router.telemetry.worker import WorkerMeters
from tests.support.servers import free_port


def test_tickets_are_shown_on_an_address_of_its_own() -> None:
    meters = WorkerMeters()
    with meters.ticket("glm"):
        pass
    with pytest.raises(ZeroDivisionError), meters.ticket("owl2"):
        raise ZeroDivisionError
    with meters.ticket("made up by whoever sends messages"):
        port = meters.serve(("127.0.0.1", 0))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    assert 'glowl_worker_tickets_total{outcome="done",queue="glm"} 1.0' in text
    assert 'glowl_worker_tickets_total{outcome="error",queue="owl2"} 1.0' in text
    assert 'glowl_worker_tickets_running{queue="other"} 1.0' in text
    assert "made up" not in text


def test_workers_of_one_machine_take_one_port_after_the_other() -> None:
    first = WorkerMeters().serve(("127.0.0.1", free_port()))
    second = WorkerMeters().serve(("127.0.0.1", first))
    assert first < second < first + 16
    with urllib.request.urlopen(f"http://127.0.0.1:{second}/metrics", timeout=60) as answer:
        assert b"glowl_worker" in answer.read()
    with pytest.raises(OSError, match="assign"):
        WorkerMeters().serve(("192.0.2.1", first))  # of no machine


def test_where_it_is_shown_is_a_host_and_a_port() -> None:
    assert Settings().worker_metrics is None
    assert Settings(worker_metrics="127.0.0.1:9101").worker_metrics == ("127.0.0.1", 9101)
    assert Settings(worker_metrics="[::1]:9101").worker_metrics == ("::1", 9101)
    for wrong in ("9101", "localhost", "localhost:port", ":9101", "localhost:70000"):
        with pytest.raises(ValidationError, match="HOST:PORT"):
            Settings(worker_metrics=wrong)
