"""The events of a response, as the commands read them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router.cli import responses
from router.cli.responses import StreamBrokenError, read_events


async def cut(wire: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(wire), size):
        yield wire[start : start + size]


async def test_events_are_read_however_the_bytes_are_cut() -> None:
    wire = b': ping\n\nevent: a\r\ndata: {"type":"a",\r\ndata: "n":1}\r\n\r\n'
    wire += b'data:{"type":"\xe4\xbd\xa0"}\n\ndata: [DONE]\n\n'
    for size in (1, 2, 7, len(wire)):
        assert [event async for event in read_events(cut(wire, size))] == [{"type": "a", "n": 1}, {"type": "你"}]


async def test_an_error_event_keeps_its_shape() -> None:
    # The reader of engines' streams wraps it into an envelope; here `type` tells events apart.
    wire = b'event: error\ndata: {"type":"error","message":"no","sequence_number":3}\n\n'
    assert [event async for event in read_events(cut(wire, 9))] == [
        {"type": "error", "message": "no", "sequence_number": 3}
    ]


@pytest.mark.parametrize("wire", [b"data: {cut\n\n", b"data: " + b"x" * 200])
async def test_what_is_no_event_is_a_broken_stream(wire: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_EVENT_BYTES", 100)
    with pytest.raises(StreamBrokenError):
        [event async for event in read_events(cut(wire, 50))]
