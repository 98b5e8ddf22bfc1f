"""One owner has half of everything at most; who stalls gives its room away."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from router import in_flight
from router.errors import BodyTimeoutError, OverloadedError, TooManyInFlightError
from router.in_flight import SMALL_BODY_BYTES, InFlight, Share

MB = 1 << 20


def make(**limits: Any) -> InFlight:
    given = {"max_requests": 4, "max_bytes": 20 * MB, "max_body_bytes": 8 * MB, "body_timeout_s": 60.0, **limits}
    return InFlight(**given)


def test_requests_are_counted_by_owner_and_together() -> None:
    all_of_them = make()
    with ExitStack() as stack:
        for owner in ("alice", "alice", "bob"):
            stack.enter_context(all_of_them.request(owner))
        with pytest.raises(TooManyInFlightError) as refused, all_of_them.request("alice"):
            pass
        assert refused.value.retry_after_s
        with all_of_them.request("carol"), pytest.raises(OverloadedError), all_of_them.request("dora"):
            pass
    with all_of_them.request("alice"):  # all that was taken is free again
        pass


async def test_a_body_waits_for_room_of_its_owner_while_others_have_theirs() -> None:
    all_of_them = make()
    with all_of_them.request("alice") as first, all_of_them.request("alice") as second:
        await first.hold(8 * MB)
        waiting = asyncio.ensure_future(second.hold(8 * MB))
        await asyncio.sleep(0)
        assert not waiting.done()
        with all_of_them.request("bob") as other:
            await other.hold(8 * MB)
        first.release_bytes()
        await waiting
        assert all_of_them.num_bytes == 8 * MB
    assert all_of_them.num_bytes == 0


async def test_small_bodies_need_no_room() -> None:
    all_of_them = make()
    with all_of_them.request("alice") as large, all_of_them.request("alice") as small:
        await large.hold(10 * MB)
        await small.hold(SMALL_BODY_BYTES)
        assert small.num_bytes == 0


@pytest.mark.parametrize(
    ("holders", "kind"), [(["alice"], TooManyInFlightError), (["bob", "carol"], OverloadedError)], ids=["one", "all"]
)
async def test_no_room_for_long_is_a_refusal(monkeypatch: Any, holders: list[str], kind: type[Exception]) -> None:
    monkeypatch.setattr(in_flight, "_PATIENCE_S", 0.05)
    all_of_them = make()
    with ExitStack() as stack:
        for owner in holders:
            await stack.enter_context(all_of_them.request(owner)).hold(10 * MB)
        with all_of_them.request("alice") as share, pytest.raises(kind):
            await share.hold(1 * MB)
    assert all_of_them.num_bytes == 0


async def test_a_silent_body_is_cut_for_one_that_waits_and_an_answered_one_is_not(monkeypatch: Any) -> None:
    monkeypatch.setattr(in_flight, "_STALLED_S", 0.0)
    all_of_them = make(max_requests=8)
    with all_of_them.request("alice") as stalled, all_of_them.request("alice") as answered:
        await answered.hold(2 * MB)
        await stalled.hold(8 * MB)

        async def await_more() -> None:
            with stalled.awaiting_body() as timeout:
                async with timeout:
                    await asyncio.Event().wait()

        with all_of_them.request("alice") as waits:
            waiting = asyncio.ensure_future(waits.hold(8 * MB))
            with pytest.raises(BodyTimeoutError):
                await await_more()
            stalled.release_bytes()
            await waiting


async def test_a_body_that_drips_is_cut_though_it_never_pauses_for_long(monkeypatch: Any) -> None:
    monkeypatch.setattr(in_flight, "_GRACE_S", 0.05)

    async def drip(share: Share) -> None:
        while True:
            with share.awaiting_body() as timeout:
                async with timeout:
                    await asyncio.sleep(0.005)
            share.received(1)

    with make().request("alice") as share, pytest.raises(BodyTimeoutError) as cut:
        await drip(share)
    assert "16" in cut.value.message
