"""One file from a hub: resumed where an earlier try or process stopped, and verified.

In: a `RemoteFile` and the path that it gets. Out: the file, whole and with the contents that the hub names, or an
error. What has arrived is kept beside it until then. The hub's own client begins a file anew in every process, which at
5 GB a file never ends on a line that breaks every hour.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import aiohttp

from engines.hub.answers import away, refusal
from engines.hub.listing import RemoteFile
from engines.hub.names import ModelName, Place
from engines.hub.snapshots import PART, digest_of
from engines.hub.words import AwayError, HubError, Note

_CHUNK_BYTES: Final = 1024 * 1024
# Of silence; there is no bound on the whole, since lines are as slow as they are.
TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
_RANGE = re.compile(r"bytes (\d+)-")


class Fetcher:
    """Fetches files of one model.

    Args:
        session: for all requests.
        name: of the model.
        place: of its hub.
        headers: sent to the hub; where it sends us on to another host, the token among them stays behind.
        moved: told how many bytes arrived; negative if they are thrown away again.
        note: told what is worth a line.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        name: ModelName,
        place: Place,
        headers: Mapping[str, str],
        *,
        moved: Callable[[int], None],
        note: Callable[[Note], None],
    ) -> None:
        self._session = session
        self._name = name
        self._place = place
        self._headers = headers
        self._moved = moved
        self._note = note

    async def fetch(self, file: RemoteFile, target: Path) -> None:
        """Bring a file here, in one try.

        Raises:
            AwayError: if it broke off; the next try goes on from there.
            HubError: if the hub refuses, the disk is full, or the contents are wrong.
        """
        part = part_of(target)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as output:
                if output.tell() != file.num_bytes:
                    await self._receive(file, output)
            wrong = await asyncio.to_thread(_wrong_hash, file, part)
            if wrong:
                self._moved(-part.stat().st_size)
                part.unlink()
                raise WrongContentsError(file, wrong, self._name, self._place)
            part.replace(target)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise away(error, self._place) from error
        except OSError as error:
            raise disk_error(error, target.parent) from error

    async def _receive(self, file: RemoteFile, output: IO[bytes]) -> None:
        have = output.tell()
        if have > file.num_bytes:
            self._restart(output)
            have = 0
        # As it is stored, or positions would be those of packed bytes.
        headers = {**self._headers, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        async with self._session.get(file.url, headers=headers, auto_decompress=False) as response:
            if response.status == 416:
                self._restart(output)
                raise AwayError("cut", endpoint=self._place.endpoint, file=file.path)
            if response.status not in (200, 206):
                told = await response.content.read(2000)
                raise self._refusal(file, response, told.decode("utf-8", "replace"))
            gigabytes = {"have_gb": have / 1e9, "size_gb": file.num_bytes / 1e9}
            if have and not _goes_on_at(response, have):
                self._note(Note("restarted", endpoint=self._place.endpoint, file=file.path, **gigabytes))
                self._restart(output)
            elif have:
                self._note(Note("resumed", file=file.path, **gigabytes))
            async for piece in response.content.iter_chunked(_CHUNK_BYTES):
                output.write(piece)
                self._moved(len(piece))
            output.flush()
        if output.tell() != file.num_bytes:
            raise AwayError("cut", endpoint=self._place.endpoint, file=file.path)

    def _restart(self, output: IO[bytes]) -> None:
        self._moved(-output.tell())
        output.seek(0)
        output.truncate()

    def _refusal(self, file: RemoteFile, response: aiohttp.ClientResponse, body: str) -> HubError:
        # The model is there, since its files were listed.
        if response.status == 404:
            values: dict[str, Any] = {
                "repo": self._name.repo,
                "revision": self._name.wanted_revision,
                "file": file.path,
            }
            return HubError("missing", endpoint=self._place.endpoint, **values)
        return refusal(response.status, response.headers, self._name, self._place, body)


class WrongContentsError(AwayError):
    """A file arrived whole, and is another: once, a line may be at fault."""

    def __init__(self, file: RemoteFile, got: str, name: ModelName, place: Place) -> None:
        super().__init__("again", file=file.path, endpoint=place.endpoint)
        values: dict[str, Any] = {"file": file.path, "repo": name.repo, "endpoint": place.endpoint}
        self.final = HubError("contents", **values, got=got[:12], wanted=file.hash[:12])


def part_of(target: Path) -> Path:
    """Where what has arrived of a file is kept."""
    return target.with_name(target.name + PART)


def disk_error(error: OSError, folder: Path) -> HubError:
    """Say what a disk refuses."""
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return HubError("unwritable", folder=folder, reason=reason)


def _wrong_hash(file: RemoteFile, path: Path) -> str:
    """The hash of a file that does not have the one that its hub names; empty if it has, or none is named."""
    if not file.hash:
        return ""
    found = digest_of(path, "sha256" if file.sha256 else "git")
    return "" if found == file.hash else found


def _goes_on_at(response: aiohttp.ClientResponse, have: int) -> bool:
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == have
