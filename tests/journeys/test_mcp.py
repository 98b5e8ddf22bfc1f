"""Agents that look at pictures: the MCP SDK's own client, against the whole product with an Owl2 that takes minutes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from mcp import Client, MCPError, StdioServerParameters
from mcp.server import Server
from mcp_types import CallToolResult, TextContent

from engines.base import Delta, GenerationRequest
from router.mcp.pictures import Sources
from router.mcp.server import MAX_BODY_BYTES, PATH, Glowl
from tests.journeys.conftest import Stack, picture
from tests.support.servers import STARTUP_S, AppServer, free_port
from tests.support.staged import Gate

pytestmark = pytest.mark.e2e
LEASE_S = 300.0
DRAFT_PATIENCE_S = 300.0
TRANSPORTS = ("stdio", "http", "http-legacy")
ENGLISH = "What colour is the larger of the two squares?"


@pytest.fixture
def slow_owl2(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Owl2 says nothing until the gate is opened."""
    gate, engine = Gate(), stack.engines["owl2"]
    answer = engine.stream

    async def stream(request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        await gate.wait()
        async for delta in answer(request):
            yield delta

    monkeypatch.setattr(engine, "stream", stream)
    yield gate
    gate.open()


@contextlib.asynccontextmanager
async def agent(transport: str, stack: Stack, folder: Path) -> AsyncIterator[Client]:
    """An agent's client, of today's protocol or of the one before it; its pictures lie in the folder."""
    if transport == "stdio":
        argv = ["-m", "router.cli", "mcp", "--url", stack.api.url, "--allow", str(folder), "--lang", "en"]
        async with Client(StdioServerParameters(command=sys.executable, args=argv), mode="legacy") as client:
            yield client
        return
    app = server_of(stack, folder).streamable_http_app(streamable_http_path=PATH, max_request_body_size=MAX_BODY_BYTES)
    server = AppServer(app)
    async with Client(server.url + PATH, mode="legacy" if transport == "http-legacy" else "auto") as client:
        yield client
    server.stop()


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def server_of(stack: Stack, folder: Path) -> Server[Any]:
    return Glowl(stack.api.url, "", Sources.below([folder]), "en").make_server()


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert text_of(result)
    return result


async def until(look: Callable[[], Any], what: str) -> Any:
    for _ in range(int(STARTUP_S / 0.05)):
        if found := await look():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_agent_has_the_draft_in_time_and_the_refined_answer_later(
    transport: str, stack: Stack, slow_owl2: Gate, tmp_path: Path
) -> None:
    async with agent(transport, stack, tmp_path) as client:
        # Given an Owl2 that says nothing for minutes
        # When an agent asks with little patience
        asked = await call(client, "look", question=ENGLISH, pictures=[picture("red"), picture("blue")], patience_s=0.5)

        # Then it has an id at once, and by it the draft
        found = asked.structured_content
        assert not found["is_final"]
        assert found["id"] in text_of(asked)

        async def draft() -> CallToolResult | None:
            later = await call(client, "refined", id=found["id"], wait_s=0.2)
            assert not later.structured_content["is_final"]
            return later if later.structured_content["text"] else None

        later = await until(draft, "the draft")
        assert later.structured_content["text"].startswith("[echo glm]")
        assert "[echo glm]" in text_of(later)

        # And, when Owl2 has answered, the answer
        slow_owl2.open()
        final = await call(client, "refined", id=found["id"], wait_s=STARTUP_S)
        assert final.structured_content["is_final"]
        assert final.structured_content["text"].startswith("[echo owl2]")
        assert text_of(final).startswith("[echo owl2]")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_call_that_is_cancelled_leaves_no_job_behind(
    transport: str, stack: Stack, slow_owl2: Gate, tmp_path: Path
) -> None:
    told: list[tuple[float, str]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        assert total == 300
        told.append((progress, message or ""))

    async def queued() -> str | None:
        return next((said.partition(":")[0] for _, said in told if said.startswith("resp_")), None)

    async with agent(transport, stack, tmp_path) as client:
        # Given a call that waits, and tells of its job meanwhile
        arguments = {"question": ENGLISH, "pictures": [picture("red")], "patience_s": 300}
        asked = asyncio.create_task(client.call_tool("look", arguments, progress_callback=on_progress))
        job = await until(queued, "the id")

        # When its caller cancels it
        asked.cancel()

        # Then the job is cancelled too: nobody has its id
        async def state() -> bool:
            return (await asyncio.to_thread(stack.client.responses.retrieve, job)).status == "cancelled"

        await until(state, "the job to be cancelled")
    assert [progress for progress, _ in told] == sorted(progress for progress, _ in told)


async def test_a_caller_that_cancels_waiting_for_a_job_leaves_it_running(
    stack: Stack, slow_owl2: Gate, tmp_path: Path
) -> None:
    waits = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        waits.set()

    async with Client(server_of(stack, tmp_path)) as client:
        asked = await call(client, "look", question=ENGLISH, pictures=[picture("red")], patience_s=0)
        job = asked.structured_content["id"]
        waiting = asyncio.create_task(
            client.call_tool("refined", {"id": job, "wait_s": 300}, progress_callback=on_progress)
        )
        await waits.wait()
        waiting.cancel()
        slow_owl2.open()
        final = await call(client, "refined", id=job, wait_s=STARTUP_S)
        assert final.structured_content["is_final"]


PICTURE_CALLS: dict[str, dict[str, Any]] = {
    "look": {"question": "图中有什么？", "pictures": ["one.png"]},
    "read_fields": {"pictures": ["one.png"], "template": "price_tag"},
    "compare": {"pictures": ["one.png", "two.png"]},
    "read_document": {"pages": ["one.png", "two.png"]},
    "ui_to_artifact": {"image_source": "one.png", "output_type": "code", "prompt": "Make it in HTML."},
    "extract_text_from_screenshot": {
        "image_source": "one.png",
        "prompt": "Extract the code.",
        "programming_language": "python",
    },
    "diagnose_error_screenshot": {"image_source": "one.png", "prompt": "Why?", "context": "during npm install"},
    "understand_technical_diagram": {"image_source": "one.png", "prompt": "Explain it.", "diagram_type": ""},
    "analyze_data_visualization": {"image_source": "one.png", "prompt": "哪个月最高？", "analysis_focus": "trends"},
    "ui_diff_check": {"expected_image_source": "one.png", "actual_image_source": "two.png", "prompt": "What differs?"},
    "analyze_image": {"image_source": "one.png", "prompt": "What is it?"},
}


async def test_every_tool_that_is_listed_can_be_called(stack: Stack, tmp_path: Path) -> None:
    for name, colour in (("one.png", "red"), ("two.png", "blue")):
        (tmp_path / name).write_bytes(base64.b64decode(picture(colour).partition(",")[2]))
    async with Client(server_of(stack, tmp_path)) as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {*PICTURE_CALLS, "refined"}
        for tool in tools:
            Draft202012Validator.check_schema(tool.input_schema)
            assert tool.description
            assert all(each["description"] for each in tool.input_schema["properties"].values())
        ids = []
        for name, arguments in PICTURE_CALLS.items():
            Draft202012Validator(next(tool.input_schema for tool in tools if tool.name == name)).validate(arguments)
            found = (await call(client, name, **arguments, patience_s=STARTUP_S)).structured_content
            assert found["is_final"], name
            assert found["text"], name
            ids.append(found["id"])
            if name == "read_fields":
                assert "products" in found["fields"]
        # An answer is read again under its id.
        again = await call(client, "refined", id=ids[0])
        assert again.structured_content["id"] == ids[0]


async def test_what_the_service_refuses_is_said_to_the_agent(stack: Stack, tmp_path: Path) -> None:
    async with Client(server_of(stack, tmp_path)) as client:
        for tool, arguments, said in (
            ("refined", {"id": "resp_none"}, "resp_none"),
            ("look", {"question": "What?", "pictures": ["data:image/png;base64,AAAA"]}, "picture"),
            ("read_fields", {"pictures": [picture("red")], "schema": {"type": "object", "not": {}}}, "not"),
        ):
            result = await client.call_tool(tool, arguments)
            assert result.is_error
            assert said in text_of(result)
        with pytest.raises(MCPError, match="extract_text_from_screenshot"):
            await client.call_tool("image_analysis", {})


async def test_a_service_that_is_away_is_said_in_one_sentence(tmp_path: Path) -> None:
    port = free_port()
    glowl = Glowl(f"http://127.0.0.1:{port}", "", Sources.below([tmp_path]), "en")
    async with Client(glowl.make_server()) as client:
        result = await client.call_tool("look", {"question": "What?", "pictures": ["https://example.com/a.png"]})
        assert result.is_error
        assert f"No Glowl answers at http://127.0.0.1:{port}" in text_of(result)


async def test_a_web_page_of_another_host_cannot_ask(stack: Stack, tmp_path: Path) -> None:
    server = AppServer(server_of(stack, tmp_path).streamable_http_app(streamable_http_path=PATH))
    async with httpx.AsyncClient(trust_env=False, timeout=STARTUP_S) as http:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"Accept": "application/json, text/event-stream"}
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            answer = await http.post(server.url + PATH, json=body, headers={**accept, **headers})
            assert answer.status_code in (403, 421)
    server.stop()
