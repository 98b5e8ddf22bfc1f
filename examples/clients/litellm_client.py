"""LiteLLM as a client: text, a picture, two pictures as a job, a stream, structured output, a function.

Install `litellm`, and run it in the clone's folder while `glowl up` runs: `python examples/clients/litellm_client.py`.
Its proxy takes the same: `model: openai/glowl` with `api_base`.
"""

import base64
import os
from pathlib import Path

import litellm
from pydantic import BaseModel, Field

URL = os.environ.get("GLOWL_URL", "http://127.0.0.1:8000")
to = {
    "model": "openai/glowl",
    "api_base": f"{URL}/v1",
    "api_key": os.environ.get("GLOWL_API_KEY", "none"),
    "timeout": 600,
}


class Shapes(BaseModel):
    """What the structured answer says."""

    count: int = Field(ge=0, le=20)


def ask(text: str, *pictures: str) -> list[dict]:
    """One turn, with pictures by their names."""
    content: list = [{"type": "text", "text": text}]
    for name in pictures:
        data = base64.b64encode(Path("engines/pocket/samples", name).read_bytes()).decode()
        content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return [{"role": "user", "content": content}]


def said(completion: litellm.ModelResponse) -> str:
    """The text of a completion."""
    return completion.choices[0].message.content


print("text:", said(litellm.completion(messages=ask("你好"), **to)))
print("picture:", said(litellm.completion(messages=ask("图中的菱形是什么颜色的？", "colour.png"), **to)))
question = ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png")
print("job:", said(litellm.completion(messages=question, **to)))
question = ask("What colour is the shape left of the smallest diamond?", "beside.png")
pieces = litellm.completion(messages=question, stream=True, **to)
print("stream:", "".join(piece.choices[0].delta.content or "" for piece in pieces))
question = ask("一共有多少个图形？", "count.png")
# LiteLLM knows its own list of models that take schemas; this sends the schema to any.
wanted = {"type": "json_schema", "json_schema": {"name": "shapes", "schema": Shapes.model_json_schema()}}
answer = litellm.completion(messages=question, response_format=wanted, **to)
print("structured:", Shapes.model_validate_json(said(answer)).count)

parameters = {
    "type": "object",
    "properties": {"place": {"type": "string", "enum": ["Paris", "Beijing"]}},
    "required": ["place"],
}
clock = {"type": "function", "function": {"name": "clock", "description": "A place's time.", "parameters": parameters}}
# Named as `tool_choice`, it must be called; the pocket models were not taught to call one by themselves.
named = {"type": "function", "function": {"name": "clock"}}
question = ask("What time is it in Paris?")
answer = litellm.completion(messages=question, tools=[clock], tool_choice=named, **to).choices[0].message
results = [{"role": "tool", "tool_call_id": call.id, "content": "14:05"} for call in answer.tool_calls]
litellm.completion(messages=[*question, answer.model_dump(exclude_none=True), *results], tools=[clock], **to)
print("tools:", answer.tool_calls[0].function.name)
