"""`glowl ask`: one question, with pictures, to a running service; shows how it was routed and streams what comes.

In: pictures, a question. Out: the final answer on stdout; route, draft and progress on stderr, so that a redirected
stdout holds the answer alone. Uses only the public API.
"""

from __future__ import annotations

import asyncio
import os.path
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from router.cli.api import DEFAULT_URL, Api, KeyOption, UrlOption
from router.cli.common import Language, LanguageOption, fail, parse_language, printable
from router.cli.texts import say
from router.questions import is_empty

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from router.cli.client import Client
    from router.cli.responses import Question
    from router.cli.samples import Sample

ROUTES = ("auto", "fast", "deep")
POLL_S = 1.0
Phase = Literal["commentary", "final_answer"]


def ask(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[PICTURE]... QUESTION]",
            help="Picture files or URLs, then the question; none: a question about a sample picture.",
        ),
    ] = None,
    sample: Annotated[str, typer.Option(metavar="NAME", help="Ask about these sample pictures.")] = "",
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    route: Annotated[str, typer.Option(metavar="auto|fast|deep", help="Override the policy.")] = "auto",
    model: Annotated[str, typer.Option(help="`glowl`, or the name of one engine's model.")] = "glowl",
    as_json: Annotated[bool, typer.Option("--json", help="Print the response object, and nothing else.")] = False,
    lang: LanguageOption = None,
) -> None:
    """Ask a running service; streams the answer, and waits for it if it became a job."""
    language = parse_language(lang)
    if route not in ROUTES:
        raise typer.BadParameter(f"{route!r} is none of {', '.join(ROUTES)}", param_hint="--route")

    from rich.console import Console

    from router.cli.pictures import PictureError, to_image_url
    from router.cli.responses import Question

    shown = None
    if not arguments:
        shown = _find_sample(sample, language)
        arguments = [*map(str, shown.pictures), shown.question]
    elif sample:
        fail(say("ask.sample.both", language), code=2)
    *pictures, text = arguments
    if os.path.isfile(text):
        fail(say("ask.question.missing", language, value=text), code=2)
    if is_empty(text):
        fail(say("ask.question.empty", language), code=2)
    try:
        image_urls = tuple(to_image_url(picture, language) for picture in pictures)
    except PictureError as error:
        fail(str(error), code=2)
    question = Question(text, image_urls, model=model, route=None if route == "auto" else route)
    transcript = Transcript(
        Console(stderr=True, highlight=False),
        language,
        # A redirected stdout gets the answer once, even if an engine restarted it.
        streams_answer=sys.stdout.isatty(),
        is_quiet=as_json,
    )
    if shown is not None:
        values = {"name": shown.name, "pictures": " ".join(pictures), "question": text}
        transcript.note(say("ask.sample", language, **values))
    api = Api(url, api_key, language)
    try:
        with api.refusals():
            response = asyncio.run(_converse(api.client(), question, transcript))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if shown is not None:
        transcript.note(say("ask.sample.truth", language, answer=shown.answer))
    if as_json:
        import orjson

        typer.echo(orjson.dumps(response, option=orjson.OPT_INDENT_2).decode())
    problem = problem_of(response, language)
    if problem is not None:
        fail(problem)


def _find_sample(name: str, language: Language) -> Sample:
    """The sample of that name, or the language's first; ends the command if there is none."""
    from router.cli.samples import default_sample, load_samples

    if not name:
        if (first := default_sample(language)) is None:
            fail(say("ask.sample.none", language), code=2)
        return first
    samples = {sample.name: sample for sample in load_samples()}
    if name not in samples:
        fail(say("ask.sample.unknown", language, value=name, names=", ".join(samples) or "-"), code=2)
    return samples[name]


async def _converse(client: Client, question: Question, transcript: Transcript) -> dict[str, Any]:
    """Run one exchange to its end; returns the response object as it is then."""
    from router.cli.responses import TERMINAL, StreamBrokenError, stream

    response: dict[str, Any] = {}
    try:
        async with client:
            transcript.wait()
            try:
                async for event in stream(client, question.to_body()):
                    if event.get("type") == "error":
                        return {"status": "failed", "error": event}
                    response = event.get("response") or response
                    transcript.show(event)
            except StreamBrokenError:
                # An accepted job survives a restart of the api: retry.
                if "id" not in response:
                    raise
                transcript.note(say("ask.resumed", transcript.language))
                while True:
                    await asyncio.sleep(POLL_S)
                    response = await client.call("GET", f"responses/{response['id']}")
                    if response.get("status") in TERMINAL:
                        break
            transcript.finish(response)
            return response
    except StreamBrokenError as error:
        return {"status": "failed", "error": {"message": str(error)}}
    finally:
        transcript.close()


def problem_of(response: Mapping[str, Any], language: Language) -> str | None:
    """Why a finished response counts as a failure; None if it does not."""
    match response.get("status"):
        case "failed":
            error = response.get("error") or {}
            return say("ask.failed", language, message=error.get("message") or "?")
        case "cancelled":
            return say("ask.cancelled", language)
        case _:
            return None


@dataclass
class _Item:
    """An output item of the stream: what of it is not written yet, and whether more will come."""

    phase: Phase
    unwritten: str = ""
    is_done: bool = False
    was_cut: bool = False


class Transcript:
    """Writes an exchange down as its events come: the answer to stdout, everything else to stderr.

    Draft and answer may be generated at the same time; each is written in one piece, in the order in which they began.

    Args:
        console: stderr.
        language: of our own words.
        streams_answer: write the answer as it comes, for somebody who watches; else once and whole, at the end.
        is_quiet: write nothing at all.
    """

    def __init__(
        self, console: Console, language: Language, *, streams_answer: bool = True, is_quiet: bool = False
    ) -> None:
        self.language = language
        self._console = console
        self._streams_answer = streams_answer
        self._is_quiet = is_quiet
        self._progress: Progress | None = None
        self._items: dict[str, _Item] = {}
        self._open_phase: Phase | None = None
        self._has_route = False
        self._has_draft = False
        self._has_answer = False

    def show(self, event: Mapping[str, Any]) -> None:
        """Write one event of the stream."""
        if "response" in event:
            self._show_route(event["response"])
        match event.get("type"):
            case "response.queued":
                self.note(say("ask.queued", self.language, id=event["response"]["id"]))
                self.wait()
            case "response.output_item.added":
                item = event["item"]
                phase: Phase = "commentary" if item.get("phase") == "commentary" else "final_answer"
                self._items[item["id"]] = _Item(phase)
            case "response.output_text.delta":
                if item := self._items.get(event["item_id"]):
                    item.unwritten += event["delta"]
                self._write_items()
            case "response.output_item.done":
                if item := self._items.get(event["item"]["id"]):
                    item.is_done = True
                    item.was_cut = event["item"].get("status") == "incomplete"
                self._write_items()

    def finish(self, response: Mapping[str, Any]) -> None:
        """Write what only the finished response object says."""
        from router.cli.responses import output_text

        self._show_route(response)
        if not self._has_answer and (text := output_text(response)):
            self._streams_answer = True
            self._write("final_answer", text)
        self.close()
        hybrid = response.get("hybrid") or {}
        for reason in hybrid.get("degraded") or ():
            self.note(say("ask.degraded", self.language, reason=_text_of(reason, self.language)))
        if response.get("status") == "incomplete":
            details = response.get("incomplete_details") or {}
            self.note(say("ask.incomplete", self.language, reason=details.get("reason") or "?"))
        if response.get("status") in ("completed", "incomplete") and response.get("model"):
            self.note(say("ask.model", self.language, model=response["model"]))

    def note(self, text: str) -> None:
        """One dim line on stderr."""
        if self._is_quiet:
            return
        self._end_line()
        self._console.print(printable(text), style="dim", markup=False, soft_wrap=True)

    def wait(self) -> None:
        """Show that something is being waited for: a running clock on a terminal, else one line after the draft."""
        if self._is_quiet or self._progress is not None:
            return
        text = say("ask.waiting", self.language) if self._has_draft else ""
        if not self._console.is_terminal:
            if text:
                self.note(text)
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", style="dim"), TimeElapsedColumn())
        self._end_line()
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._progress.add_task(text, total=None)
        self._progress.start()

    def close(self) -> None:
        """Leave the terminal as it was, whatever happened."""
        self._end_line()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show_route(self, response: Mapping[str, Any]) -> None:
        hybrid = response.get("hybrid") or {}
        if self._has_route or not hybrid.get("route"):
            return
        self._has_route = True
        values = {key: hybrid.get(key) or "-" for key in ("route", "engine", "rule")}
        self.note(say("ask.route", self.language, **values))
        for reason in hybrid.get("reasons") or ():
            self.note(f"  - {_text_of(reason, self.language)}")

    def _write_items(self) -> None:
        """Write what the oldest unfinished item has to say; what began after it waits for its end."""
        while self._items:
            item_id, item = next(iter(self._items.items()))
            text, item.unwritten = item.unwritten, ""
            self._write(item.phase, text)
            if not item.is_done:
                return
            del self._items[item_id]
            self._end_line()
            if item.was_cut and any(other.phase == item.phase for other in self._items.values()):
                self.note(say("ask.restarted", self.language))
            if item.phase == "commentary" and not self._items:
                self.wait()

    def _write(self, phase: Phase, text: str) -> None:
        if self._is_quiet or not text or (phase == "final_answer" and not self._streams_answer):
            return
        if self._open_phase != phase:
            self.close()
            if phase == "commentary":
                self.note(say("ask.draft", self.language))
                self._has_draft = True
            elif self._has_draft:
                self.note(say("ask.final", self.language))
            self._open_phase = phase
        if phase == "commentary":
            self._console.print(printable(text), style="dim", end="", markup=False, soft_wrap=True)
        else:
            self._has_answer = True
            sys.stdout.write(printable(text))
            sys.stdout.flush()

    def _end_line(self) -> None:
        if self._open_phase == "commentary":
            self._console.print()
        elif self._open_phase == "final_answer":
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._open_phase = None


def _text_of(reason: object, language: Language) -> str:
    """A reason as the service words it, in the caller's language where it has both."""
    if isinstance(reason, Mapping):
        return str(reason.get(f"text_{language}") or reason.get("text") or dict(reason))
    return str(reason)
