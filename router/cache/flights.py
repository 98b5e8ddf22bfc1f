"""Single flight: equal requests of one owner to one engine, in one process, share a run.

In: an engine and requests to it. Out: for each a stream of its own, which begins at the first delta whenever it joins.
Who leaves takes nothing from the others; the last one who leaves ends the run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Hashable
from dataclasses import asdict, fields
from typing import Any, Final

import orjson

from engines.base import Delta, Engine, GenerationRequest, ImagePart
from router.jobs.job import JobSpec
from router.leftovers import Leftovers, end_tasks

_END: Final = None


class _Flight:
    """One run of an engine, and who reads it."""

    def __init__(self, deltas: AsyncGenerator[Delta, None]) -> None:
        self.deltas: list[Delta] = []
        self.failure: Exception | None = None
        self.is_ended = False
        self.num_readers = 0
        self._source = deltas
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []
        self.task = asyncio.create_task(self._read())

    async def next(self, index: int) -> Delta | None:
        """Return a delta by its number as soon as it is there; None if the run ended before.

        Raises:
            EngineError: as the engine raised it.
        """
        while index >= len(self.deltas):
            if self.failure is not None:
                raise self.failure.with_traceback(None)
            if self.is_ended:
                return _END
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter
        return self.deltas[index]

    async def _read(self) -> None:
        try:
            async for delta in self._source:
                self.deltas.append(delta)
                self._tell()
        except Exception as error:  # of the engine, for every reader
            self.failure = error
        finally:
            self.is_ended = True
            self._tell()
            await self._source.aclose()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class SharedStream(AsyncGenerator[Delta, None]):
    """One reader's stream of a run that may have others.

    Attributes:
        is_joined: the run was under way already.
    """

    def __init__(self, flights: Flights, key: Hashable, flight: _Flight, *, is_joined: bool) -> None:
        self.is_joined = is_joined
        self._flights = flights
        self._key = key
        self._flight: _Flight | None = flight
        self._index = 0
        flight.num_readers += 1

    async def asend(self, value: None) -> Delta:
        """Return the next delta."""
        flight = self._flight
        delta = None if flight is None else await flight.next(self._index)
        if delta is None:
            await self.aclose()
            raise StopAsyncIteration
        self._index += 1
        return delta

    async def athrow(self, *error: Any) -> Delta:
        """Leave, and raise an error."""
        await self.aclose()
        raise error[1] if len(error) > 1 and error[1] is not None else error[0]

    async def aclose(self) -> None:
        """Leave; the last one ends the run."""
        flight, self._flight = self._flight, None
        if flight is not None:
            await self._flights.leave(self._key, flight)


class Flights:
    """The runs that may be joined now.

    Attributes:
        num_joined: how many requests were spared a run of their own.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}
        self._ending = Leftovers()
        self.num_joined = 0

    def stream(self, name: str, engine: Engine, request: GenerationRequest) -> SharedStream:
        """Join the run of an equal request, or begin one.

        Args:
            name: of the engine.
            engine: does it.
            request: greedy or seeded, or all would get one sample of chance.
        """
        key = _key_of(name, request)
        flight = self._flights.get(key)
        # One that failed is no answer for who comes later: the engine may be well by then.
        is_joined = flight is not None and not flight.is_ended
        if flight is None or flight.is_ended:
            flight = self._flights[key] = _Flight(engine.stream(request))
        self.num_joined += is_joined
        return SharedStream(self, key, flight, is_joined=is_joined)

    async def leave(self, key: Hashable, flight: _Flight) -> None:
        """Take one reader away from a run."""
        flight.num_readers -= 1
        if flight.num_readers > 0:
            return
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done():
            return
        # To its end even if the reader is being cancelled: the engine is to be free.
        await asyncio.shield(self._ending.add(end_tasks(flight.task)))


def flight_of(spec: JobSpec) -> str:
    """Name what a job asks for, of whom, and what is made of it: jobs of the same name may share one's run."""
    decision = {name: spec.decision.get(name) for name in ("route", "engine", "rule", "enable_thinking", "degraded")}
    messages = [
        [
            message["role"],
            [part["text"] if part["type"] == "text" else [part["sha256"]] for part in message["parts"]],
            message.get("tool_calls", ()),
        ]
        for message in spec.messages
    ]
    asked = [
        spec.owner,
        messages,
        asdict(spec.sampling),
        decision,
        [asdict(branch) for branch in spec.branches],
        [spec.strategy, spec.language, spec.adapter, spec.adapter_engine, *sorted(spec.promoted.items())],
        None if spec.output_format is None else asdict(spec.output_format),
    ]
    return hashlib.sha256(orjson.dumps(asked)).hexdigest()


# All that the answer to a request depends on, beside its messages.
_ASKED: Final = tuple(
    each.name for each in fields(GenerationRequest) if each.name not in ("messages", "request_id", "origin")
)


def _key_of(name: str, request: GenerationRequest) -> Hashable:
    """Name a request by all that its answer depends on; pictures by their files."""
    messages = tuple(
        (
            each.role,
            tuple((part.sha256,) if isinstance(part, ImagePart) else part.text for part in each.parts),
            each.tool_calls,
        )
        for each in request.messages
    )
    return (name, messages, *(getattr(request, each) for each in _ASKED))
