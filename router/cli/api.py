"""The service that a command asks: its options, and calls whose failures end the command with one line.

In: ``--url``, ``--api-key``, a route. Out: the JSON object that the service answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import Language, fail, to_command
from router.cli.texts import say

if TYPE_CHECKING:
    from router.cli.client import Client

Json = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8000"
UrlOption = Annotated[str, typer.Option("--url", envvar="GLOWL_URL", help="Base URL of the service.")]
KeyOption = Annotated[
    str, typer.Option("--api-key", envvar="GLOWL_API_KEY", help="Key to send, if the service wants one.")
]


def other_url(url: str) -> str | None:
    """Return what ``--url`` has to be; None if it need not be given."""
    return None if url == DEFAULT_URL else url


@dataclass(frozen=True, slots=True)
class Api:
    """One service, and how to speak to its user."""

    url: str
    key: str
    language: Language

    def client(self) -> Client:
        """A client for more than one call; use as an async context manager."""
        from router.cli.client import Client  # after the command is chosen: aiohttp takes its time to import

        return Client(self.url, api_key=self.key, language=self.language)

    def call(self, method: str, path: str, body: Json | None = None, **query: str | int) -> Json:
        """Call a route under ``/v1/``.

        Raises:
            typer.Exit: after one line, if nothing answers or the service refuses.
        """

        async def once() -> Json:
            async with self.client() as client:
                return await client.call(method, path, body, **query)

        with self.refusals():
            return asyncio.run(once())

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn what a `Client` raises into one line on stderr and the end of the command.

        Raises:
            typer.Exit: if nothing answers or the service refuses.
        """
        from router.cli.client import RefusedError, UnreachableError

        try:
            yield
        except UnreachableError:
            fail(say("ask.unreachable", self.language, url=self.url))
        except RefusedError as error:
            fail(say("ask.http", self.language, status=error.status, message=error.message))

    def to_command(self, *words: str) -> str:
        """Write a command that asks the same service."""
        return to_command(*words, url=other_url(self.url))

    def say(self, key: str, **values: object) -> None:
        """Print a sentence."""
        typer.echo(say(key, self.language, **values))
