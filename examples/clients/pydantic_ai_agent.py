"""pydantic-ai: text, a picture, two pictures as a job, a stream, structured output, a function.

Install `pydantic-ai-slim[openai]`, and run it in the clone's folder while `glowl up` runs:
`python examples/clients/pydantic_ai_agent.py`. pydantic-ai knows no job to poll: it waits for the answer of one.
"""

import asyncio
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ.get("GLOWL_URL", "http://127.0.0.1:8000")
provider = OpenAIProvider(base_url=f"{URL}/v1", api_key=os.environ.get("GLOWL_API_KEY", "none"))
model = OpenAIResponsesModel("glowl", provider=provider)


class Shapes(BaseModel):
    """What the structured answer says."""

    count: int = Field(ge=0, le=20)


class Clock(BaseModel):
    """A place whose time is asked for."""

    place: Literal["Paris", "Beijing"]


def ask(text: str, *pictures: str) -> list:
    """One turn, with pictures by their names."""
    folder = Path("engines/pocket/samples")
    return [text, *(BinaryContent((folder / name).read_bytes(), media_type="image/png") for name in pictures)]


async def main() -> None:
    """Ask one after the other."""
    agent = Agent(model)
    print("text:", (await agent.run(ask("你好"))).output)
    print("picture:", (await agent.run(ask("图中的菱形是什么颜色的？", "colour.png"))).output)
    question = ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png")
    print("job:", (await agent.run(question)).output)
    question = ask("What colour is the shape left of the smallest diamond?", "beside.png")
    async with agent.run_stream(question) as run:
        print("stream:", "".join([piece async for piece in run.stream_text(delta=True)]))
    reader = Agent(model, output_type=NativeOutput(Shapes))
    print("structured:", (await reader.run(ask("一共有多少个图形？", "count.png"))).output.count)

    # A function that must be called; the pocket models were not taught to call one by themselves.
    caller = Agent(model, output_type=ToolOutput(Clock, name="clock"))
    run = await caller.run(ask("What time is it in Paris?"))
    parts = [part for message in run.all_messages() for part in message.parts]
    print("tools:", next(part.tool_name for part in parts if part.part_kind == "tool-call"))


asyncio.run(main())
