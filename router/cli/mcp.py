"""`glowl mcp`: a running service's eyes for agents, as an MCP server over stdin and stdout, or HTTP on this machine.

In: the service's address and key, folders, a language. Out: nothing but MCP on stdout. It runs beside the agent, whose
files it reads; the service may be on another machine.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from router.cli.api import DEFAULT_URL, KeyOption, UrlOption, other_url
from router.cli.common import Language, LanguageOption, fail, parse_language, to_command
from router.cli.texts import say


def mcp(
    allow: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Pictures below it may be read; again for more. Default: the current folder."),
    ] = None,
    http: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Serve HTTP on 127.0.0.1 instead of stdin.")
    ] = None,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=3600, help="How long a call waits for the final answer.")
    ] = 45.0,
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = "",
    lang: LanguageOption = None,
) -> None:
    """Let agents look at pictures: an MCP server in front of a running service."""
    language = parse_language(lang)
    try:
        from router.mcp import server
        from router.mcp.pictures import Sources
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        fail(say("mcp.missing", language, python=sys.executable), code=2)
    folders = allow or [Path()]
    for folder in folders:
        if not folder.expanduser().is_dir():
            fail(say("mcp.folder", language, path=folder), code=2)
    glowl = server.Glowl(url, api_key, Sources.below(folders), language, patience)
    try:
        if http is None:
            if sys.stdin.isatty():
                command = to_command("mcp", url=other_url(url), allow=allow)
                typer.echo(say("mcp.by_hand", language, command=command), err=True)
            asyncio.run(server.serve_stdio(glowl.make_server()))
        else:
            _check_port(http, language)
            typer.echo(say("mcp.serving", language, url=f"http://{server.LOOPBACK}:{http}{server.PATH}"), err=True)
            asyncio.run(server.serve_http(glowl.make_server(), http))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _check_port(port: int, language: Language) -> None:
    from router.cli.net import LOOPBACK, PortInUseError, check_port

    try:
        check_port(LOOPBACK, port)
    except PortInUseError as error:
        fail(say("mcp.port", language, port=port, reason=error), code=2)
