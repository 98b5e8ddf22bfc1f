"""`glowl batch`: a file of questions goes in, a file of answers comes out, however long that takes.

In: JSONL of batch lines, or of ``{"question", "images"}``, or CSV with the columns ``question`` and ``image``. Out: the
answers as JSONL, and beside them the errors; progress on stderr. Uses only the public API.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from engines.json_text import dump_line
from router.cli.common import Language, LanguageOption, fail, parse_language
from router.cli.texts import say

if TYPE_CHECKING:
    import aiohttp
    from rich.progress import Progress

DEFAULT_URL = "http://127.0.0.1:8000"
CHAT, RESPONSES = ENDPOINTS = ("/v1/chat/completions", "/v1/responses")
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
POLL_S = 1.0
Json = dict[str, Any]


def batch(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="JSONL of batch lines or of questions with pictures; or CSV."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the answers go; default: FILE with the ending .out.jsonl.")
    ] = None,
    endpoint: Annotated[str, typer.Option(metavar="PATH", help=f"{CHAT} or {RESPONSES}.")] = CHAT,
    model: Annotated[str, typer.Option(help="For questions: `glowl`, or the name of one engine's model.")] = "glowl",
    wants_answers: Annotated[
        bool, typer.Option("--follow/--no-wait", help="Wait for the answers, or print the batch's id and leave.")
    ] = True,
    resume: Annotated[str | None, typer.Option(metavar="BATCH", help="Go on waiting for a batch, by its id.")] = None,
    url: Annotated[str, typer.Option(envvar="GLOWL_URL", help="Base URL of the service.")] = DEFAULT_URL,
    api_key: Annotated[str, typer.Option(envvar="GLOWL_API_KEY", help="Key to send, if the service wants one.")] = "",
    lang: LanguageOption = None,
) -> None:
    """Answer a file of questions; may be left and taken up again at any time."""
    language = parse_language(lang)
    if (file is None) == (resume is None):
        fail(say("batch.usage", language), code=2)
    if endpoint not in ENDPOINTS:
        raise typer.BadParameter(f"{endpoint!r} is none of {', '.join(ENDPOINTS)}", param_hint="--endpoint")
    if file is not None and not file.is_file():
        fail(say("batch.file.missing", language, path=file), code=2)

    from router.cli.responses_client import RefusedError, UnreachableError

    out = out or (file.with_suffix(".out.jsonl") if file is not None else Path(f"{resume}.out.jsonl"))
    session = Session(BatchClient(url, api_key, language), language)
    try:
        is_good = asyncio.run(session.run(file, resume, endpoint, model, out, wants_answers=wants_answers))
    except UnreachableError:
        fail(say("ask.unreachable", language, url=url))
    except RefusedError as error:
        fail(say("ask.http", language, status=error.status, message=error.message))
    except RowError as error:
        fail(str(error), code=2)
    except KeyboardInterrupt:
        if session.batch_id:
            typer.echo("\n" + say("batch.left", language, id=session.batch_id, out=out), err=True)
        raise typer.Exit(130) from None
    if not is_good:
        raise typer.Exit(1)


class RowError(Exception):
    """A row of questions that no batch line can be made of; the message is in the user's language."""


class Session:
    """One run of the command.

    Args:
        client: the service.
        language: of what is said.

    Attributes:
        batch_id: once there is a batch: what the user needs to come back to it.
    """

    def __init__(self, client: BatchClient, language: Language) -> None:
        self.batch_id = ""
        self._client = client
        self._language = language

    async def run(
        self, file: Path | None, resume: str | None, endpoint: str, model: str, out: Path, *, wants_answers: bool
    ) -> bool:
        """Begin a batch or go on with one; returns whether every line was answered."""
        async with self._client:
            if file is not None:
                await self._begin(file, endpoint, model)
            else:
                self.batch_id = str(resume)
            if not wants_answers:
                typer.echo(self.batch_id)
                return True
            done = await self._follow()
            return await self._save(done, out)

    async def _begin(self, file: Path, endpoint: str, model: str) -> None:
        with open_lines(file, endpoint, model, self._language) as lines:
            uploaded = await self._client.upload(file.name, lines)
        created = await self._client.call(
            "POST",
            "batches",
            {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": "24h"},
        )
        self.batch_id = created["id"]
        typer.echo(say("batch.created", self._language, id=self.batch_id), err=True)

    async def _follow(self) -> Json:
        """Show progress until the batch has ended; a service that is away for a while is waited for."""
        from router.cli.responses_client import RefusedError, UnreachableError

        found = await self._client.call("GET", f"batches/{self.batch_id}")
        with make_progress(self._language) as progress:
            bar = progress.add_task(found["status"], total=None, done=0, failed=0)
            while True:
                counts = found["request_counts"]
                progress.update(
                    bar,
                    description=found["status"],
                    total=counts["total"] or None,
                    completed=counts["completed"] + counts["failed"],
                    done=counts["completed"],
                    failed=counts["failed"],
                )
                if found["status"] in ENDED:
                    return found
                await asyncio.sleep(POLL_S)
                try:
                    found = await self._client.call("GET", f"batches/{self.batch_id}")
                except UnreachableError:
                    progress.update(bar, description=say("batch.away", self._language))
                except RefusedError as error:
                    if error.status < 500:
                        raise
                    progress.update(bar, description=say("batch.away", self._language))

    async def _save(self, done: Json, out: Path) -> bool:
        counts = done["request_counts"]
        for error in (done["errors"] or {}).get("data", ()):
            typer.echo(say("batch.error", self._language, message=error["message"]), err=True)
        if done["output_file_id"]:
            await self._client.download(done["output_file_id"], out)
            typer.echo(say("batch.saved", self._language, count=counts["completed"], path=out), err=True)
        if done["error_file_id"]:
            errors = out.with_name(out.name.removesuffix(".jsonl").removesuffix(".out") + ".errors.jsonl")
            await self._client.download(done["error_file_id"], errors)
            typer.echo(say("batch.errors", self._language, count=counts["failed"], path=errors), err=True)
        if done["status"] != "completed":
            typer.echo(say("batch.ended", self._language, status=done["status"]), err=True)
        return bool(done["status"] == "completed" and counts["failed"] == 0)


class BatchClient:
    """The few calls that a batch takes. Use as an async context manager.

    Args:
        base_url: such as ``http://127.0.0.1:8000``; a trailing ``/v1`` is understood too.
        api_key: sent as a bearer token when not empty.
        language: sent as ``Accept-Language``: refusals, and the errors in the batch, come in it.

    Raises:
        UnreachableError: by every method, if nothing listens.
        RefusedError: by every method, if the service refuses.
    """

    def __init__(self, base_url: str, api_key: str, language: Language) -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1") + "/v1/"
        self._headers: dict[str, str] = {"Accept-Language": language}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> BatchClient:
        import aiohttp

        # Files take their time; silence does not.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call a route and read its object."""
        import orjson

        async with self._request(method, path, json=body) as answer:
            found: Json = orjson.loads(await answer.read())
            return found

    async def upload(self, filename: str, lines: BinaryIO) -> Json:
        """Send a file of lines."""
        import aiohttp
        import orjson

        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", lines, filename=filename, content_type="application/jsonl")
        async with self._request("POST", "files", data=form) as answer:
            found: Json = orjson.loads(await answer.read())
            return found

    async def download(self, file_id: str, path: Path) -> None:
        """Write a file where it belongs, whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            async with self._request("GET", f"files/{file_id}/content") as answer:
                with temporary.open("wb") as target:
                    async for piece in answer.content.iter_any():
                        target.write(piece)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _request(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        from router.cli.responses_client import UnreachableError, read_refusal

        assert self._session is not None
        try:
            async with self._session.request(method, self._url + path, **options) as answer:
                if answer.status != 200:
                    raise read_refusal(answer.status, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnreachableError(str(error)) from None


@contextlib.contextmanager
def open_lines(file: Path, endpoint: str, model: str, language: Language) -> Iterator[BinaryIO]:
    """Open a file of batch lines; of questions, such a file is made first.

    Raises:
        RowError: naming the row that no line can be made of.
    """
    from router.cli.pictures import PictureError, to_image_url

    with file.open("rb") as given:
        if not _has_questions(given, file):
            yield given
            return
    with tempfile.TemporaryFile() as made:
        for number, row in _read_rows(file, language):
            images = row.get("images") or ([row["image"]] if row.get("image") else [])
            question = row.get("question")
            if not isinstance(question, str) or not question.strip() or not isinstance(images, list):
                raise RowError(say("batch.row", language, file=file, number=number))
            try:
                urls = [to_image_url(_find_picture(file, str(image), language), language) for image in images]
            except PictureError as error:
                raise RowError(say("batch.row.picture", language, file=file, number=number, why=error)) from None
            line = {
                "custom_id": str(row.get("id") or f"row-{number}"),
                "method": "POST",
                "url": endpoint,
                "body": _to_body(endpoint, str(row.get("model") or model), question, urls),
            }
            made.write(dump_line(line) + b"\n")
        made.seek(0)
        yield made


def make_progress(language: Language) -> Progress:
    """Return the bar: how many are answered, how many failed, how fast it goes and how long it will take."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as Row
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Row) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else say("batch.rate", language, rate=speed))

    failed = say("batch.failed", language, count="{task.fields[failed]}")
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(failed),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # The service answers in bursts; a short look back would make the estimate jump.
        speed_estimate_period=120,
    )


def _has_questions(given: BinaryIO, file: Path) -> bool:
    """Whether a file holds questions rather than batch lines: its first line says; leaves the file at its beginning."""
    import orjson

    if file.suffix.lower() == ".csv":
        return True
    first = next((line for line in given if line.strip()), b"")
    given.seek(0)
    try:
        entry = orjson.loads(first.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False  # the service says what is wrong with each line
    return isinstance(entry, dict) and "question" in entry and "body" not in entry


def _read_rows(file: Path, language: Language) -> Iterator[tuple[int, Json]]:
    import orjson

    if file.suffix.lower() == ".csv":
        with file.open(encoding="utf-8-sig", newline="") as rows:
            yield from enumerate(csv.DictReader(rows), 2)  # the first line names the columns
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise RowError(say("batch.row", language, file=file, number=number))
            yield number, row


def _find_picture(file: Path, image: str, language: Language) -> str:
    """Return where a picture is: a file is named as seen from the file that names it."""
    from router.cli.pictures import PictureError, is_url

    if is_url(image):
        return image
    path = file.parent / Path(image).expanduser()
    if not path.is_file():
        raise PictureError(say("batch.file.missing", language, path=path))
    return str(path)


def _to_body(endpoint: str, model: str, question: str, urls: list[str]) -> Json:
    if endpoint == RESPONSES:
        content: list[Json] = [{"type": "input_image", "image_url": url} for url in urls]
        content.append({"type": "input_text", "text": question})
        return {"model": model, "input": [{"role": "user", "content": content}]}
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content.append({"type": "text", "text": question})
    return {"model": model, "messages": [{"role": "user", "content": content}]}
