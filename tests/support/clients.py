"""The openai client in a process of its own, so that the same tests speak through whichever major is wanted.

In: which Python runs it: ``GLOWL_TEST_CLIENT_PYTHON``, or this one. Out: calls whose events can be waited for one by
one, and that can hang up in the middle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

VARIABLE = "GLOWL_TEST_CLIENT_PYTHON"
DRIVER = Path(__file__).with_name("client_driver.py")
_PATIENCE_S = 60.0

Json = dict[str, Any]


class CallFailedError(Exception):
    """The client raised.

    Attributes:
        kind: the name of the class it raised.
        status: of the HTTP answer, if that was it.
        code: of the error, as the client has it.
    """

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['class']}: {error['message']}")
        self.kind: str = error["class"]
        self.status: int | None = error["status"]
        self.code: str | None = error["code"]


class Call:
    """One call of the client, under way or ended.

    Attributes:
        events: those that were waited for until now.
    """

    def __init__(self, number: int, send: Callable[[Json], None]) -> None:
        self._number = number
        self._send = send
        self._end: Json | None = None
        self.incoming: Queue[Json] = Queue()
        self.events: list[Json] = []

    def until(self, is_it: Callable[[Json], Any]) -> Json:
        """Wait for an event of which something holds."""
        while self._take():
            if is_it(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"ended without it: {self._end}; there were {self.events}")

    def result(self) -> Any:
        """Wait for the end.

        Raises:
            CallFailedError: if the client raised.
        """
        while self._take():
            pass
        assert self._end is not None
        if "error" in self._end:
            raise CallFailedError(self._end["error"])
        return self._end["result"]

    def hang_up(self) -> None:
        """Close the connection, in the middle of whatever it is."""
        self._send({"hang_up": self._number})
        while self._take():
            pass
        assert self._end == {"call": self._number, "gone": True}

    def _take(self) -> bool:
        if self._end is None:
            line = self.incoming.get(timeout=_PATIENCE_S)
            if "event" in line:
                self.events.append(line["event"])
                return True
            self._end = line
        return False


class ClientProcess:
    """A client that does what it is told.

    Attributes:
        version: of the openai package.
    """

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._child = subprocess.Popen(
            [os.environ.get(VARIABLE) or sys.executable, str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._child.stdout is not None
        self.version = str(json.loads(self._child.stdout.readline())["openai"])
        self._calls: list[Call] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def begin(self, do: str, base_url: str, **args: Any) -> Call:
        """Give an order, see `client_driver`."""
        call = Call(len(self._calls), self._send)
        self._calls.append(call)
        self._send({"call": call._number, "do": do, "base_url": base_url + "/v1", "with": args})
        return call

    def do(self, do: str, base_url: str, **args: Any) -> Any:
        """Give an order and wait for its result.

        Raises:
            CallFailedError: if the client raised.
        """
        return self.begin(do, base_url, **args).result()

    def stop(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(300)
        self._reader.join(300)
        self._child.stdout.close()
        self._log.close()

    def _send(self, order: Json) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order).encode() + b"\n")
        self._child.stdin.flush()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            told = json.loads(line)
            self._calls[told["call"]].incoming.put(told)
