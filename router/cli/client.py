"""The one HTTP client of the commands, over nothing but the public API.

In: a service's address, a key, calls. Out: the JSON objects it answers, or `RefusedError` and `UnreachableError`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import aiohttp
import orjson

from router.cli.common import Language
from router.cli.texts import say

Json = dict[str, Any]

CONNECT_TIMEOUT_S = 10.0
# A webhook test waits for its receiver. A file transfer has no timeout while bytes arrive.
ANSWER_TIMEOUT_S = 60.0


class UnreachableError(Exception):
    """Nothing answers at the base URL."""


class RefusedError(Exception):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        message: the error envelope's message, or the body where there is none.
        code: the envelope's code, if any.
    """

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class Client:
    """One service. Use as an async context manager.

    Args:
        base_url: such as ``http://127.0.0.1:8000``; a trailing ``/v1`` is understood too.
        api_key: sent as a bearer token when not empty.
        language: sent as ``Accept-Language``: refusals, and the errors in a batch, come in it.

    Attributes:
        language: as given.

    Raises:
        RefusedError: by every method, if the service refuses.
        UnreachableError: by every method, if nothing listens or the connection breaks.
    """

    def __init__(self, base_url: str, *, api_key: str = "", language: Language = "en") -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1") + "/v1/"
        self._api_key = api_key
        self.language = language
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        headers = {"Accept-Language": self.language, **bearer(self._api_key, self.language)}
        self._session = aiohttp.ClientSession(headers=headers, raise_for_status=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        silence_s: float = ANSWER_TIMEOUT_S,
        /,
        **query: str | int,
    ) -> Json:
        """Call a route under ``/v1/`` and read its object, which may begin to come after ``silence_s``."""
        async with self.request(method, path, silence_s=silence_s, json=body, params=query) as answer:
            return read_object(await answer.read(), self.language)

    async def upload(self, filename: str, lines: BinaryIO) -> Json:
        """Send a file of batch lines."""
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", lines, filename=filename, content_type="application/jsonl")
        async with self.request("POST", "files", data=form) as answer:
            return read_object(await answer.read(), self.language)

    async def download(self, file_id: str, path: Path) -> None:
        """Write a file's content to ``path``, whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            async with self.request("GET", f"files/{file_id}/content") as answer:
                with temporary.open("wb") as target:
                    async for piece in answer.content.iter_any():
                        target.write(piece)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, *, silence_s: float = ANSWER_TIMEOUT_S, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a request; what goes wrong while its body is read is raised as `UnreachableError` too.

        Args:
            method: of HTTP.
            path: below ``/v1/``.
            silence_s: the longest wait for the next byte.
            options: as `aiohttp.ClientSession.request` takes them.
        """
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        try:
            async with self._session.request(method, self._url + path, timeout=timeout, **options) as answer:
                if answer.status != 200:
                    raise read_refusal(answer.status, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnreachableError(str(error)) from None


def read_object(body: bytes, language: Language) -> Json:
    """Read a JSON object that came with 200.

    Raises:
        RefusedError: if it is none: then another service answers at that address.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(200, say("client.foreign", language))
    return found


def bearer(api_key: str, language: Language) -> dict[str, str]:
    """Return the header with a key, none for an empty one; line ends around it, as files have them, are dropped.

    Raises:
        RefusedError: if no header can carry the key.
    """
    key = api_key.strip()
    if not key.isprintable():
        raise RefusedError(401, say("client.key", language))
    return {"Authorization": f"Bearer {key}"} if key else {}


def read_refusal(status: int, body: bytes) -> RefusedError:
    """Read an error envelope, or whatever else came with an error status."""
    try:
        error = orjson.loads(body)["error"]
        return RefusedError(status, str(error["message"]), error.get("code"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = body.decode("utf-8", errors="replace").strip()
        return RefusedError(status, text[:500] or "no message")
