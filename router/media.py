"""Pictures at the door: a string out of a request becomes an `ImagePart`, or a refusal that says what would do.

In: a data URL, an http(s) URL, bare base64 or an uploaded file. Out: the encoded bytes, their sniffed type and hash.
Only the header is read here; the engine decodes, and what only decoding shows (truncation) comes back from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol
from urllib.parse import unquote_to_bytes

import pybase64

from engines.base import ImagePart
from engines.image_header import ACCEPTED_TYPES, ImageHeader, read_header, sniff_media_type
from engines.image_layout import TooManyBlocksError, has_too_many_scans
from engines.images import MAX_REQUEST_PIXELS
from policies.text import NOTHING
from router import texts
from router.errors import ImageError, ImageFetchError
from router.fetch import FetchedBody, FetchError, FetchTooLargeError, UrlRefusedError
from router.telemetry.meters import UNMETERED, Meters

MAX_SIDE_PX = 16384
FETCH_CONCURRENCY = 4
_INLINE_BYTES = 128 * 1024  # below this, decoding and hashing cost less than a hop to a thread


_DATA_URL = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_WHITESPACE = b" \t\r\n\f"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# Non-canonical base64 is decoded in pieces: copies of 60 MB cost memory and block the event loop.
_PIECE_CHARS = 32 * 1024
# Unquoting makes an object per escape. Clients that escape only what must be escaped send 1 in 20 characters so, 1.3
# million in the largest picture.
_MAX_ESCAPES = 2_000_000


class MediaSettings(Protocol):
    """The part of `router.settings.Settings` the door needs."""

    @property
    def max_image_bytes(self) -> int:
        """Largest picture, encoded."""
        ...

    @property
    def max_image_pixels(self) -> int:
        """Largest picture, width times height."""
        ...

    @property
    def max_images(self) -> int:
        """Most pictures in one request."""
        ...


class Fetcher(Protocol):
    """Downloads a picture; `router.fetch.SafeFetcher` in production."""

    async def get(self, url: str) -> FetchedBody:
        """Download at most ``max_image_bytes``, or raise a `FetchError`."""
        ...


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A picture that may pass, and how many pixels it has."""

    part: ImagePart
    num_pixels: int


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture that was uploaded before, and is named by its id.

    Attributes:
        file_id: of the file.
        data: its bytes.
    """

    file_id: str
    data: bytes


Source = str | StoredPicture


class MediaIntake:
    """Takes pictures in, in whatever form a caller sends them.

    Args:
        settings: limits.
        fetcher: downloads http(s) sources.
        meters: told of sizes, and of the time that downloads take.
    """

    def __init__(self, settings: MediaSettings, fetcher: Fetcher, meters: Meters = UNMETERED) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._meters = meters

    async def load_all(self, sources: Sequence[tuple[Source, str]]) -> tuple[ImagePart, ...]:
        """Load several pictures, a few at a time, keeping their order; the first refusal stops the rest.

        Args:
            sources: pairs of source and request field, as for `load`.

        Raises:
            ImageError: if one is refused, there are more than ``max_images``, or they have more pixels together than an
                engine decodes for one request.
            ImageFetchError: if one cannot be fetched.
        """
        if not sources:
            return ()
        limit = self._settings.max_images
        if len(sources) > limit:
            raise ImageError(
                texts.TOO_MANY_PICTURES.fill(num_images=len(sources), limit=limit),
                code="too_many_images",
                param=sources[limit][1],
            )
        slots = asyncio.Semaphore(FETCH_CONCURRENCY)

        async def load_one(source: Source, param: str) -> _Accepted:
            async with slots:
                return await self._load(source, param)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(load_one(source, param)) for source, param in sources]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        accepted = [task.result() for task in tasks]
        for number, total in enumerate(accumulate(each.num_pixels for each in accepted)):
            if total > MAX_REQUEST_PIXELS:
                raise ImageError(
                    texts.TOO_MANY_PIXELS_OF_ALL.fill(max_request_pixels=MAX_REQUEST_PIXELS),
                    code="image_too_large",
                    param=sources[number][1],
                )
        if accepted:
            self._meters.took_pictures([(len(each.part.data), each.num_pixels) for each in accepted])
        return tuple(each.part for each in accepted)

    async def load(self, source: Source, *, param: str) -> ImagePart:
        """Load one picture.

        Args:
            source: a data URL, an http(s) URL, bare base64, or an uploaded picture.
            param: the request field it came from, named in refusals.

        Raises:
            ImageError: if it is no picture, or not one that is accepted.
            ImageFetchError: if its URL is not allowed or cannot be fetched.
        """
        return (await self._load(source, param)).part

    async def _load(self, source: Source, param: str) -> _Accepted:
        if isinstance(source, StoredPicture):
            return await _run(len(source.data), lambda: self._from_file(source, param))
        head = source[:64].lstrip()
        scheme = _SCHEME.match(head)
        if scheme is None:
            return await _run(len(source), lambda: self._from_base64(source, param))
        match scheme.group(1).lower():
            case "data":
                return await _run(len(source), lambda: self._from_data_url(source, param))
            case "http" | "https":
                body = await self._fetch(source, param)
                return await _run(len(body.data), lambda: self._from_body(body, param))
            case name:
                raise ImageError(texts.PICTURE_SCHEME.fill(name=name), code="invalid_image_url", param=param)

    async def _fetch(self, url: str, param: str) -> FetchedBody:
        began, is_good = time.perf_counter(), False
        try:
            body = await self._fetcher.get(url)
            is_good = True
            return body
        except FetchTooLargeError:
            raise self.too_many_bytes(param) from None
        except FetchError as error:
            code = "invalid_image_url" if isinstance(error, UrlRefusedError) else "failed_to_download_image"
            raise ImageFetchError(
                texts.DOWNLOAD_FAILED.fill(why=error.text),
                code=code,
                param=param,
            ) from error
        finally:
            self._meters.fetched(time.perf_counter() - began, is_good=is_good)

    def _from_data_url(self, source: str, param: str) -> _Accepted:
        prefix = _DATA_URL.match(source, 0, 1024)
        # What is declared beside "base64" does not matter: clients mislabel pictures all the time; the bytes decide.
        if prefix is None or "base64" not in [part.strip().lower() for part in prefix.group(1).split(";")]:
            raise ImageError(texts.DATA_URL, code="invalid_base64_image", param=param)
        return self._from_base64(source, param, prefix.end())

    def _from_base64(self, text: str, param: str, start: int = 0) -> _Accepted:
        return self._accept(self._decode_base64(text, start, param), param)

    def _from_file(self, file: StoredPicture, param: str) -> _Accepted:
        if len(file.data) > self._settings.max_image_bytes:
            raise self.too_many_bytes(param)
        accepted = self._accept(file.data, param)
        return replace(accepted, part=replace(accepted.part, file_id=file.file_id))

    def _from_body(self, body: FetchedBody, param: str) -> _Accepted:
        return self._accept(body.data, param, served_as=body.content_type)

    def _decode_base64(self, text: str, start: int, param: str) -> bytes:
        """Decode leniently (line breaks, missing padding, the URL-safe alphabet), bounded before decoding."""
        limit = self._settings.max_image_bytes
        max_chars = 4 * ((limit + 2) // 3)
        try:
            if len(text) - start <= max_chars:
                return self._bounded(pybase64.b64decode(text[start:], validate=True), param)
        except ValueError:
            pass  # not in canonical form: look closer
        try:
            canonical = _to_canonical(text, start, max_chars)
            data = None if canonical is None else pybase64.b64decode(canonical, validate=True)
        except ValueError:
            raise ImageError(texts.NOT_BASE64, code="invalid_base64_image", param=param) from None
        if data is None:
            raise self.too_many_bytes(param)
        return self._bounded(data, param)

    def _bounded(self, data: bytes, param: str) -> bytes:
        if len(data) > self._settings.max_image_bytes:
            raise self.too_many_bytes(param)
        return data

    def _accept(self, data: bytes, param: str, *, served_as: str = "") -> _Accepted:
        """Judge the bytes, whichever way they came.

        Raises:
            ImageError: if they are not a picture that is accepted.
        """
        if not data:
            raise ImageError(texts.EMPTY_PICTURE, code="empty_image_file", param=param)
        media_type = sniff_media_type(data)
        if not media_type:
            label = texts.SERVED_AS.fill(served_as=served_as) if served_as else NOTHING
            raise ImageError(texts.UNKNOWN_PICTURE.fill(label=label), code="invalid_image", param=param)
        if media_type not in ACCEPTED_TYPES:
            raise ImageError(
                texts.PICTURE_TYPE.fill(media_type=media_type), code="unsupported_image_media_type", param=param
            )
        try:
            header = read_header(data)
        except TooManyBlocksError as error:
            raise ImageError(
                texts.TOO_MANY_CHUNKS.fill(media_type=media_type, most=error.most), code="image_too_large", param=param
            ) from None
        except ValueError:
            raise ImageError(
                texts.BROKEN_HEADER.fill(media_type=media_type), code="image_parse_error", param=param
            ) from None
        self._check_header(header, len(data), param)
        part = ImagePart(data=data, media_type=media_type, sha256=hashlib.sha256(data).hexdigest(), param=param)
        return _Accepted(part, header.num_pixels)

    def _check_header(self, header: ImageHeader, num_bytes: int, param: str) -> None:
        max_pixels = self._settings.max_image_pixels
        size = f"{header.width_px} x {header.height_px}"
        if header.width_px < 1 or header.height_px < 1:
            raise ImageError(texts.PICTURE_TOO_SMALL.fill(size=size), code="image_too_small", param=param)
        if max(header.width_px, header.height_px) > MAX_SIDE_PX or header.num_pixels > max_pixels:
            raise ImageError(
                texts.TOO_MANY_PIXELS.fill(size=size, max_pixels=max_pixels, max_side_px=MAX_SIDE_PX),
                code="image_too_large",
                param=param,
            )
        if has_too_many_scans(header.num_scans, header.num_pixels):
            raise ImageError(
                texts.TOO_MANY_SCANS.fill(num_scans=header.num_scans, size=size), code="image_too_large", param=param
            )
        if header.is_slow_bitmap(num_bytes):
            raise ImageError(texts.LARGE_RLE.fill(size=size), code="image_too_large", param=param)
        if header.is_animated:
            raise ImageError(texts.ANIMATED, code="unsupported_image_media_type", param=param)

    def too_many_bytes(self, param: str) -> ImageError:
        """Make the error of a picture that is larger than one may be."""
        limit = self._settings.max_image_bytes
        return ImageError(texts.PICTURE_TOO_LARGE.fill(limit=limit), code="image_file_too_large", param=param)


def _to_canonical(text: str, start: int, max_chars: int) -> bytearray | None:
    """Undo percent-encoding, white space, the URL-safe alphabet and missing padding, in one pass that ends early.

    Args:
        text: with base64 from ``start`` on.
        start: where it begins.
        max_chars: of canonical base64 that are accepted.

    Returns:
        What a strict decoder reads; None if there is more of it than is accepted.

    Raises:
        ValueError: if it is not ASCII, or has more escapes than are undone.
    """
    if text.count("%", start) > _MAX_ESCAPES:
        raise ValueError("too many escapes")
    canonical = bytearray()
    rest = b""
    for at in range(start, len(text), _PIECE_CHARS):
        piece = rest + text[at : at + _PIECE_CHARS].encode("ascii").translate(None, _WHITESPACE)
        rest = b""
        if b"%" in piece:
            cut = piece.rfind(b"%", max(len(piece) - 2, 0))  # an escape may end in the next piece
            if cut >= 0:
                piece, rest = piece[:cut], piece[cut:]
            piece = unquote_to_bytes(piece).translate(None, _WHITESPACE)
        canonical += piece.translate(_URL_SAFE)
        if len(canonical) > max_chars + 2:  # a client may pad what needs none
            return None
    canonical += rest  # half an escape, which no decoder takes
    del canonical[len(canonical.rstrip(b"=")) :]
    if len(canonical) > max_chars:
        return None
    canonical += b"=" * (-len(canonical) % 4)
    return canonical


async def _run(num_bytes: int, work: Callable[[], _Accepted]) -> _Accepted:
    """Small pictures at once, big ones in a thread: 20 MB take tens of milliseconds that the event loop lacks."""
    return work() if num_bytes <= _INLINE_BYTES else await asyncio.to_thread(work)
