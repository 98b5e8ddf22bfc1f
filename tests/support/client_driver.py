"""The unmodified openai client as a process: ``PYTHON tests/support/client_driver.py``, with any major of the package.

In: orders, one JSON object a line, ``{"call", "do", "base_url", "with"}`` or ``{"hang_up": call}``. Out: lines of the
same numbers: ``event`` as they come, then one of ``result``, ``error``, ``gone``. Nothing but openai is imported, so an
environment needs nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import openai

Tell = Callable[[Any], None]


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def shown(response: Any) -> dict[str, Any]:
    return {"object": response.to_dict(), "output_text": response.output_text}


async def create(client: Any, tell: Tell, **args: Any) -> Any:
    return shown(await client.responses.create(**args))


async def retrieve(client: Any, tell: Tell, **args: Any) -> Any:
    return shown(await client.responses.retrieve(**args))


async def cancel(client: Any, tell: Tell, **args: Any) -> Any:
    return shown(await client.responses.cancel(**args))


async def stream(client: Any, tell: Tell, **args: Any) -> Any:
    """Read a response through the package's own helper, which checks the order of the events."""
    last: Any = None
    async with client.responses.stream(**args) as events:
        async for last in events:
            tell(last.to_dict())
        if last.type == "response.completed":
            return shown(await events.get_final_response())
    return None if last.type == "error" else shown(last.response)


async def replay(client: Any, tell: Tell, **args: Any) -> Any:
    """Read the stream of a response that somebody else has asked for."""
    last: Any = None
    async with await client.responses.retrieve(stream=True, **args) as events:
        async for last in events:
            tell(last.to_dict())
    return None if last.type == "error" else shown(last.response)


async def chat(client: Any, tell: Tell, **args: Any) -> Any:
    return {"object": (await client.chat.completions.create(**args)).to_dict()}


async def chat_stream(client: Any, tell: Tell, **args: Any) -> Any:
    async with await client.chat.completions.create(stream=True, **args) as chunks:
        async for chunk in chunks:
            tell(chunk.to_dict())
    return {}


async def unwrap(client: Any, tell: Tell, **args: Any) -> Any:
    event = client.webhooks.unwrap(**args)
    event = await event if inspect.isawaitable(event) else event
    return {"object": event.to_dict(), "class": type(event).__name__}


DOES = {each.__name__: each for each in (create, retrieve, cancel, stream, replay, chat, chat_stream, unwrap)}


async def carry_out(order: dict[str, Any], client: Any) -> None:
    call = order["call"]

    def tell(event: Any) -> None:
        say({"call": call, "event": event})

    try:
        say({"call": call, "result": await DOES[order["do"]](client, tell, **order["with"])})
    except asyncio.CancelledError:
        say({"call": call, "gone": True})
    except openai.APIError as error:
        status = getattr(error, "status_code", None)
        told = {"class": type(error).__name__, "status": status, "code": error.code, "message": error.message}
        say({"call": call, "error": told})
    except Exception as error:  # whoever gave the order waits for an end
        say(
            {
                "call": call,
                "error": {"class": type(error).__name__, "status": None, "code": None, "message": str(error)},
            }
        )


async def main() -> None:
    clients: dict[str, Any] = {}
    calls: dict[int, Any] = {}
    say({"openai": openai.__version__})
    loop = asyncio.get_running_loop()
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            break
        order = json.loads(line)
        if "hang_up" in order:
            calls[order["hang_up"]].cancel()
            continue
        url = order["base_url"]
        if url not in clients:
            # Without retries of its own, so that a failure shows.
            clients[url] = openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0)
        calls[order["call"]] = asyncio.ensure_future(carry_out(order, clients[url]))
    for client in clients.values():
        await client.close()


asyncio.run(main())
