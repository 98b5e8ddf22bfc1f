"""Pictures that an agent names: files below the allowed folders are read, addresses stay what they are.

In: a path, a ``file:`` URL, an http(s) or data URL. Out: a string for ``image_url``, or `SourceError`. An agent may be
led by what it reads, so only files that are pictures, below folders that its user named, leave this process.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pybase64

from policies.text import TextError
from router.cli.pictures import MAX_FILE_BYTES, is_url, sniff
from router.mcp import texts

_MAX_SHOWN = 200


class SourceError(TextError):
    """A picture that is not sent; the message says what would be accepted."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where pictures may come from.

    Attributes:
        folders: the allowed ones, resolved; a relative path is looked for in each of them.
    """

    folders: tuple[Path, ...]

    @classmethod
    def below(cls, folders: Sequence[Path]) -> Sources:
        """Allow what is below these folders, wherever their symbolic links lead."""
        return cls(tuple(folder.expanduser().resolve() for folder in folders))

    def to_image_urls(self, sources: Sequence[str]) -> list[str]:
        """Return what the API takes as ``image_url`` for each picture of one call.

        Raises:
            SourceError: if one is neither an address nor a readable picture below an allowed folder, or if the files
                together are larger than a request.
        """
        urls, left = [], MAX_FILE_BYTES
        for source in map(str.strip, sources):
            if is_url(source):
                urls.append(source)
                continue
            data = self._read(source)
            left -= len(data)
            if left < 0:
                raise SourceError(texts.FILES_TOO_LARGE.fill(most=MAX_FILE_BYTES // 2**20))
            media_type = sniff(data)
            if media_type is None:
                is_pdf = data.startswith(b"%PDF-")
                raise SourceError((texts.IS_PDF if is_pdf else texts.NO_PICTURE).fill(path=_shorten(source)))
            urls.append(f"data:{media_type};base64,{pybase64.b64encode_as_string(data)}")
        return urls

    def _read(self, source: str) -> bytes:
        path, said = self._find(source), _shorten(source)
        try:
            # Not blocking: a pipe that nobody writes to would hold the call for ever.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise SourceError(texts.NO_FILE.fill(path=said))
                if found.st_size > MAX_FILE_BYTES:
                    sizes = {"size": found.st_size / 2**20, "most": MAX_FILE_BYTES // 2**20}
                    raise SourceError(texts.FILE_TOO_LARGE.fill(path=said, **sizes))
                return file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            raise SourceError(texts.FILE_MISSING.fill(path=said, folders=self._shown())) from None
        except (IsADirectoryError, NotADirectoryError):
            raise SourceError(texts.NO_FILE.fill(path=said)) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise SourceError(texts.NO_FILE.fill(path=said)) from None
            raise SourceError(texts.FILE_UNREADABLE.fill(path=said, reason=error.strerror or error)) from None

    def _find(self, source: str) -> Path:
        """Return the path without symbolic links; the first that exists, if it is relative.

        Raises:
            SourceError: if it leads out of every allowed folder, whether or not there is such a file.
        """
        if not self.folders:
            raise SourceError(texts.NO_FOLDER.fill(path=_shorten(source)))
        named = unquote(urlsplit(source).path) if source[:5].lower() == "file:" else source
        try:
            path = Path(named).expanduser()
            candidates = [(folder / path).resolve() for folder in self.folders]
        except (OSError, ValueError, RuntimeError):  # a zero byte, a loop of links, "~" of an unknown user
            raise SourceError(texts.NO_FILE.fill(path=_shorten(source))) from None
        allowed = [each for each in candidates if any(each.is_relative_to(folder) for folder in self.folders)]
        if not allowed:
            raise SourceError(texts.NOT_ALLOWED.fill(path=_shorten(source), folders=self._shown()))
        return next((each for each in allowed if os.path.exists(each)), allowed[0])

    def _shown(self) -> str:
        return ", ".join(map(str, self.folders))


def _shorten(source: str) -> str:
    """Return what a refusal repeats: an agent may send a whole picture where a path is wanted, and reads all of it."""
    return source if len(source) <= _MAX_SHOWN else f"{source[:_MAX_SHOWN]}..."
