"""Names that are looked up in threads: what waits for what, and who has how much of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from router.fetch import MAX_AT_ONCE, FetchFailedError, SafeFetcher, fetching_for
from router.lookup import MAX_LOOKUPS, Lookups, LookupTimeoutError, ask_system
from router.settings import Settings


class Names:
    """A system whose name servers say nothing about ``*.silent`` until they are released, and know ``*.example``."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.endswith(".silent"):
            self.released.wait(300)
        if not host.endswith(".example"):
            raise OSError("no such name")
        return ["192.0.2.1", "2001:db8::1"]


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    yield names
    names.released.set()


async def look(lookups: Lookups, host: str, owner: str = "ann") -> list[str] | str:
    with fetching_for(owner):
        try:
            return await lookups(host, 443)
        except LookupTimeoutError:
            return "timeout"
        except OSError:
            return "unknown"


async def test_a_name_is_found_or_not(names: Names) -> None:
    lookups = Lookups(names)
    assert await look(lookups, "a.example") == ["192.0.2.1", "2001:db8::1"]
    assert await look(lookups, "a.nowhere") == "unknown"
    assert await look(lookups, "a.example") != await look(lookups, "a.nowhere")


async def test_a_name_that_nobody_answers_for_ends_in_time_and_is_asked_once(names: Names) -> None:
    lookups = Lookups(names, timeout_s=0.05)
    assert await asyncio.gather(*[look(lookups, "a.silent", f"owner{n}") for n in range(20)]) == ["timeout"] * 20
    assert await look(lookups, "a.silent") == "timeout"
    assert names.asked == ["a.silent"]


@pytest.mark.parametrize("spread", ["a{}.zone.silent", "zone{}.silent"])
async def test_thousands_of_names_of_one_owner_leave_lookups_for_others(names: Names, spread: str) -> None:
    lookups = Lookups(names, timeout_s=30)
    flood = [asyncio.create_task(look(lookups, spread.format(number))) for number in range(2 * MAX_LOOKUPS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(300):
        # Another owner's, and the same owner's other zone
        assert await look(lookups, "a.example", "bob") == ["192.0.2.1", "2001:db8::1"]
        if "zone." in spread:
            assert await look(lookups, "a.example", "ann") == ["192.0.2.1", "2001:db8::1"]
    assert len(names.asked) <= MAX_LOOKUPS / 4

    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_place_is_held_until_the_thread_has_ended_however_soon_its_caller_leaves(names: Names) -> None:
    lookups = Lookups(names, timeout_s=0.05)
    for _ in range(3):  # a new thread for each would be without end
        said = await asyncio.gather(*[look(lookups, f"{number}.zone.silent") for number in range(MAX_LOOKUPS)])
        assert set(said) == {"timeout"}
    assert len(names.asked) <= MAX_LOOKUPS / 4
    names.released.set()
    async with asyncio.timeout(300):
        while await look(lookups, "a.example") == "timeout":  # noqa: ASYNC110  threads end when they end
            await asyncio.sleep(0.01)


async def test_no_thread_to_be_had_is_a_name_that_was_not_found(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert await look(Lookups(names), "a.example") == "unknown"


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "." * 10, "\udcff.example"])
def test_what_the_system_cannot_even_ask_for_is_not_found(host: str) -> None:
    with pytest.raises(OSError):
        ask_system(host)


def test_the_system_is_asked_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (address, 0)) for address in ("192.0.2.2", "192.0.2.1", "192.0.2.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert ask_system("a.example") == ["192.0.2.2", "192.0.2.1"]


async def test_a_fetch_says_that_the_name_was_not_looked_up_in_time_and_literal_addresses_ask_nobody(
    names: Names, unused_tcp_port: int
) -> None:
    lookups = Lookups(names, timeout_s=0.05)
    async with SafeFetcher(Settings(allow_private_urls=True), resolve=lookups) as fetcher:
        with pytest.raises(FetchFailedError, match="could not be looked up in time"):
            await fetcher.get("http://a.silent/a.png")
        for host in ("127.0.0.1", "[::1]"):
            with pytest.raises(FetchFailedError, match="could not be reached"):
                await fetcher.get(f"http://{host}:{unused_tcp_port}/a.png")
    assert names.asked == ["a.silent"]


async def test_names_that_nobody_answers_for_hold_no_place_among_their_owners_downloads(
    names: Names, unused_tcp_port: int
) -> None:
    async with SafeFetcher(Settings(allow_private_urls=True), resolve=Lookups(names, timeout_s=30)) as fetcher:
        with fetching_for("ann"):
            flood = [asyncio.create_task(fetcher.get(f"http://z{n}.silent/")) for n in range(2 * MAX_AT_ONCE)]
            await asyncio.sleep(0)
            async with asyncio.timeout(300):
                with pytest.raises(FetchFailedError, match="could not be reached"):
                    await fetcher.get(f"http://127.0.0.1:{unused_tcp_port}/a.png")
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
