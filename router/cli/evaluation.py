"""`glowl eval`: put the held-out questions of a data set to a running service, each in several ways, and score them.

In: a data-set folder, model names, routes. Out: a file of results, which a run that broke off goes on with; on stdout a
table of scores, and of differences with their intervals. Uses only the public API.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from router.cli.api import DEFAULT_URL, Api, KeyOption, UrlOption
from router.cli.common import Language, LanguageOption, fail, parse_language, words_of
from router.cli.texts import say

if TYPE_CHECKING:
    from engines.dataset_format import Example
    from router.cli.client import Client
    from router.loop.stats.results import Answer, Header, Results

Json = dict[str, Any]

ROUTES: Final = ("auto", "fast", "deep")
# A service that restarts, or whose owner is at a limit, is asked again after these waits.
_WAITS_S: Final = (1.0, 3.0, 10.0, 30.0)
_PASSING: Final = frozenset({429, 500, 502, 503, 504})
# Refused whatever the question is: asking the next one is of no use.
_HOPELESS: Final = frozenset({401, 403, 404})
_ANSWER_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to ask.

    Attributes:
        model: as a request names it.
        route: of ``hybrid``; empty leaves it to the model or the policy.
    """

    model: str
    route: str = ""

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.model}@{self.route}" if self.route else self.model


@dataclass(frozen=True, slots=True)
class Task:
    """One question in one way: what is known of its answer before it is there, and the request."""

    answer: Answer
    arm: Arm
    example: Example


def evaluate(
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="A data set; its held-out part is asked.")],
    models: Annotated[
        list[str], typer.Option("--models", metavar="A,B", help="Model names; NAME:base is a model without adapters.")
    ],
    routes: Annotated[
        list[str] | None,
        typer.Option("--routes", metavar="fast,deep", help="Put each question to `glowl` by each of these routes too."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File of results; default eval.jsonl in the folder. Goes on if it is there."),
    ] = None,
    measure: Annotated[str, typer.Option("--by", metavar="exact|f1|anls", help="What differences are of.")] = "exact",
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=64, help="Questions asked side by side.")] = 4,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Ask the held-out questions, base against adapter and route against route; differences come with intervals."""
    language = parse_language(lang)
    arms = parse_arms(models, routes or [])
    check_measure(measure)
    header, tasks = _plan(data, arms, language)
    path = out or data / "eval.jsonl"
    api = Api(url, api_key, language)
    with api.refusals(), _results_file(path, header, language) as (file, results):
        left = [task for task in tasks if task.answer.id not in results.answers.get(task.arm.name, {})]
        api.say("eval.asks", count=len(left), of=len(tasks), path=path)
        try:
            asyncio.run(_ask_all(api.client(), left, data, file, at_once))
        except KeyboardInterrupt:
            fail(say("eval.stopped", language, path=path), code=130)
    _report(path, [arm.name for arm in arms], measure, language)


def parse_arms(models: Sequence[str], routes: Sequence[str]) -> list[Arm]:
    """Read what is to be asked.

    Raises:
        typer.BadParameter: if a route is none, or nothing is to be compared.
    """
    names = [name.strip() for each in models for name in each.split(",") if name.strip()]
    ways = [way.strip() for each in routes for way in each.split(",") if way.strip()]
    for way in ways:
        if way not in ROUTES:
            raise typer.BadParameter(f"{way!r} is none of {', '.join(ROUTES)}", param_hint="--routes")
    arms = [Arm(name) for name in names] + [Arm("glowl", way) for way in ways]
    arms = list(dict.fromkeys(arms))
    if not arms:
        raise typer.BadParameter("name at least one model", param_hint="--models")
    return arms


def check_measure(measure: str) -> None:
    """Refuse a score that there is none of.

    Raises:
        typer.BadParameter: naming those there are.
    """
    from router.loop.stats.metrics import MEASURES

    if measure not in MEASURES:
        raise typer.BadParameter(f"{measure!r} is none of {', '.join(MEASURES)}", param_hint="--by")


def _plan(data: Path, arms: Sequence[Arm], language: Language) -> tuple[Header, list[Task]]:
    """Read the questions, and say in which groups they are.

    Raises:
        typer.Exit: after one line, if the data set cannot be used.
    """
    import orjson

    from engines.dataset_format import HELDOUT, DatasetError, read_examples, to_json
    from router.loop.stats.results import Answer, Header, groups_of, slices_of

    digest = hashlib.sha256()
    hashes: dict[str, str] = {}
    found: list[tuple[Example, list[str]]] = []
    try:
        for example in read_examples(data / HELDOUT):
            for picture in example.pictures:
                if picture not in hashes:
                    hashes[picture] = hashlib.sha256((data / picture).read_bytes()).hexdigest()
            of_example = [hashes[picture] for picture in example.pictures]
            digest.update(orjson.dumps([to_json(example), of_example]))
            found.append((example, of_example))
    except (DatasetError, OSError) as error:
        fail(say("eval.data", language, why=words_of(error, language)), code=2)
    if not found:
        fail(say("eval.empty", language, path=data / HELDOUT), code=2)
    groups = groups_of([(each.id, hashes) for each, hashes in found])
    tasks = [
        Task(Answer(each.id, arm.name, groups[each.id], slices_of(each), each.answer), arm, each)
        for each, _ in found
        for arm in arms
    ]
    return Header(digest.hexdigest(), len(found), str(data)), tasks


@contextlib.contextmanager
def _results_file(path: Path, header: Header, language: Language) -> Iterator[tuple[BinaryIO, Results]]:
    """Open the file to go on writing, whole lines only, with what is in it already.

    Raises:
        typer.Exit: after one line, if it cannot be written, or has the answers to other questions.
    """
    from router.loop.stats.results import Results, ResultsError, read_results, to_line

    try:
        is_new = not path.exists() or path.stat().st_size == 0
        results = Results(header) if is_new else read_results(path)
        if results.header.questions != header.questions:
            fail(say("eval.other", language, path=path), code=2)
        with path.open("ab+") as file:
            file.seek(0)
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)  # a line that was being written when its process was ended
            if is_new:
                file.write(to_line(header))
            yield file, results
    except ResultsError as error:
        fail(str(error), code=2)
    except OSError as error:
        fail(say("eval.file", language, path=path, why=error.strerror or error), code=2)


async def _ask_all(client: Client, tasks: Sequence[Task], data: Path, file: BinaryIO, at_once: int) -> None:
    from router.cli.batch import make_progress
    from router.loop.stats.results import to_line

    waiting = iter(tasks)
    num_failed = 0
    async with client:
        revisions = await _revisions(client)
        with make_progress(client.language) as progress:
            bar = progress.add_task("", total=len(tasks), done=0, failed=0)

            async def work() -> None:
                nonlocal num_failed
                for task in waiting:
                    answer = await _ask(client, task, data)
                    base, colon, _ = answer.model.partition(":")
                    of_adapter = revisions.get(answer.model, "") if colon else ""
                    answer = replace(answer, revision=revisions.get(base, ""), adapter_revision=of_adapter)
                    num_failed += answer.said is None
                    file.write(to_line(answer))
                    file.flush()
                    progress.update(bar, advance=1, failed=num_failed)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(at_once, len(tasks))):
                        group.create_task(work())
            except ExceptionGroup as several:  # the first of them ended the others
                raise several.exceptions[0] from None


async def _revisions(client: Client) -> Mapping[str, str]:
    listed = await client.call("GET", "models")
    return {str(each["id"]): str(each.get("hybrid", {}).get("revision") or "") for each in listed["data"]}


async def _ask(client: Client, task: Task, data: Path) -> Answer:
    """Ask one question; what the service refuses for good is an answer too, and a wrong one.

    Raises:
        RefusedError: if every question would be refused, or the service does not come to itself.
        UnreachableError: if it does not come back.
    """
    from router.cli.client import RefusedError, UnreachableError

    body = to_body(task.example, task.arm, data)
    for wait_s in (*_WAITS_S, None):
        began = time.monotonic()
        try:
            found = await client.call("POST", "responses", body, _ANSWER_S)
        except UnreachableError:
            if wait_s is None:
                raise
        except RefusedError as error:
            if error.status not in _PASSING:
                if error.status in _HOPELESS:
                    raise
                return replace(task.answer, error=str(error))
            if wait_s is None:
                raise
        else:
            seconds = round(time.monotonic() - began, 3)
            return replace(task.answer, said=text_of(found), model=str(found.get("model") or ""), seconds=seconds)
        await asyncio.sleep(wait_s)
    raise AssertionError("the last wait raises")


def to_body(example: Example, arm: Arm, data: Path) -> Json:
    """Return the request: the conversation without its last turn, the likeliest words, and no answer of before."""
    from engines.dataset_format import Part
    from router.cli.pictures import to_image_url

    def content_of(part: Part) -> Json:
        if part.picture:
            return {"type": "input_image", "image_url": to_image_url(str(data / part.picture), "en")}
        return {"type": "input_text", "text": part.text}

    turns = [
        {"role": turn.role, "content": [content_of(part) for part in turn.parts] if turn.role == "user" else turn.text}
        for turn in example.turns[:-1]
    ]
    hybrid: Json = {"cache": False} | ({"route": arm.route} if arm.route else {})
    return {"model": arm.model, "input": turns, "temperature": 0, "store": False, "hybrid": hybrid}


def text_of(response: Mapping[str, Any]) -> str:
    """Return the final answer of a Response object; a draft beside it is none."""
    return "".join(
        part.get("text", "")
        for item in response.get("output", ())
        if item.get("type") == "message" and item.get("phase") != "commentary"
        for part in item.get("content", ())
        if part.get("type") == "output_text"
    )


def _report(path: Path, arms: Sequence[str], measure: str, language: Language) -> None:
    """Print what is in a file of results."""
    from router.cli.proof_tables import print_comparison, print_scores
    from router.loop.stats.results import read_results

    results = read_results(path)
    print_scores(results, arms, language)
    for other in arms[1:]:
        print_comparison(results, arms[0], other, measure, language)
