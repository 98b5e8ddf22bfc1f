"""`glowl webhooks`: register receivers of events, change their secrets, see what was delivered, send it again.

In: options and ids. Out: tables and, once, secrets on stdout. Uses only the public API.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from router.cli.api import DEFAULT_URL, Api, Json, KeyOption, UrlOption
from router.cli.common import LanguageOption, fail, parse_language
from router.cli.tables import show_time
from router.cli.texts import say

DEFAULT_EVENTS = [
    *("response.completed", "response.failed", "response.cancelled", "response.incomplete"),
    *("batch.completed", "batch.failed", "batch.expired", "batch.cancelled"),
]

app = typer.Typer(name="webhooks", help="Who is told that work is done, and how that went.", no_args_is_help=True)

EndpointArgument = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its id, such as whe_...")]
EventOption = Annotated[
    list[str] | None, typer.Option("--event", help="An event to be told of; may be repeated. Default: all.")
]


@app.command("list")
def list_endpoints(url: UrlOption = DEFAULT_URL, api_key: KeyOption = "", lang: LanguageOption = None) -> None:
    """List the endpoints, newest first."""
    api = Api(url, api_key, parse_language(lang))
    page: Json = {"has_more": True, "last_id": ""}
    endpoints: list[Json] = []
    while page["has_more"]:
        page = api.call("GET", "webhook_endpoints", after=page["last_id"], limit=100)
        endpoints += page["data"]
    if not endpoints:
        api.say("webhooks.none")
    for endpoint in endpoints:
        typer.echo(
            f"{endpoint['id']}  {endpoint['status']:<8}  {endpoint['name']}  {endpoint['url']}  "
            f"{','.join(endpoint['event_types'])}  {endpoint['signing_secret_hint']}"
        )


@app.command("create")
def create(
    receiver: Annotated[str, typer.Argument(metavar="RECEIVER", help="URL that events are posted to.")],
    name: Annotated[str, typer.Option(help="What to call it.")] = "glowl",
    event: EventOption = None,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Register an endpoint; its signing secret is printed, this once."""
    api = Api(url, api_key, parse_language(lang))
    body = {"name": name, "url": receiver, "event_types": event or DEFAULT_EVENTS}
    created = api.call("POST", "webhook_endpoints", body)
    _show_secret(api, "webhooks.created", created["id"], created["signing_secret"])


@app.command("update")
def update(
    endpoint: EndpointArgument,
    receiver: Annotated[str | None, typer.Option(help="Post to this URL from now on.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    event: Annotated[
        list[str] | None, typer.Option("--event", help="Be told of these events only; may be repeated.")
    ] = None,
    is_enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="A receiver that answers 410 disables its endpoint.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Change an endpoint, or enable it again."""
    api = Api(url, api_key, parse_language(lang))
    status = None if is_enabled is None else "enabled" if is_enabled else "disabled"
    wanted = {"url": receiver, "name": name, "event_types": event or None, "status": status}
    body = {key: value for key, value in wanted.items() if value is not None}
    if not body:
        fail(say("webhooks.nothing", api.language), code=2)
    api.call("POST", _path(endpoint), body)
    api.say("webhooks.updated", id=endpoint)


@app.command("rotate")
def rotate(
    endpoint: EndpointArgument,
    keep_old: Annotated[
        bool, typer.Option("--keep-old/--drop-old", help="Let the old secret sign too for 24 hours.")
    ] = True,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Give an endpoint a new signing secret and print it, this once."""
    api = Api(url, api_key, parse_language(lang))
    rotated = api.call("POST", _path(endpoint, "rotate_secret"), {"keep_old_secret_active_for_24_hours": keep_old})
    _show_secret(api, "webhooks.rotated", endpoint, rotated["signing_secret"])
    if keep_old:
        api.say("webhooks.kept")


@app.command("test")
def send_test(
    endpoint: EndpointArgument,
    event: Annotated[str, typer.Option(help="Which event to make a sample of.")] = "response.completed",
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Post a signed sample event now and say what the receiver answered."""
    api = Api(url, api_key, parse_language(lang))
    result = api.call("POST", _path(endpoint, "test"), {"event_type": event})
    text = say("webhooks.tested", api.language, status=result["status_code"])
    if not 200 <= result["status_code"] < 300:
        fail(text)
    typer.echo(text)


@app.command("delete")
def delete(
    endpoint: EndpointArgument, url: UrlOption = DEFAULT_URL, api_key: KeyOption = "", lang: LanguageOption = None
) -> None:
    """Forget an endpoint; what was still to be sent to it is given up."""
    api = Api(url, api_key, parse_language(lang))
    api.call("DELETE", _path(endpoint))
    api.say("webhooks.deleted", id=endpoint)


@app.command("deliveries")
def deliveries(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="[ENDPOINT]", help="Only those to this endpoint; default: all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Show what was, or is still to be, delivered, with every attempt."""
    api = Api(url, api_key, parse_language(lang))
    path = _path(endpoint, "deliveries") if endpoint else "webhook_deliveries"
    found = api.call("GET", path, limit=limit)["data"]
    if not found:
        api.say("webhooks.none")
    for delivery in found:
        _show_delivery(api, delivery)


@app.command("redeliver")
def redeliver(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id, such as whd_...")],
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Send an event again, under the same event id, with all its retries."""
    api = Api(url, api_key, parse_language(lang))
    api.call("POST", f"webhook_deliveries/{quote(delivery, safe='')}/redeliver")
    api.say("webhooks.redelivered", id=delivery)


@app.command("secret")
def secret(
    is_new: Annotated[
        bool, typer.Option("--rotate", help="Make a new one; the old one signs too for 24 hours.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Print the secret that signs events to URLs named in requests (`metadata.webhook_url`)."""
    api = Api(url, api_key, parse_language(lang))
    if is_new:
        found = api.call("POST", "webhook_secret/rotate", {"keep_old_secret_active_for_24_hours": True})
    else:
        found = api.call("POST", "webhook_secret")
    typer.echo(found["signing_secret"])


def _path(endpoint: str, action: str = "") -> str:
    return "/".join(part for part in ("webhook_endpoints", quote(endpoint, safe=""), action) if part)


def _show_secret(api: Api, key: str, endpoint: str, signing_secret: str) -> None:
    # The secret alone on stdout, so that it can be redirected into a file; the sentence on stderr.
    typer.echo(say(key, api.language, id=endpoint), err=True)
    typer.echo(signing_secret)


def _show_delivery(api: Api, delivery: Json) -> None:
    receiver = delivery["webhook_endpoint_id"] or delivery["url"]
    typer.echo(
        f"{delivery['id']}  {delivery['status']:<11}  {delivery['event_type']}  {delivery['event_id']}  {receiver}"
    )
    for attempt in delivery["attempts"]:
        outcome = attempt["error"] or attempt["status_code"]
        when = show_time(attempt["started_at"])
        line = say(
            "webhooks.attempt",
            api.language,
            number=attempt["number"],
            at=when,
            outcome=outcome,
            duration_ms=attempt["duration_ms"],
        )
        typer.echo(f"  {line}")
    if delivery["failure"]:
        typer.echo("  " + say("webhooks.failure", api.language, why=delivery["failure"]))
    if delivery["next_attempt_at"] is not None:
        typer.echo("  " + say("webhooks.next", api.language, at=show_time(delivery["next_attempt_at"])))
