"""The MCP server: lists tools, calls the service, tells how far it is; over stdin and stdout, or HTTP on this machine.

In: the service's address and key, the allowed folders, a language. Out: a server of the MCP SDK. What goes wrong in a
call is a result with ``is_error``, which the agent reads; only an unknown tool is an error of the protocol.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import uvicorn
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)

from policies.text import Language
from router.cli.client import Client, Json, RefusedError, UnreachableError
from router.cli.responses import StreamBrokenError
from router.mcp import exchange, results, texts, tools
from router.mcp.exchange import Exchange
from router.mcp.pictures import SourceError, Sources

LOOPBACK = "127.0.0.1"
PATH = "/mcp"
# As large as the requests that the service takes: pictures may come as data URLs.
MAX_BODY_BYTES = 64 * 1024 * 1024
_Context = ServerRequestContext[Any, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Glowl:
    """The running service that the tools ask, and how.

    Attributes:
        url: its base URL.
        api_key: sent unless a client over HTTP sends its own.
        sources: where pictures may come from.
        language: of descriptions, notes and refusals.
        patience_s: how long a call waits for the final answer if it does not say.
    """

    url: str
    api_key: str
    sources: Sources
    language: Language
    patience_s: float = tools.PATIENCE_S

    def make_server(self) -> Server[Any]:
        """Return a server that answers for it."""
        return Server(
            "glowl",
            version=version("glowl"),
            title="Glowl",
            instructions=texts.INSTRUCTIONS.of(self.language),
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
        )

    async def _list_tools(self, _: _Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        # A tool reads files and asks; it changes nothing of the user's.
        hints = ToolAnnotations(read_only_hint=True, open_world_hint=True)
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    description=tool.text.of(self.language),
                    input_schema=tool.schema(self.language),
                    output_schema=results.OUTPUT_SCHEMA,
                    annotations=hints,
                )
                for tool in tools.TOOLS.values()
            ]
        )

    async def _call_tool(self, context: _Context, params: CallToolRequestParams) -> CallToolResult:
        tool = tools.TOOLS.get(params.name)
        if tool is None:
            unknown = texts.UNKNOWN_TOOL.fill(name=params.name[:64], known=", ".join(tools.TOOLS))
            raise MCPError(INVALID_PARAMS, unknown.of(self.language))
        try:
            given = tool.check(params.arguments or {})
            patience_s = next((given[name] for name in ("patience_s", "wait_s") if name in given), self.patience_s)
            key = _key_of(context) or self.api_key
            async with Client(self.url, api_key=key, language=self.language) as client:
                found = await self._ask(client, tool, given, patience_s, Progress(context, patience_s, self.language))
        except (tools.ArgumentsError, SourceError) as error:
            return results.to_error(error.text, self.language)
        except RefusedError as error:
            is_key = error.status in (401, 403)
            return results.to_error(
                texts.NO_KEY.fill(message=error.message) if is_key else error.message, self.language
            )
        except UnreachableError:
            return results.to_error(texts.UNREACHABLE.fill(url=self.url), self.language)
        except StreamBrokenError:
            return results.to_error(texts.BROKEN.fill(url=self.url), self.language)
        if not found.response and found.error is None:
            return results.to_error(texts.TOO_SLOW.fill(url=self.url, seconds=f"{patience_s:g}"), self.language)
        return results.to_result(found, self.language)

    async def _ask(
        self, client: Client, tool: tools.Tool, given: Json, patience_s: float, progress: Progress
    ) -> Exchange:
        if tool.to_question is None:
            return await exchange.resume(client, given["id"].strip(), patience_s=patience_s, report=progress.report)
        question = tool.to_question(given, self.language)
        body = question.to_body(self.sources.to_image_urls(question.sources))
        return await exchange.ask(client, body, patience_s=patience_s, report=progress.report)


class Progress:
    """Tells a client that asked for it how far a call is; a client that did not gets nothing.

    Args:
        context: of the call.
        patience_s: that the call has.
        language: of what is told.
    """

    def __init__(self, context: _Context, patience_s: float, language: Language) -> None:
        self._session = context.session
        self._patience_s = patience_s
        self._language = language

    async def report(self, heard: Exchange) -> None:
        """Report the seconds that have passed, of those that the call may take, and what happens."""
        text = texts.PROGRESS_SENT
        if heard.text_so_far("final_answer"):
            text = texts.PROGRESS_ANSWER
        elif (heard.response.get("hybrid") or {}).get("draft"):
            text = texts.PROGRESS_REFINING
        elif heard.text_so_far("commentary"):
            text = texts.PROGRESS_DRAFT
        elif heard.response:
            text = texts.PROGRESS_QUEUED
        if heard.id:
            # Each time: of what comes quickly one after the other, only the last is sent.
            text = texts.PROGRESS_OF.fill(id=heard.id, what=text)
        await self._session.report_progress(heard.waited_s, self._patience_s, text.of(self._language))


def _key_of(context: _Context) -> str:
    """Return the key that a client over HTTP sent; empty over stdin, and if it sent none."""
    headers = getattr(context.request, "headers", None) or {}
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def serve_stdio(server: Server[Any]) -> None:
    """Serve the one client that started this process, until it closes our stdin."""
    try:
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    except* BrokenPipeError:
        log.info("the client is gone; an answer to it was not written")


async def serve_http(server: Server[Any], port: int) -> None:
    """Serve clients on this machine, until SIGINT or SIGTERM; web pages of other hosts are refused by the SDK."""
    app = server.streamable_http_app(streamable_http_path=PATH, host=LOOPBACK, max_request_body_size=MAX_BODY_BYTES)
    config = uvicorn.Config(app, host=LOOPBACK, port=port, log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve()
