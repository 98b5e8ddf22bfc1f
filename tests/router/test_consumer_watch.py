"""A worker that takes no tickets connects anew, and then ends; one that has nothing to take, or no room, does not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from router.consumer_watch import ConsumerWatch
from router.jobs.queue import create_celery
from router.settings import Settings
from tests.support.servers import wait_until


class Worker:
    """What a watch sees of a worker."""

    def __init__(self) -> None:
        self.waiting: int | None = 1
        self.taken = 0
        self.has_room = True
        self.did: list[str] = []
        self.now = 0.0
        self._watch = ConsumerWatch(
            lambda: self.waiting,
            lambda: self.taken,
            lambda: self.has_room,
            lambda: self.did.append("reconnected"),
            lambda: self.did.append("gave up"),
            patience_s=20.0,
        )

    def pass_s(self, seconds: int) -> list[str]:
        for _ in range(seconds):
            self._watch.look(self.now)
            self.now += 1
        return self.did


def test_tickets_that_wait_for_too_long_make_the_consumer_connect_anew_and_then_end() -> None:
    worker = Worker()
    assert worker.pass_s(20) == []
    assert worker.pass_s(1) == ["reconnected"]
    assert worker.pass_s(19) == ["reconnected"]
    assert worker.pass_s(1) == ["reconnected", "gave up"]


def test_one_ticket_taken_is_a_sign_of_life_and_the_next_silence_begins_anew() -> None:
    worker = Worker()
    worker.pass_s(21)
    worker.taken += 1
    worker.pass_s(1)
    assert worker.pass_s(20) == ["reconnected"]
    assert worker.pass_s(1) == ["reconnected", "reconnected"]


@pytest.mark.parametrize("reason", ["nothing waits", "redis is away", "no room"])
def test_a_worker_that_could_take_none_is_not_silent(reason: str) -> None:
    worker = Worker()
    worker.pass_s(19)
    before = worker.waiting, worker.has_room
    if reason == "no room":
        worker.has_room = False
    else:
        worker.waiting = 0 if reason == "nothing waits" else None
    worker.pass_s(5)
    worker.waiting, worker.has_room = before
    assert worker.pass_s(20) == []
    assert worker.pass_s(1) == ["reconnected"]


# The product's own worker, impatient, whose consumer stops asking redis for tickets in the way that is named.
_WORKER = """
    import sys
    from kombu.transport.redis import Channel
    from router import consumer_watch
    from router.cli.main import main

    consumer_watch.LOOK_EVERY_S = 0.1
    consumer_watch.ConsumerWatch.__init__.__kwdefaults__["patience_s"] = 3.0
    started = Channel._brpop_start

    def start(self, timeout=None):
        if how == "for good" or self.connection in (seen or [self.connection]):
            seen.append(self.connection)
        else:
            started(self, timeout)

    how, seen = sys.argv.pop(), []
    Channel._brpop_start = start
    main()
"""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("how", ["until it connects anew", "for good"])
def test_a_real_worker_is_taken_back_to_work_or_ends_with_an_error(how: str, redis_url: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(_WORKER))
    settings = Settings(REDIS_URL=redis_url)  # type: ignore[call-arg]
    app = create_celery(settings)
    app.send_task("glowl.work", args=["light"], queue="glowl.light", ignore_result=True)
    env = {**os.environ, "REDIS_URL": redis_url, "GLOWL_DRAIN_S": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen([sys.executable, str(script), "worker", how], env=env, stdout=file, stderr=file)
    try:
        if how == "for good":
            assert worker.wait(120) == 1, log.read_text()
            assert "this worker ends" in log.read_text()
        else:
            with app.connection_for_read() as connection:
                channel = connection.default_channel
                wait_until(lambda: not channel.queue_declare(queue="glowl.light").message_count, "the ticket", 120)
            worker.terminate()
            assert worker.wait(120) == 0, log.read_text()
        assert "connecting to redis anew" in log.read_text()
    finally:
        worker.kill()
        worker.wait()
