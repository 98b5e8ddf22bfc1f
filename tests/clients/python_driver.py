"""LangChain, pydantic-ai and openai-agents as their users call them, each in an environment that has nothing of ours.

In: which of them, the base URL, the model and a JSON list of turns as arguments. Out: per turn, one line of JSON with
the text that joining every piece gives, and what the package says its answer is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any


def say(joined: str, text: str) -> None:
    print(json.dumps({"joined": joined, "text": text}), flush=True)


def data_url(picture: str) -> str:
    return f"data:image/png;base64,{picture}"


async def langchain(base_url: str, model: str, turns: list[Any], *, is_responses: bool) -> None:
    from langchain_core.messages import HumanMessage  # type: ignore[import-not-found]
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

    chat = ChatOpenAI(
        model=model, base_url=base_url, api_key="unused", use_responses_api=is_responses, max_retries=0, streaming=True
    )
    messages: list[Any] = []
    for turn in turns:
        pictures = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in turn["pictures"]]
        messages.append(HumanMessage([{"type": "text", "text": turn["text"]}, *pictures]))
        whole: Any = None
        joined = ""
        async for chunk in chat.astream(messages):
            joined += chunk.text if isinstance(chunk.text, str) else chunk.text()
            whole = chunk if whole is None else whole + chunk
        messages.append(whole)
        say(joined, str(whole.text if isinstance(whole.text, str) else whole.text()))


async def pydantic_ai(base_url: str, model: str, turns: list[Any], *, is_responses: bool) -> None:
    from pydantic_ai import Agent, BinaryContent  # type: ignore[import-not-found]
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # type: ignore[import-not-found]
    from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]

    kind = OpenAIResponsesModel if is_responses else OpenAIChatModel
    agent = Agent(kind(model, provider=OpenAIProvider(base_url=base_url, api_key="unused")), retries=0)
    history: list[Any] = []
    for turn in turns:
        pictures = [BinaryContent(base64.b64decode(each), media_type="image/png") for each in turn["pictures"]]
        async with agent.run_stream([turn["text"], *pictures], message_history=history) as run:
            joined = "".join([piece async for piece in run.stream_text(delta=True, debounce_by=None)])
            text = await run.get_output()
            history = run.all_messages()
        say(joined, text)


async def openai_agents(base_url: str, model: str, turns: list[Any], *, is_responses: bool) -> None:
    from agents import (  # type: ignore[import-not-found]
        Agent,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0)
    kind = OpenAIResponsesModel if is_responses else OpenAIChatCompletionsModel
    agent = Agent(name="glowl", model=kind(model=model, openai_client=client))
    items: list[Any] = []
    for turn in turns:
        pictures = [{"type": "input_image", "image_url": data_url(each), "detail": "auto"} for each in turn["pictures"]]
        content = [{"type": "input_text", "text": turn["text"]}, *pictures]
        run = Runner.run_streamed(agent, [*items, {"role": "user", "content": content}])
        joined = ""
        async for event in run.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                joined += event.data.delta
        items = run.to_input_list()
        say(joined, str(run.final_output))


DRIVERS = {"langchain": langchain, "pydantic-ai": pydantic_ai, "openai-agents": openai_agents}

if __name__ == "__main__":
    name, api, url, wanted, asked = sys.argv[1:]
    asyncio.run(DRIVERS[name](url, wanted, json.loads(asked), is_responses=api == "responses"))
