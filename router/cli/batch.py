"""`glowl batch`: a file of questions goes in, a file of answers comes out, however long that takes.

In: a file that `questions.py` reads: batch lines, JSON lines of questions, or a table. Out: the answers as JSONL, and
beside them the errors; progress on stderr. Uses only the public API.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from router.cli.api import DEFAULT_URL, Api, Json, KeyOption, UrlOption
from router.cli.common import Language, LanguageOption, fail, parse_language
from router.cli.questions import CHAT, ENDPOINTS, RESPONSES, RowError, open_lines
from router.cli.text_files import STDIN
from router.cli.texts import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from router.cli.client import Client

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
POLL_S = 1.0


def batch(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="JSONL of batch lines or of questions with pictures; or CSV; - is stdin."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the answers go; default: FILE with the ending .out.jsonl.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of answers that is there.")] = False,
    endpoint: Annotated[str, typer.Option(metavar="PATH", help=f"{CHAT} or {RESPONSES}.")] = CHAT,
    model: Annotated[str, typer.Option(help="For questions: `glowl`, or the name of one engine's model.")] = "glowl",
    wants_answers: Annotated[
        bool, typer.Option("--follow/--no-wait", help="Wait for the answers, or print the batch's id and leave.")
    ] = True,
    encoding: Annotated[
        str | None, typer.Option(help="Of FILE, such as gbk or latin-1; default: found out where it is certain.")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="BATCH", help="Go on waiting for a batch, by its id.")] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Answer a file of questions; may be left and taken up again at any time."""
    language = parse_language(lang)
    if (file is None) == (resume is None):
        fail(say("batch.usage", language), code=2)
    if endpoint not in ENDPOINTS:
        raise typer.BadParameter(f"{endpoint!r} is none of {', '.join(ENDPOINTS)}", param_hint="--endpoint")
    if file is not None and file != STDIN and not file.exists():
        fail(say("batch.file.missing", language, path=file), code=2)

    # A file that is named after a batch can only have that batch's answers.
    is_own = out is None and file is None
    out = out or (Path(f"{resume}.out.jsonl") if file is None else _beside(file))
    if wants_answers:
        _check_out(file, out, language, may_exist=overwrite or is_own)
    api = Api(url, api_key, language)
    session = Session(api.client(), language)
    work = session.run(file, resume, endpoint, model, encoding, out, wants_answers=wants_answers)
    try:
        with api.refusals():
            is_good = asyncio.run(work)
    except RowError as error:
        fail(str(error), code=2)
    except KeyboardInterrupt:
        if session.batch_id:
            command = api.to_command("batch", "--resume", session.batch_id, "--out", str(out))
            typer.echo("\n" + say("batch.left", language, command=command), err=True)
        raise typer.Exit(130) from None
    if not is_good:
        raise typer.Exit(1)


def _beside(file: Path) -> Path:
    return Path("stdin.out.jsonl") if file == STDIN else file.with_suffix(".out.jsonl")


def _errors_beside(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(".jsonl").removesuffix(".out") + ".errors.jsonl")


def _check_out(file: Path | None, out: Path, language: Language, *, may_exist: bool) -> None:
    """Refuse a place for the answers that would fail when they are there, or take the questions away."""
    if out.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        fail(say("batch.out", language, path=out), code=2)
    if file is not None and out.exists() and file.exists() and out.samefile(file):
        fail(say("batch.out.same", language, path=out), code=2)
    for path in (out, _errors_beside(out)):
        if path.exists() and not may_exist:
            fail(say("batch.out.exists", language, path=path), code=2)


class Session:
    """One run of the command.

    Args:
        client: the service.
        language: of what is said.

    Attributes:
        batch_id: once there is a batch: what the user needs to come back to it.
    """

    def __init__(self, client: Client, language: Language) -> None:
        self.batch_id = ""
        self._client = client
        self._language = language

    async def run(
        self,
        file: Path | None,
        resume: str | None,
        endpoint: str,
        model: str,
        encoding: str | None,
        out: Path,
        *,
        wants_answers: bool,
    ) -> bool:
        """Begin a batch or go on with one; returns whether every line was answered."""
        async with self._client:
            if file is not None:
                await self._begin(file, endpoint, model, encoding)
            else:
                self.batch_id = str(resume)
            if not wants_answers:
                typer.echo(self.batch_id)
                return True
            done = await self._follow()
            return await self._save(done, out)

    async def _begin(self, file: Path, endpoint: str, model: str, encoding: str | None) -> None:
        with open_lines(file, endpoint, model, self._language, encoding) as (lines, used):
            if not used.startswith("utf-8"):
                typer.echo(say("batch.encoding", self._language, file=file, encoding=used.upper()), err=True)
            name = "stdin" if file == STDIN else file.name
            uploaded = await self._client.upload(name, lines)
        created = await self._client.call(
            "POST",
            "batches",
            {"input_file_id": uploaded["id"], "endpoint": endpoint, "completion_window": "24h"},
        )
        self.batch_id = created["id"]
        typer.echo(say("batch.created", self._language, id=self.batch_id), err=True)

    async def _follow(self) -> Json:
        """Show progress until the batch has ended; a service that is away for a while is waited for."""
        from router.cli.client import RefusedError, UnreachableError

        found = await self._client.call("GET", f"batches/{quote(self.batch_id, safe='')}")
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
                    found = await self._client.call("GET", f"batches/{quote(self.batch_id, safe='')}")
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
            errors = _errors_beside(out)
            await self._client.download(done["error_file_id"], errors)
            typer.echo(say("batch.errors", self._language, count=counts["failed"], path=errors), err=True)
        if done["status"] != "completed":
            typer.echo(say("batch.ended", self._language, status=done["status"]), err=True)
        return bool(done["status"] == "completed" and counts["failed"] == 0)


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
        # Answers come in bursts, so a short window would make the estimate jump.
        speed_estimate_period=120,
    )
