"""`glowl jobs`: what was accepted, how far it is, why it failed; wait for it, end it, begin it again.

In: options and ids. Out: tables, events and answers on stdout, or JSON for scripts. Uses only the public API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import typer

from router.cli.api import DEFAULT_URL, Api, Json, KeyOption, UrlOption
from router.cli.common import LanguageOption, fail, parse_language
from router.cli.tables import make_table, print_json, print_table, show_time
from router.cli.texts import say

T = TypeVar("T")
State = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]

LIST_COLUMNS = (
    *("jobs.column.id", "jobs.column.state", "jobs.column.created", "jobs.column.took"),
    *("jobs.column.engines", "jobs.column.question", "jobs.column.reason"),
)
SHOW_COLUMNS = (
    *("jobs.column.unit", "jobs.column.state", "jobs.column.runs"),
    *("jobs.column.failures", "jobs.column.said", "jobs.column.reason"),
)
_MAX_SHOWN = 60
# Wait for a restart of the service.
PATIENCE_S = 60.0

app = typer.Typer(name="jobs", help="Work that was accepted, and what became of it.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="Its id, such as resp_...")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command("list")
def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    batch: Annotated[str, typer.Option(metavar="ID", help="The lines of this batch; they are in no other list.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    after: Annotated[str, typer.Option(metavar="ID", help="Go on after this job.")] = "",
    is_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """List jobs, newest first; those that failed can be begun again."""
    api = Api(url, api_key, parse_language(lang))
    jobs: list[Json] = []
    has_more = True
    while has_more and len(jobs) < limit:
        query: Json = {"state": state} if state else {}
        if batch:
            query["batch_id"] = batch
        page = api.call("GET", "jobs", after=after, limit=min(limit - len(jobs), 100), **query)
        jobs += page["data"]
        has_more, after = page["has_more"], page["last_id"] or after
    if batch and not jobs:
        _explain_no_lines(api, api.call("GET", _path("batches", batch)))  # ends here if there is no such batch
    if is_json:
        for job in jobs:
            print_json(job)
        return
    if not jobs:
        if not batch:
            api.say("jobs.none")
        return
    table = make_table(api.language, *LIST_COLUMNS)
    for job in jobs:
        engines = "+".join(job["engines"])
        table.add_row(
            *(job["id"], job["status"], show_time(job["created_at"]), _took(api, job), engines),
            *(_short(job["question"]), _reason(api, job)),
        )
    print_table(table)
    if has_more:
        api.say("jobs.more", id=after)


def _explain_no_lines(api: Api, batch: Json) -> None:
    """Say, beside the empty list, why there is no job: a line's job goes once its answer is in a file."""
    counts = batch["request_counts"]
    values = {"id": batch["id"], "status": batch["status"], **counts}
    typer.echo(say("jobs.batch.none", api.language, **values), err=True)
    for name, key in (("output_file_id", "jobs.batch.answers"), ("error_file_id", "jobs.batch.errors")):
        if batch[name]:
            typer.echo(say(key, api.language, file=batch[name]), err=True)
    if counts["completed"] + counts["failed"]:
        command = api.to_command("batch", "--resume", batch["id"])
        typer.echo(say("jobs.batch.fetch", api.language, command=command), err=True)


@app.command("show")
def show(
    job_id: JobArgument,
    is_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Show one job: its branches, how often each was begun (also in vain, as an engine loads), what each said."""
    api = Api(url, api_key, parse_language(lang))
    job = api.call("GET", _path("jobs", job_id))
    if is_json:
        print_json(job)
        return
    api.say("jobs.ended", id=job["id"], state=job["status"])
    table = make_table(api.language, *SHOW_COLUMNS)
    for unit in job["units"]:
        result = unit["result"] or {}
        row = (unit["name"], unit["status"], str(unit["runs"]), str(unit["failures"]))
        table.add_row(*row, _short(result.get("text") or ""), _reason(api, {"failure": result.get("error")}))
    print_table(table)
    if job["failure"]:
        typer.echo(_reason(api, job))
    if job["final"]:
        api.say("jobs.final", model=job["final"]["model"], merge=job["final"]["strategy"])
        typer.echo(job["final"]["text"])


@app.command("tail")
def tail(
    job_id: JobArgument,
    is_json: Annotated[bool, typer.Option("--json", help="Every event as a line of JSON.")] = False,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Print what a job says from its beginning, as it says it, until it ends."""
    api = Api(url, api_key, parse_language(lang))

    async def print_events() -> str:
        status = ""
        async for event in _follow(api, job_id):
            if is_json:
                print_json(event)
            else:
                _print_event(api, event)
            status = _status_of(event) or status
        return status

    status = _run(api, job_id, print_events())
    if not is_json:
        api.say("jobs.ended", id=job_id, state=status)


@app.command("wait")
def wait(
    job_id: JobArgument,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Give up after so long.")] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print the response object.")] = False,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Wait until a job ends; exit status 0 if it completed, else 1."""
    api = Api(url, api_key, parse_language(lang))

    async def until_terminal() -> Json:
        last: Json = {}
        async with asyncio.timeout(timeout):
            async for event in _follow(api, job_id):
                last = event
        return last

    try:
        last = _run(api, job_id, until_terminal())
    except TimeoutError:
        fail(say("jobs.timeout", api.language, id=job_id, seconds=timeout))
    status = _status_of(last) or "failed"
    if is_json:
        print_json(last.get("response", last))
    else:
        api.say("jobs.ended", id=job_id, state=status)
    if status != "completed":
        raise typer.Exit(1)


@app.command("cancel")
def cancel(
    job_id: JobArgument, url: UrlOption = DEFAULT_URL, api_key: KeyOption = "", lang: LanguageOption = None
) -> None:
    """End a job now; one that has ended already stays as it is."""
    api = Api(url, api_key, parse_language(lang))
    response = api.call("POST", _path("responses", job_id, "cancel"))
    api.say("jobs.ended", id=job_id, state=response["status"])


@app.command("retry")
def retry(
    job_id: JobArgument, url: UrlOption = DEFAULT_URL, api_key: KeyOption = "", lang: LanguageOption = None
) -> None:
    """Begin a failed job again under the same id."""
    api = Api(url, api_key, parse_language(lang))
    api.call("POST", _path("jobs", job_id, "retry"))
    api.say("jobs.retried", id=job_id)


async def _follow(api: Api, job_id: str) -> AsyncIterator[Json]:
    from router.cli.responses import follow

    async with api.client() as client:
        async for event in follow(client, job_id, patience_s=PATIENCE_S):
            yield event


def _run(api: Api, job_id: str, work: Coroutine[Any, Any, T]) -> T:
    from router.cli.responses import StreamBrokenError

    with api.refusals():
        try:
            return asyncio.run(work)
        except StreamBrokenError:
            fail(say("jobs.broken", api.language, id=job_id, seconds=PATIENCE_S))


def _status_of(event: Json) -> str:
    if event.get("type") == "error":
        return "failed"
    return str(event.get("response", {}).get("status", ""))


def _print_event(api: Api, event: Json) -> None:
    kind = event["type"]
    if kind == "response.output_item.added":
        if event["item"]["type"] != "reasoning":  # which has a title of its own
            api.say("jobs.draft" if event["item"].get("phase") == "commentary" else "jobs.answer")
    elif kind in ("response.output_text.delta", "response.reasoning_summary_text.delta"):
        typer.echo(event["delta"], nl=False)
    elif kind in ("response.output_text.done", "response.reasoning_summary_text.done"):
        typer.echo()
    elif kind == "error":
        typer.echo(event["message"], err=True)
    elif kind == "response.failed":
        typer.echo(_reason(api, {"failure": event["response"]["error"]}), err=True)


def _path(*parts: str) -> str:
    return "/".join(quote(part, safe="") for part in parts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."


def _reason(api: Api, job: Json) -> str:
    failure = job["failure"]
    if not failure:
        return ""
    return say("jobs.failure", api.language, code=failure.get("code", ""), message=failure.get("message", ""))


def _took(api: Api, job: Json) -> str:
    if job["completed_at"] is None:
        return ""
    return say("jobs.seconds", api.language, seconds=max(job["completed_at"] - job["created_at"], 0.0))
