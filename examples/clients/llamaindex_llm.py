"""LlamaIndex: text, a picture, two pictures as a job, a stream, structured output, a function.

Install `llama-index-llms-openai-like`, and run it in the clone's folder while `glowl up` runs:
`python examples/clients/llamaindex_llm.py`. LlamaIndex knows no job to poll: it waits for the answer of one.
"""

import json
import os
from pathlib import Path
from typing import Literal

from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

URL = os.environ.get("GLOWL_URL", "http://127.0.0.1:8000")
llm = OpenAILike(
    model="glowl",
    api_base=f"{URL}/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=32768,
    timeout=600,
)


class Shapes(BaseModel):
    """What the structured answer says."""

    count: int = Field(ge=0, le=20)


def clock(place: Literal["Paris", "Beijing"]) -> str:
    """The time of a place."""
    return "14:05"


def ask(text: str, *pictures: str) -> list[ChatMessage]:
    """One turn, with pictures by their names."""
    images = [ImageBlock(path=Path("engines/pocket/samples", name), image_mimetype="image/png") for name in pictures]
    return [ChatMessage(role="user", blocks=[TextBlock(text=text), *images])]


print("text:", llm.chat(ask("你好")).message.content)
print("picture:", llm.chat(ask("图中的菱形是什么颜色的？", "colour.png")).message.content)
answer = llm.chat(ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png"))
print("job:", answer.message.content)
pieces = llm.stream_chat(ask("What colour is the shape left of the smallest diamond?", "beside.png"))
print("stream:", "".join(piece.delta or "" for piece in pieces))
# Its own structured output asks by words; the request's own field holds the model to the schema.
wanted = {"type": "json_schema", "json_schema": {"name": "shapes", "schema": Shapes.model_json_schema()}}
answer = llm.chat(ask("一共有多少个图形？", "count.png"), response_format=wanted)
print("structured:", Shapes.model_validate(json.loads(answer.message.content)).count)
# The pocket models were not taught to call functions by themselves: here one must be called.
tools = [FunctionTool.from_defaults(clock)]
answer = llm.chat_with_tools(tools, user_msg="What time is it in Paris?", tool_required=True)
print("tools:", llm.get_tool_calls_from_response(answer)[0].tool_name)
