"""Callers that do not give up: each sends its job until it is accepted and gets the answer the way it was planned.

In: a planned job. Out: an `Outcome`, with everything that no caller should ever see in ``wrong``. What any caller of a
service has to live with (a refused connection, one that breaks, 503, 429, a key still in use) is tried again elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from tests.chaos.workload import PlannedJob

Json = dict[str, Any]

TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})
# Kinds of jobs that GLM answers at once, if it is there.
DIRECT = frozenset({"wait", "direct", "chat"})
_TRY_AGAIN = frozenset({429, 503})
# A direct answer whose engine is killed before its first word is refused so.
_BROKE_OFF = frozenset({500, 502, 504})
_BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)
_ANSWER_S = 60.0
_CALL_S = 15.0


@dataclass
class Outcome:
    """What became of a job, as its caller saw it.

    Attributes:
        job: the plan.
        id: once it was accepted.
        announced: every id that the caller was ever told, in a body, an event or a header; the last one counts.
        is_broken: a direct answer ended before its end; its record says how.
        response: the object in the state it ended with.
        events: of a stream, in order, over all its connections.
        num_retries: calls that had to be made again.
        num_resumes: connections of a stream beyond the first.
        is_cancel_sent: the caller asked for its end.
        wrong: what must never be.
    """

    job: PlannedJob
    id: str = ""
    announced: set[str] = field(default_factory=set)
    is_broken: bool = False
    response: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    num_retries: int = 0
    num_resumes: int = 0
    is_cancel_sent: bool = False
    accepted_after_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Callers:
    """All callers of a round.

    Args:
        http: a session.
        urls: of the apis; each call goes to any of them.
        seed: of the round.
    """

    def __init__(self, http: aiohttp.ClientSession, urls: list[str], seed: int) -> None:
        self._http = http
        self._urls = urls
        self._chance = random.Random(f"callers {seed}")
        self._seed = seed

    async def run(self, job: PlannedJob) -> Outcome:
        """Send a job and get its answer."""
        outcome = Outcome(job)
        drive: dict[str, Callable[[Outcome], Awaitable[None]]] = {
            "poll": self._poll,
            "wait": self._wait,
            "stream": self._stream,
            "cancel": self._cancel,
            "direct": self._direct,
            "chat": self._chat,
        }
        try:
            await drive[job.kind](outcome)
        except asyncio.CancelledError:
            outcome.wrong.append(f"{outcome.id or job.number}: {job.kind} never ended, last seen {outcome.response}")
        except Exception as error:  # one caller's trouble is a finding, not the end of the round
            outcome.wrong.append(f"{outcome.id or job.number}: {job.kind} ended with {type(error).__name__}: {error}")
        return outcome

    async def call(
        self, key: str, method: str, path: str, body: Json | None = None, *, outcome: Outcome | None = None
    ) -> tuple[int, Json]:
        """Make a call until somebody answers it; every call here may be made twice."""
        headers = {"authorization": f"Bearer {key}"}
        if outcome is not None and method == "POST" and body is not None:
            headers["idempotency-key"] = self._idempotency_key(outcome.job)
        while True:
            timeout = aiohttp.ClientTimeout(total=_ANSWER_S if body is not None else _CALL_S)
            try:
                async with self._http.request(
                    method, self._url(path), json=body, headers=headers, timeout=timeout
                ) as answer:
                    found: Json = orjson.loads(await answer.read())
                    status = answer.status
                    if outcome is not None and method == "POST" and status == 200 and found.get("store", True):
                        outcome.announced |= {found.get("id", outcome.id), *_id_in(answer)}
            except (*_BROKEN, orjson.JSONDecodeError):
                status, found = 0, {}
            if status and status not in _TRY_AGAIN and not _is_busy(status, found):
                return status, found
            if outcome is not None:
                outcome.num_retries += 1
            await asyncio.sleep(0.1 if status == 0 else 0.3)

    async def _accept(self, outcome: Outcome) -> Json:
        """Send the job until it is accepted, and then again as often as planned: it stays one job."""
        begun = time.monotonic()
        status, response = await self.call(outcome.job.key, "POST", "/v1/responses", outcome.job.body, outcome=outcome)
        outcome.accepted_after_s = time.monotonic() - begun
        if status != 200:
            raise RuntimeError(f"refused with {status}: {response}")
        outcome.id = response["id"]
        return response

    async def _repost(self, outcome: Outcome) -> None:
        for _ in range(outcome.job.num_reposts):
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
            status, again = await self.call(outcome.job.key, "POST", "/v1/responses", outcome.job.body, outcome=outcome)
            if (status, again.get("id")) != (200, outcome.id):
                outcome.wrong.append(f"{outcome.id}: sent again, the same key gave {status} {again.get('id') or again}")

    async def _poll(self, outcome: Outcome) -> None:
        await self._accept(outcome)
        await asyncio.gather(self._repost(outcome), self._poll_to_the_end(outcome))

    async def _poll_to_the_end(self, outcome: Outcome) -> None:
        while outcome.response.get("status") not in TERMINAL:
            await asyncio.sleep(0.25)
            outcome.response = await self.look(outcome)

    async def look(self, outcome: Outcome) -> Json:
        """Read a response that must be there.

        Raises:
            RuntimeError: if it is not: it was accepted, and is lost.
        """
        status, response = await self.call(outcome.job.key, "GET", f"/v1/responses/{outcome.id}", outcome=outcome)
        if status != 200:
            raise RuntimeError(f"lost: {status} {response}")
        return response

    async def _wait(self, outcome: Outcome) -> None:
        outcome.response = await self._accept(outcome)
        await self._repost(outcome)

    async def _cancel(self, outcome: Outcome) -> None:
        await self._accept(outcome)
        await asyncio.sleep(outcome.job.cancel_after_s)
        outcome.is_cancel_sent = True
        path = f"/v1/responses/{outcome.id}/cancel"
        states = set()
        for _ in range(2):
            status, response = await self.call(outcome.job.key, "POST", path, outcome=outcome)
            if status != 200:
                raise RuntimeError(f"cancel gave {status} {response}")
            states.add(response["status"])
            outcome.response = response
        if len(states) > 1 or not states <= TERMINAL:
            outcome.wrong.append(f"{outcome.id}: cancelled twice, it was {sorted(states)}")
        await self._repost(outcome)

    async def _stream(self, outcome: Outcome) -> None:
        is_first = True
        while not outcome.events or not _is_last(outcome.events[-1]):
            if not is_first:
                await asyncio.sleep(0.1)
            num_before = len(outcome.events)
            with contextlib.suppress(*_BROKEN, orjson.JSONDecodeError):
                await self._read_stream(outcome)
            if not is_first:
                outcome.num_resumes += len(outcome.events) > num_before
            is_first = False
        numbers = [event["sequence_number"] for event in outcome.events]
        if numbers != list(range(len(numbers))):
            outcome.wrong.append(f"{outcome.id}: sequence numbers over all connections are {numbers}")
        outcome.response = outcome.events[-1]["response"]

    async def _direct(self, outcome: Outcome) -> None:
        """Read a direct answer's stream; the record says how one ended that breaks off or is begun again."""
        while not outcome.is_broken and not (outcome.events and _is_last(outcome.events[-1])):
            with contextlib.suppress(*_BROKEN, orjson.JSONDecodeError):
                await self._read_stream(outcome)
            await asyncio.sleep(0.1)
        if outcome.is_broken:
            await self._poll_to_the_end(outcome)
        else:
            outcome.response = outcome.events[-1]["response"]

    async def _chat(self, outcome: Outcome) -> None:
        """Read a stored chat's stream, again under its key if it breaks off."""
        text: str | None = None
        while text is None and not outcome.is_broken:
            with contextlib.suppress(*_BROKEN, orjson.JSONDecodeError):
                text = await self._read_chat(outcome)
            await asyncio.sleep(0.1)
        await self._poll_to_the_end(outcome)
        said = "".join(part["text"] for item in outcome.response["output"] for part in item.get("content", ()))
        if text is not None and text != said:
            outcome.wrong.append(f"{outcome.id}: the chat said {text!r}, the record {said!r}")

    async def _read_chat(self, outcome: Outcome) -> str | None:
        """Return the whole text; None if there was none and it is to be asked for again."""
        headers = {
            "authorization": f"Bearer {outcome.job.key}",
            "idempotency-key": self._idempotency_key(outcome.job),
        }
        url, timeout = self._url("/v1/chat/completions"), aiohttp.ClientTimeout(total=_ANSWER_S)
        async with self._http.post(url, json=outcome.job.body, headers=headers, timeout=timeout) as answer:
            if await self._is_refused(outcome, answer):
                return None
            ids = _id_in(answer)
            outcome.announced |= ids
            outcome.id = next(iter(ids), outcome.id)
            text = ""
            async for line in answer.content:
                if line.startswith(b"data: [DONE]"):
                    return text
                if line.startswith(b"data: "):
                    chunk = orjson.loads(line[6:])
                    if "error" in chunk:
                        outcome.is_broken = True
                        return None
                    text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        return None

    async def _is_refused(self, outcome: Outcome, answer: aiohttp.ClientResponse) -> bool:
        """Whether a stream was refused in a way that every caller has to live with.

        Raises:
            RuntimeError: if it was refused in any other.
        """
        if answer.status == 200:
            return False
        found = orjson.loads(await answer.read())
        outcome.num_retries += 1
        is_direct = outcome.job.kind in DIRECT
        if answer.status in _TRY_AGAIN or _is_busy(answer.status, found) or (is_direct and answer.status in _BROKE_OFF):
            return True
        raise RuntimeError(f"the stream was refused with {answer.status}: {found}")

    async def _read_stream(self, outcome: Outcome) -> None:
        job = outcome.job
        headers = {"authorization": f"Bearer {job.key}"}
        if outcome.id:
            after = outcome.events[-1]["sequence_number"]
            url = self._url(f"/v1/responses/{outcome.id}?stream=true&starting_after={after}")
            request = self._http.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=_ANSWER_S))
        else:
            headers["idempotency-key"] = self._idempotency_key(job)
            request = self._http.post(
                self._url("/v1/responses"),
                json=job.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S),
            )
        async with request as answer:
            if await self._is_refused(outcome, answer):
                return
            outcome.announced |= _id_in(answer)
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                event = orjson.loads(line[6:])
                if event["type"] == "error":
                    if job.kind in DIRECT and outcome.id:
                        outcome.is_broken = True
                        return
                    raise RuntimeError(f"the stream said {event}")
                outcome.events.append(event)
                outcome.id = outcome.id or event["response"]["id"]
                outcome.announced.add(outcome.id)
                if _is_last(event):
                    return

    def _url(self, path: str) -> str:
        return self._chance.choice(self._urls) + path

    def _idempotency_key(self, job: PlannedJob) -> str:
        return f"round-{self._seed}-job-{job.number}"


def _id_in(answer: aiohttp.ClientResponse) -> set[str]:
    """The id that an answer's headers promise; empty if they promise none."""
    return {answer.headers["x-glowl-response-id"]} if "x-glowl-response-id" in answer.headers else set()


def _is_last(event: Json) -> bool:
    return event["type"] in ("response.completed", "response.failed", "response.incomplete")


def _is_busy(status: int, found: Json) -> bool:
    return status == 409 and found.get("error", {}).get("code") == "idempotency_key_in_use"
