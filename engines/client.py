"""The Engine protocol over HTTP: to our own engine server, or to a vLLM or SGLang server in its place.

In: a `GenerationRequest` and a base URL. Out: deltas as they arrive; every network trouble is an `EngineError`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson

from engines import wire
from engines.base import (
    Delta,
    EngineInfo,
    EngineTimeoutError,
    EngineUnavailableError,
    FinishReason,
    GenerationRequest,
    InvalidRequestError,
    Usage,
)

_CONNECT_S: Final = 5.0
_PROBE_S: Final = 5.0  # a probe that takes longer is as good as none
_TAIL_S: Final = 1.0  # an answer is complete before its connection is: how long to wait for the end, to use it again
_POLL_S: Final = 0.1
# Shorter than the 5 s after which uvicorn, under vLLM too, closes an idle connection: ours must not be closed in use.
_KEEP_ALIVE_S: Final = 4.0

_Readiness = Literal["ready", "waiting", "failed"]


class EngineClient:
    """An engine in another process.

    A client belongs to the event loop that uses it first.

    Args:
        base_url: ``http://host:port``, ``https://...`` or ``unix:///path/to/socket``; a trailing ``/v1`` is dropped.
        timeout_s: longest wait for the next piece of an answer, connecting and queueing included.
        model: model name to ask for; None takes the first one the server has.
        api_key: sent as a bearer token, for servers that ask for one.

    Raises:
        ValueError: if the URL is of another kind.
    """

    def __init__(
        self, base_url: str, *, timeout_s: float, model: str | None = None, api_key: str | None = None
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            self._socket_path: str | None = parts.path
            self._base_url = "http://localhost"
        elif parts.scheme in ("http", "https") and parts.hostname:
            self._socket_path = None
            self._base_url = base_url.rstrip("/").removesuffix("/v1")
        else:
            raise ValueError(f"no engine URL: {base_url!r}; use http://host:port, https://host or unix:///path")
        self._shown_url = base_url
        self._timeout_s = timeout_s
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._info: EngineInfo | None = None
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def info(self) -> EngineInfo:
        """Ask the server what it is.

        Raises:
            EngineUnavailableError: if it cannot be reached, is not ready, or is no such server.
        """
        status, body = await self._get("/v1/models")
        if status != 200:
            raise EngineUnavailableError(wire.from_error(status, body).message)
        self._info = wire.from_models(body, self._model)
        return self._info

    async def is_ready(self) -> bool:
        """Whether the next request would be served at normal speed; an engine that cannot be reached is not ready."""
        readiness, _ = await self._probe()
        return readiness == "ready"

    async def start(self) -> None:
        """Wait until the server is ready.

        Raises:
            EngineUnavailableError: if it failed to load, or is not ready within ``timeout_s``.
        """
        reason = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    readiness, reason = await self._probe()
                    if readiness == "ready":
                        return
                    if readiness == "failed":
                        raise EngineUnavailableError(reason)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise EngineUnavailableError(f"Not ready after {self._timeout_s:g} s: {reason}") from error

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer; closing the generator closes the connection, at which the server cancels.

        Raises:
            EngineUnavailableError: if the server cannot be reached or the connection breaks.
            EngineTimeoutError: if nothing comes for ``timeout_s``.
            InvalidRequestError: if log probabilities were asked for and the server answers without them.
            EngineError: what the engine itself raised.
        """
        lacks_logprobs = request.sampling.top_logprobs is not None
        model = self._model or (self._info or await self.info()).model_id
        body = wire.to_chat_body(request, model)
        finish_reason: FinishReason | None = None
        usage = Usage()
        response = await self._post(body, request.request_id)
        try:
            if response.status != 200:
                if response.status == 404:  # the server came back with another model than it had
                    self._info = None
                raise wire.from_error(response.status, await self._next_bytes(response, whole=True))
            parser = wire.EventParser()
            is_done = False
            deadline = self._new_deadline()
            while not is_done:
                received = await self._next_bytes(response, deadline=deadline)
                if not received:
                    break
                payloads = parser.feed(received)
                for payload in payloads:
                    if payload == wire.DONE:
                        is_done = True
                        break
                    delta = wire.from_event(payload)
                    finish_reason = delta.finish_reason or finish_reason
                    usage = delta.usage or usage
                    lacks_logprobs = lacks_logprobs and not delta.logprobs
                    if lacks_logprobs and delta.text:
                        raise InvalidRequestError(
                            "This engine gives no log probabilities: leave 'logprobs' out.", param="logprobs"
                        )
                    if delta.text or delta.reasoning or delta.logprobs:
                        yield Delta(text=delta.text, reasoning=delta.reasoning, logprobs=delta.logprobs)
                if payloads:  # comments keep a connection alive, but they are no sign of a living model
                    deadline = self._new_deadline()
            if finish_reason is None:
                raise self._unavailable("it closed the connection in the middle of an answer")
            await self._read_tail(response)
        finally:
            response.close()
        yield Delta(finish_reason=finish_reason, usage=usage)

    async def aclose(self) -> None:
        """Close every connection; running answers end with `EngineUnavailableError`."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    def _connect(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise EngineUnavailableError("This engine client is closed.")
        if self._session is None:
            # No limit on connections: the engine's own queue is the one place that says no.
            connector: aiohttp.BaseConnector = (
                aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
                if self._socket_path is None
                else aiohttp.UnixConnector(self._socket_path, limit=0, keepalive_timeout=_KEEP_ALIVE_S)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            )
        return self._session

    async def _post(self, body: bytes, request_id: str) -> aiohttp.ClientResponse:
        headers = {"Content-Type": "application/json"}
        if request_id:
            headers["X-Request-ID"] = request_id
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._connect().post(
                    f"{self._base_url}/v1/chat/completions",
                    data=io.BytesIO(body),  # sent piece by piece: bytes as such would block the loop when large
                    headers=headers,
                    allow_redirects=False,
                )
        except aiohttp.ClientError as error:  # first: a connection that takes too long is a TimeoutError as well
            raise self._unavailable(_describe(error)) from error
        except TimeoutError as error:
            raise self._timed_out() from error
        except OSError as error:
            raise self._unavailable(_describe(error)) from error

    async def _next_bytes(
        self, response: aiohttp.ClientResponse, *, deadline: float | None = None, whole: bool = False
    ) -> bytes:
        try:
            async with asyncio.timeout_at(deadline or self._new_deadline()):
                return await (response.read() if whole else response.content.readany())
        except TimeoutError as error:
            raise self._timed_out() from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(f"the connection broke in the middle of an answer: {_describe(error)}") from error

    async def _read_tail(self, response: aiohttp.ClientResponse) -> None:
        try:
            async with asyncio.timeout(_TAIL_S):
                while await response.content.readany():
                    pass
        except (aiohttp.ClientError, OSError):  # TimeoutError too: the answer is whole, only the connection is lost
            return

    async def _get(self, path: str) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(min(_PROBE_S, self._timeout_s)),
                self._connect().get(self._base_url + path, allow_redirects=False) as response,
            ):
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(_describe(error)) from error

    async def _probe(self) -> tuple[_Readiness, str]:
        try:
            status, body = await self._get("/readyz")
            if status == 404:  # no server of ours: vLLM and SGLang answer here, once they are ready
                status, body = await self._get("/health")
        except EngineUnavailableError as error:
            return "waiting", error.message
        if status == 200:
            return "ready", ""
        try:
            reason = str(orjson.loads(body)["reason"])
        except (ValueError, KeyError, TypeError):
            reason = f"the readiness probe answered {status}"
        return "failed" if status == 500 else "waiting", reason

    def _new_deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s

    def _timed_out(self) -> EngineTimeoutError:
        return EngineTimeoutError(f"The engine at {self._shown_url} sent nothing for {self._timeout_s:g} s.")

    def _unavailable(self, why: str) -> EngineUnavailableError:
        self._info = None  # another engine, or the same with other weights, may come back in its place
        return EngineUnavailableError(f"The engine at {self._shown_url} is not available: {why}.")


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
