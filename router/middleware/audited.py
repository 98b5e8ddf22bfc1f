"""Writes down each request: whose it was, what it was for, and what came of it.

In: any request, as it ends. Out: a record for `router.audit.log`; a 503 in place of an answer if records are required
and cannot be written. No question, answer, picture or key is in a record, but for owners whose texts are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.errors import respond
from router.audit.chain import to_iso
from router.audit.log import AuditLog
from router.audit.records import of_job, outcome
from router.auth.caller import Caller
from router.dispatch import Running
from router.errors import CLIENT_CLOSED, AuditUnavailableError
from router.middleware import texts

# Asked every few seconds by who watches the service; no owner's business.
_UNWATCHED: Final = frozenset({"/healthz", "/readyz"})
_MAX_PATH_CHARS: Final = 500


class Audited:
    """Counts what comes and goes, and adds a record at the end.

    Args:
        app: what comes after.
        log: takes the records.
        is_required: nothing is answered that is not written down.
        with_text: owners whose questions and answers are kept too.
    """

    def __init__(
        self, app: ASGIApp, log: AuditLog, *, is_required: bool = False, with_text: Collection[str] = ()
    ) -> None:
        self._app = app
        self._log = log
        self._is_required = is_required
        self._with_text = frozenset(with_text)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["path"] in _UNWATCHED:
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            if self._is_required and self._log.is_failing:
                refusal = AuditUnavailableError(texts.AUDIT_UNAVAILABLE, retry_after_s=5)
                await respond(Request(scope), refusal)(scope, receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._log.add(exchange.to_record(self._with_text))


class _Exchange:
    """One request and its answer, as they pass."""

    __slots__ = ("_at", "_began", "_bytes_in", "_bytes_out", "_is_whole", "_receive", "_scope", "_send", "_status")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._at = time.time()
        self._began = time.perf_counter()
        self._bytes_in = self._bytes_out = self._status = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Count what comes."""
        message = await self._receive()
        self._bytes_in += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Count what goes."""
        await self._send(message)
        if message["type"] == "http.response.body":
            self._bytes_out += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            self._status = message["status"]

    def to_record(self, with_text: frozenset[str]) -> dict[str, Any]:
        """Return what is written down of it."""
        scope, state = self._scope, self._scope.get("state", {})
        caller: Caller | None = state.get("caller")
        running: Running | None = state.get("running")
        record: dict[str, Any] = {
            "kind": "request",
            "came": to_iso(self._at),
            "took_ms": round((time.perf_counter() - self._began) * 1000, 1),
            "request_id": state.get("request_id", ""),
            "owner": caller.owner if caller is not None else "",
            "key_id": caller.key_id if caller is not None else "",
            "address": state.get("address") or (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"][:_MAX_PATH_CHARS],
            "status": self._status,
            "outcome": self._outcome(),
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
        }
        if (code := state.get("error_code")) is not None:
            record["code"] = code
        if running is not None:
            record |= of_job(running.finished() or running.seen or running.job, with_text)
            record["is_replayed"] = running.is_replayed
        return record

    def _outcome(self) -> str:
        if not self._is_whole or self._status == CLIENT_CLOSED:
            return "broken_off"
        return outcome(self._status)
