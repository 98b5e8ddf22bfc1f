"""LangChain: text, a picture, two pictures as a job, a stream, structured output, a function.

Install `langchain-openai`, and run it in the clone's folder while `glowl up` runs:
`python examples/clients/langchain_chat.py`. LangChain knows no job to poll: it waits for the answer of one.
"""

import base64
import os
from pathlib import Path
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

URL = os.environ.get("GLOWL_URL", "http://127.0.0.1:8000")
chat = ChatOpenAI(
    model="glowl",
    base_url=f"{URL}/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
    use_responses_api=True,
    timeout=600,
)


class Shapes(BaseModel):
    """What the structured answer says."""

    count: int = Field(ge=0, le=20)


@tool
def clock(place: Literal["Paris", "Beijing"]) -> str:
    """The time of a place."""
    return "14:05"


def ask(text: str, *pictures: str) -> list[HumanMessage]:
    """One turn, with pictures by their names."""
    content: list = [{"type": "text", "text": text}]
    for name in pictures:
        data = base64.b64encode(Path("engines/pocket/samples", name).read_bytes()).decode()
        content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return [HumanMessage(content)]


print("text:", chat.invoke(ask("你好")).text)
print("picture:", chat.invoke(ask("图中的菱形是什么颜色的？", "colour.png")).text)
answer = chat.invoke(ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png"))
print("job:", answer.text)
pieces = chat.stream(ask("What colour is the shape left of the smallest diamond?", "beside.png"))
print("stream:", "".join(str(piece.text) for piece in pieces))
shapes = chat.with_structured_output(Shapes, method="json_schema").invoke(ask("一共有多少个图形？", "count.png"))
print("structured:", shapes.count)

# Named as `tool_choice`, it must be called; the pocket models were not taught to call one by themselves.
question = ask("What time is it in Paris?")
answer = chat.bind_tools([clock], tool_choice="clock").invoke(question)
results = [ToolMessage(clock.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]
chat.bind_tools([clock]).invoke([*question, answer, *results])
print("tools:", answer.tool_calls[0]["name"])
