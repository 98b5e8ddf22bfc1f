"""The Engine protocol over HTTP: to our own engine server, or to a vLLM or SGLang server in its place.

In: a `GenerationRequest` and a base URL. Out: deltas as they arrive; every network trouble is an `EngineError`, and so
is everything that a server sends and that is no answer. Messages name no address: callers read them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final, Literal
from urllib.parse import urlsplit

import orjson

from engines.adapter_names import UnknownAdapterError, describe_unknown, model_with
from engines.base import (
    CallerWait,
    ContextLengthError,
    Delta,
    EngineError,
    EngineInfo,
    EngineTimeoutError,
    EngineUnavailableError,
    GenerationRequest,
    InvalidImageError,
    InvalidRequestError,
    Usage,
)
from engines.http import errors, models, requests
from engines.http.address import EngineAddress
from engines.http.pool import Answer, Pool, UnreachableError
from engines.http.reading import NOTHING, AnswerReader
from engines.origin import to_trace_headers

_CONNECT_S: Final = 5.0
# The kernel takes connections for a busy server, so only one that is not there takes longer to connect to.
_PROBE_CONNECT_S: Final = 2.0
_PROBE_S: Final = 5.0  # a probe that takes longer is as good as none
_TAIL_S: Final = 1.0  # an answer is complete before its connection is: how long to wait for the end, to use it again
_POLL_S: Final = 0.1
_MAX_RETRY_AFTER_S: Final = 3600.0  # a server may write any number, even one that is no time
_MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024  # of a refusal, a probe or a model list
# What ends an answer that its server doesn't: more characters than so many tokens can have (a token may be a long run
# of spaces or dashes), and a time.
_CHARS_PER_TOKEN: Final = 64
_SPARE_CHARS: Final = 4096
DEFAULT_ANSWER_TIMEOUT_S: Final = 3600.0
# A hosted server has no path to ask for its health; its model list is not to be asked for every second.
_LIST_PROBE_S: Final = 30.0
_LIST_PROBE_AGAIN_S: Final = 5.0
_PROBE_PATHS: Final = ("/readyz", "/health")  # of our server; of vLLM and SGLang

Readiness = Literal["ready", "waiting", "failed"]

log = logging.getLogger(__name__)


class EngineClient:
    """An engine in another process.

    A client belongs to the event loop that uses it first.

    Args:
        base_url: ``http://host:port``, ``https://...`` or ``unix:///path/to/socket``. The API is under ``/v1`` unless
            the path ends in another version.
        timeout_s: longest wait for the next piece of an answer, connecting and queueing included.
        answer_timeout_s: longest time from a request to the end of its answer.
        model: model name to ask for; None takes the first one the server has.
        api_key: sent as a bearer token, for servers that ask for one.
        name: the role in the pair that a server of another make plays; ours say it themselves.

    Attributes:
        url: the address as it was given.

    Raises:
        ValueError: if the URL is of another kind.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        answer_timeout_s: float = DEFAULT_ANSWER_TIMEOUT_S,
        model: str | None = None,
        api_key: str | None = None,
        name: str | None = None,
    ) -> None:
        self._address = EngineAddress.parse(base_url)
        self.url = self._address.shown
        self._timeout_s = timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._model = model
        self._name = name
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._info: EngineInfo | None = None
        self._is_foreign = True
        self._adapter_ids: dict[str, str] = {}
        self._unknown_fields: frozenset[str] = frozenset()
        self._probe_path: str | None = None
        self._listed: tuple[float, Readiness, str] | None = None
        self._waiting: tuple[CallerWait, ...] = ()
        self._can_tokenize = True
        self._pool = Pool(self._address.root, self._headers, self._address.socket_path)
        # What paths are relative to, on the server.
        self._root_path = urlsplit(self._address.root).path
        self._api_path = urlsplit(self._address.api).path
        self._is_closed = False

    async def info(self) -> EngineInfo:
        """Ask the server what it is.

        Raises:
            EngineUnavailableError: if it cannot be reached, is not ready, refuses the key, or is no such server.
        """
        status, body = await self._get(f"{self._api_path}/models")
        if status in (404, 405) and self._model is not None:  # hosted, and lists nothing
            body = orjson.dumps({"data": [{"id": self._model}]})
        elif status != 200:
            error = self._to_error(status, body)
            raise EngineUnavailableError(error.message, detail=error.detail or self.url)
        info = models.from_models(body, self._model)
        self._is_foreign = info.name == info.model_id
        self._adapter_ids = models.adapter_ids(body, info.model_id)
        self._info = replace(info, name=self._name) if self._is_foreign and self._name else info
        return self._info

    async def is_ready(self) -> bool:
        """Whether the next request would be served at normal speed; an engine that cannot be reached is not ready."""
        readiness, _ = await self.probe()
        return readiness == "ready"

    async def probe(self) -> tuple[Readiness, str]:
        """Ask whether the next request would be served at normal speed; if not, why.

        Servers of other makes answer elsewhere: vLLM and SGLang under ``/health``; hosted ones have only their model
        list, and what that said stands for a while.
        """
        if self._listed is not None and time.monotonic() < self._listed[0]:
            return self._listed[1:]
        self._listed = None
        self._waiting = ()
        status, body = 404, b""
        try:
            for path in (self._probe_path,) if self._probe_path else _PROBE_PATHS:
                status, body = await self._get(self._root_path + path)
                if status == 200 or status >= 500:  # anything else is no answer to this question
                    self._probe_path = path
                    break
            else:
                self._probe_path = None
                return await self._probe_by_list()
        except EngineUnavailableError as error:
            return "waiting", error.for_operators
        if status == 200:
            self._waiting = _to_waiting(body)
            return "ready", ""
        try:
            reason = str(orjson.loads(body)["reason"])
        except (ValueError, KeyError, TypeError):
            reason = f"the readiness probe answered {status}"
        return "failed" if status == 500 else "waiting", reason

    def waiting(self) -> tuple[tuple[CallerWait, ...], ...]:
        """What the last probe said of who waits there, for the one server; nobody where servers do not say."""
        return (self._waiting,)

    async def start(self) -> None:
        """Wait until the server is ready.

        Raises:
            EngineUnavailableError: if it failed to load, or is not ready within ``timeout_s``.
        """
        reason = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    readiness, reason = await self.probe()
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
            EngineTimeoutError: if nothing comes for ``timeout_s``, or the answer takes over ``answer_timeout_s``.
            InvalidRequestError: if log probabilities were asked for and the server answers without them.
            GenerationFailedError: if the server sends what is no answer, or more than the tokens asked for can be; if
                JSON was asked for and the server, being done, has answered with something else.
            EngineError: what the engine itself raised.
        """
        end = asyncio.get_running_loop().time() + self._answer_timeout_s
        response = await self._open(request)
        reader = AnswerReader(request, max_chars=self._max_chars(request), is_foreign=self._is_foreign, url=self.url)
        try:
            deadline = self._new_deadline()
            while not reader.is_done:
                received = await self._next_bytes(response, deadline=deadline, end=end)
                if not received:
                    break
                has_events, failure = reader.feed(received)
                if (shown := reader.take()) != NOTHING:
                    yield shown
                if failure is not None:
                    raise failure
                if reader.is_over:  # its server may write on for as long as it is let
                    end = min(end, asyncio.get_running_loop().time() + _TAIL_S)
                if has_events:  # comments keep a connection alive, but they are no sign of a living model
                    deadline = self._new_deadline()
            if reader.finish_reason is None:
                raise self._broken_off("it closed the connection in the middle of an answer")
            await self._read_tail(response)
        except EngineError:
            if not reader.is_over:  # else the answer is whole: only its token counts are missing
                raise
        finally:
            response.close()
        yield await reader.finish()

    async def count(self, request: GenerationRequest) -> Usage | None:
        """Ask how many tokens a prompt takes, without an answer; None if the server cannot say it exactly.

        Ours counts pictures too. Of other makes vLLM counts texts under ``/tokenize``; functions and pictures it
        counts otherwise than in an answer's usage.

        Raises:
            EngineError: as `stream` does.
        """
        if self._info is None:
            await self.info()
        model = await self._model_for(request)
        headers = self._headers_of(request)
        if not self._is_foreign:
            pieces = requests.to_chat_pieces(request, model)
            response = await self._post(pieces, headers, self._root_path + requests.COUNT_PATH)
        elif request.images or request.sampling.tool_use is not None or not self._can_tokenize:
            return None
        else:
            pieces = [requests.to_tokenize_body(request, model)]
            response = await self._post(pieces, headers, f"{self._root_path}/tokenize")
        try:
            body = await self._read_document(response)
        finally:
            response.close()
        if self._is_foreign and response.status != 200:
            self._can_tokenize = response.status not in (400, 404, 405, 422, 501)
            return None
        if response.status in (404, 405):  # an older one of ours
            return None
        if response.status != 200:
            raise self._to_error(response.status, body)
        return _to_counted(body)

    async def aclose(self) -> None:
        """Close every connection; running answers end with `EngineUnavailableError`."""
        self._is_closed = True
        self._pool.close()

    async def _open(self, request: GenerationRequest) -> Answer:
        """Post a request until it is accepted: again without a field that the server does not know and can do without.

        Raises:
            EngineError: the server's refusal, or what went wrong on the way.
        """
        model = await self._model_for(request)
        unknown = self._unknown_fields
        while True:
            pieces = requests.to_chat_pieces(request, model, is_foreign=self._is_foreign, without=unknown)
            response = await self._post(pieces, self._headers_of(request))
            try:
                error = await self._refusal(response)
            except BaseException:
                response.close()
                raise
            if error is None:
                if unknown - self._unknown_fields:
                    log.warning("%s does not know %s: left out from now on", self.url, ", ".join(sorted(unknown)))
                    self._unknown_fields |= unknown
                return response
            response.close()
            if isinstance(error, InvalidImageError) and error.param:
                error.param = requests.param_of_caller(error.param, request.messages)
            if response.status == 404 and request.adapter:  # it came back without
                raise UnknownAdapterError(error.message, param="model") from error
            if not self._is_foreign or not isinstance(error, InvalidRequestError):
                raise error
            room = errors.room_for_answer(error) if isinstance(error, ContextLengthError) else None
            wanted = request.sampling.max_tokens
            if room is not None and wanted is not None and room < wanted:
                request = replace(request, sampling=replace(request.sampling, max_tokens=room))
                continue
            sent = [name for name in (*requests.THINKING_FIELDS, *requests.OPTIONAL_FIELDS) if name not in unknown]
            field = errors.unknown_field(error, sent)
            if field is None:
                raise error
            unknown |= {field}
            if unknown.issuperset(requests.THINKING_FIELDS):
                raise EngineUnavailableError(
                    f"The engine cannot be told whether to think: it refuses {' and '.join(requests.THINKING_FIELDS)}. "
                    "Use a server that knows one of them.",
                    detail=self.url,
                ) from error

    async def _model_for(self, request: GenerationRequest) -> str:
        """The model's name as this server knows it, or that of the adapter asked for.

        Raises:
            EngineUnavailableError: if the name must be asked for and the server cannot be reached.
            UnknownAdapterError: if the server has no such adapter.
        """
        if self._info is None and (self._model is None or request.adapter):
            await self.info()
        if not request.adapter:
            return self._model or (self._info.model_id if self._info else "")
        if self._info is None or request.adapter not in self._info.adapters:
            info = await self.info()  # servers may load adapters while they run
            if request.adapter not in info.adapters:
                wanted = model_with(info.model_id, request.adapter)
                raise UnknownAdapterError(describe_unknown(wanted, info), param="model")
        return self._adapter_ids[request.adapter]

    async def _refusal(self, response: Answer) -> EngineError | None:
        """Tell why a response brings no answer; None if it does."""
        is_document = response.content_type in ("application/json", "text/html")
        if response.status == 200 and not is_document:
            return None
        body = await self._read_document(response)
        if response.status == 200:
            if _has_error(body):
                return errors.from_error(None, body)
            return EngineUnavailableError(
                f"The engine answered with a document ({response.content_type}) and not with a stream of events: "
                "is its address right?",
                detail=self.url,
            )
        error = self._to_error(response.status, body)
        error.retry_after_s = _retry_after_s(response.headers.get("retry-after"))
        return error

    def _to_error(self, status: int, body: bytes) -> EngineError:
        """Like `errors.from_error`; of what only an operator can mend, the detail says where."""
        error = errors.from_error(status, body)
        hint = {
            401: "refuses the API key",
            402: "wants to be paid",
            403: "does not let this API key in",
            404: "has no such path or model",
        }.get(status, "answers from elsewhere: use the address it points to" if 300 <= status < 400 else None)
        if hint is None:
            return error
        self._info = None  # with 404, it may have come back with another model than it had
        return EngineUnavailableError(f"The engine {hint} ({status}): {error.message}", detail=self.url)

    def _headers_of(self, request: GenerationRequest) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if request.request_id:
            # No two calls have one: vLLM names its runs by it, and refuses a second one of a name.
            headers["X-Request-ID"] = f"{request.request_id}-{secrets.token_hex(4)}"
        if request.origin.request_id and not self._is_foreign:  # a caller may have chosen it: no one else's to read
            headers[requests.ORIGIN_HEADER] = request.origin.request_id
        return headers | to_trace_headers(request.origin) if request.origin.traceparent else headers

    async def _post(self, pieces: list[bytes], headers: dict[str, str], path: str = "") -> Answer:
        path = path or f"{self._api_path}/chat/completions"
        try:
            return await self._ask("POST", path, pieces, headers, _CONNECT_S, self._timeout_s)
        except UnreachableError as error:
            raise self._unavailable("it cannot be reached", error) from error
        except TimeoutError as error:
            raise self._timed_out() from error
        except OSError as error:
            raise self._broken_off("the connection broke before the answer", error) from error

    async def _ask(
        self, method: str, path: str, pieces: list[bytes], headers: dict[str, str], connect_s: float, timeout_s: float
    ) -> Answer:
        if self._is_closed:
            raise EngineUnavailableError("This engine client is closed.")
        return await self._pool.ask(method, path, pieces, headers=headers, connect_s=connect_s, timeout_s=timeout_s)

    async def _next_bytes(self, response: Answer, *, deadline: float, end: float = math.inf) -> bytes:
        try:
            # What is there already would be read even after the end, for ever: a timeout acts only on a wait.
            if asyncio.get_running_loop().time() >= end:
                raise TimeoutError
            return await response.read(min(deadline, end))
        except TimeoutError as error:
            raise self._timed_out(is_endless=end <= deadline) from error
        except OSError as error:
            raise self._broken_off("the connection broke in the middle of an answer", error) from error

    async def _read_document(self, response: Answer) -> bytes:
        """Read a body that is no stream, as far as anything of ours may be in it."""
        document, deadline = bytearray(), self._new_deadline()
        while len(document) < _MAX_DOCUMENT_BYTES and (piece := await self._next_bytes(response, deadline=deadline)):
            document += piece
        return bytes(document)

    async def _read_tail(self, response: Answer) -> None:
        until = asyncio.get_running_loop().time() + _TAIL_S
        try:
            while asyncio.get_running_loop().time() < until and await response.read(until):
                pass
        except OSError:  # TimeoutError too: the answer is whole, only the connection is lost
            return

    async def _get(self, path: str) -> tuple[int, bytes]:
        try:
            timeout_s = min(_PROBE_S, self._timeout_s)
            async with asyncio.timeout(timeout_s):
                response = await self._ask("GET", path, [], {}, _PROBE_CONNECT_S, timeout_s)
                try:
                    return response.status, await self._read_document(response)
                finally:
                    response.close()
        except OSError as error:
            raise self._unavailable("it cannot be reached", error) from error

    async def _probe_by_list(self) -> tuple[Readiness, str]:
        try:
            await self.info()
        except EngineUnavailableError as error:
            listed: tuple[float, Readiness, str] = (
                time.monotonic() + _LIST_PROBE_AGAIN_S,
                "waiting",
                error.for_operators,
            )
        else:
            listed = (time.monotonic() + _LIST_PROBE_S, "ready", "")
        self._listed = listed
        return listed[1:]

    def _new_deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s

    def _max_chars(self, request: GenerationRequest) -> int:
        context_tokens = self._info.context_tokens if self._info else models.UNKNOWN_CONTEXT_TOKENS
        return (request.sampling.max_tokens or context_tokens) * _CHARS_PER_TOKEN + _SPARE_CHARS

    def _timed_out(self, *, is_endless: bool = False) -> EngineTimeoutError:
        if is_endless:
            return EngineTimeoutError(
                f"The engine did not end its answer within {self._answer_timeout_s:g} s.", detail=self.url
            )
        return EngineTimeoutError(f"The engine sent nothing for {self._timeout_s:g} s.", detail=self.url)

    def _broken_off(self, why: str, error: Exception | None = None) -> EngineUnavailableError:
        refusal = self._unavailable(why, error)
        refusal.is_broken_off = not self._is_closed
        return refusal

    def _unavailable(self, why: str, error: Exception | None = None) -> EngineUnavailableError:
        # Another engine, or the same with other weights, may come back in its place.
        self._info = self._listed = None
        self._unknown_fields = frozenset()
        detail = f"{self.url}: {_describe(error)}" if error else self.url
        return EngineUnavailableError(f"The engine is not available: {why}.", detail=detail)


def _retry_after_s(value: str | None) -> float | None:
    """Read ``Retry-After``: seconds, or a date; at most `_MAX_RETRY_AFTER_S`."""
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(wait_s) else min(max(0.0, wait_s), _MAX_RETRY_AFTER_S)


def _has_error(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and bool(document.get("error"))


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _to_waiting(body: bytes) -> tuple[CallerWait, ...]:
    """Read who waits from the answer of a readiness probe; a server of another make says something else, or nothing."""
    try:
        return tuple(
            CallerWait(str(each["caller"]), int(each["num_waiting"]), float(each["oldest_s"]), float(each["turn_s"]))
            for each in orjson.loads(body)["waiting"]
        )
    except (ValueError, KeyError, TypeError):
        return ()


def _to_counted(body: bytes) -> Usage | None:
    """Read how many tokens a server has counted; None if it says no number."""
    try:
        said = orjson.loads(body)
        counted = Usage(int(said.get("input_tokens", said.get("count"))), image_tokens=said.get("image_tokens", 0))
    except (ValueError, TypeError, AttributeError):
        return None
    return counted if counted.prompt_tokens > 0 else None
