"""Server-sent events: payloads to bytes, and bytes that are split anywhere to payloads.

In: JSON payloads, or what a socket received. Out: the one made from the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from engines.base import GenerationFailedError
from engines.http.errors import to_envelope
from engines.json_text import dump_line

DONE: Final = b"[DONE]"
# A whole answer of the longest context in one event, with room for escapes and log probabilities.
MAX_EVENT_BYTES: Final = 2 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


def to_event(payload: Mapping[str, Any]) -> bytes:
    """Encode one event; its payload is one line."""
    return b"data: " + dump_line(payload) + b"\n\n"


class EventParser:
    """Cuts a byte stream into the payloads of its server-sent events.

    Bytes may be split anywhere, inside a character or a line end too. Comments, which servers send to keep a
    connection alive, events without data, and all fields but ``data`` are dropped; what comes as ``event: error`` is
    passed on as an error envelope.

    Args:
        max_bytes: the largest event taken.
        wraps_errors: False passes ``event: error`` on as it came: the Responses API has an event type of that name.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
    """

    _LINE_END = re.compile(rb"\r\n|\n|\r")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES, *, wraps_errors: bool = True) -> None:
        self._max_bytes = max_bytes
        self._wraps_errors = wraps_errors
        self._rest = b""
        self._data: list[bytes] = []
        self._num_bytes = 0
        self._is_after_cr = False
        self._is_error = False
        self._is_begun = False

    def feed(self, received: bytes) -> list[bytes]:
        """Take the next bytes; return the payloads of the events they complete.

        Raises:
            GenerationFailedError: if an event is larger than is taken.
        """
        if not received:
            return []
        if (payloads := self._whole_events(received)) is not None:
            return payloads
        if not self._is_begun:  # a byte order mark, which may be cut as well
            self._rest += received
            if _BOM.startswith(self._rest) and len(self._rest) < len(_BOM):
                return []
            self._is_begun = True
            received, self._rest = self._rest.removeprefix(_BOM), b""
        ends_with_cr = received.endswith(b"\r")
        if self._is_after_cr and received.startswith(b"\n"):  # the second half of a split \r\n
            received = received[1:]
        self._is_after_cr = ends_with_cr
        *lines, self._rest = self._LINE_END.split(self._rest + received)
        payloads = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._check(len(line))
            elif line.startswith(b"event:"):
                self._is_error = line[6:].strip() == b"error"
            elif not line:
                payload = b"\n".join(self._data).strip()
                if payload:
                    payloads.append(to_envelope(payload) if self._is_error and self._wraps_errors else payload)
                self._data, self._num_bytes, self._is_error = [], 0, False
        self._check(len(self._rest), is_held=False)
        return payloads

    def _whole_events(self, received: bytes) -> list[bytes] | None:
        """Cut bytes that are whole events of one line each, as nearly all that arrive are; None for any others."""
        is_fresh = not (self._rest or self._data or self._is_after_cr or self._is_error)
        if not (is_fresh and received.startswith(b"data:") and received.endswith(b"\n\n") and b"\r" not in received):
            return None
        payloads = received[5:-2].split(b"\n\ndata:")
        if received.count(b"\n") != 2 * len(payloads) or len(received) > self._max_bytes:
            return None
        self._is_begun = True
        return [stripped for payload in payloads if (stripped := payload.strip())]

    def _check(self, num_bytes: int, *, is_held: bool = True) -> None:
        if self._num_bytes + num_bytes > self._max_bytes:
            raise GenerationFailedError(f"The engine sent an event of over {self._max_bytes} bytes.")
        if is_held:
            self._num_bytes += num_bytes
