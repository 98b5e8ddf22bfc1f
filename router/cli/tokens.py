"""`glowl tokens`: make a token for an owner, and say what the service would say to one.

In: the settings of the service, an owner or a token. Out: a token on stdout; or whose it is, what for and until when.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.common import LanguageOption, fail, load_settings, parse_language
from router.cli.durations import parse_duration
from router.cli.texts import say
from router.scopes import SCOPES

if TYPE_CHECKING:
    from router.auth.tokens import TokenVerifier, Verified

app = typer.Typer(
    name="tokens", help="Tokens (JWT): make one with GLOWL_JWT_SECRET, or check one.", no_args_is_help=True
)


@app.command("issue")
def issue(
    owner: Annotated[str, typer.Option(help="Whose it is: any name; the same name is the same owner.")],
    scopes: Annotated[
        str,
        typer.Option(
            help="What it may be used for, comma-separated: ask, jobs, files, admin; default GLOWL_JWT_SCOPES."
        ),
    ] = "",
    lifetime: Annotated[str, typer.Option("--for", help="How long it is good: 90s, 15m, 24h, 7d.")] = "1h",
    lang: LanguageOption = None,
) -> None:
    """Print a token that the service accepts; it needs the same GLOWL_JWT_* settings."""
    language = parse_language(lang)
    wanted = [name.strip() for name in scopes.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in SCOPES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from ask, jobs, files, admin", param_hint="--scopes")
    if not owner.strip():
        raise typer.BadParameter("an owner has a name", param_hint="--owner")
    lifetime_s = parse_duration(lifetime)
    settings = load_settings()
    if not settings.jwt_secret:
        fail(say("tokens.no_secret", language), code=2)

    from router.auth import tokens

    typer.echo(tokens.issue(settings, owner, scopes=wanted, lifetime_s=lifetime_s))


@app.command("check")
def check(lang: LanguageOption = None) -> None:
    """Read a token from stdin, and say whose it is, what it may be used for and until when; or why it is refused."""
    language = parse_language(lang)
    settings = load_settings()

    from router.auth.tokens import make_verifier
    from router.errors import RouterError
    from router.settings import SettingsError

    try:
        verifier = make_verifier(settings)
        if verifier is None:
            fail(say("tokens.off", language), code=2)
        found = asyncio.run(_verify(verifier, sys.stdin.buffer.read().decode(errors="replace").strip()))
    except SettingsError as error:
        fail(str(error), code=2)
    except RouterError as error:
        fail(f"{error.code}: {error.text.of(language)}")
    until = datetime.fromtimestamp(found.expires_at).astimezone().isoformat(timespec="seconds")
    typer.echo(
        say("tokens.good", language, owner=found.owner, scopes=",".join(sorted(found.scopes)) or "-", until=until)
    )


async def _verify(verifier: TokenVerifier, token: str) -> Verified:
    try:
        return await verifier.verify(token)
    finally:
        await verifier.aclose()
