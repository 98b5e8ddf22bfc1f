"""The `openai` package: text, a picture, two pictures as a job, a stream, structured output, a function.

Install `openai`, and run it in the clone's folder while `glowl up` runs: `python examples/clients/openai_python.py`.
"""

import base64
import os
import time
from pathlib import Path

from openai import OpenAI
from pydantic import BaseModel, Field

URL = os.environ.get("GLOWL_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("GLOWL_API_KEY", "none"))


class Shapes(BaseModel):
    """What the structured answer says."""

    count: int = Field(ge=0, le=20)


def ask(text: str, *pictures: str) -> list[dict]:
    """The input of a request: one turn, with pictures by their names."""
    content = [{"type": "input_text", "text": text}]
    for name in pictures:
        data = base64.b64encode(Path("engines/pocket/samples", name).read_bytes()).decode()
        content.append({"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"})
    return [{"role": "user", "content": content}]


response = client.responses.create(model="glowl", input=ask("你好"))
print("text:", response.output_text)

response = client.responses.create(model="glowl", input=ask("图中的菱形是什么颜色的？", "colour.png"))
print("picture:", response.output_text)

question = ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png")
response = client.responses.create(model="glowl", input=question, background=True)
while response.status in ("queued", "in_progress"):
    time.sleep(0.5)
    response = client.responses.retrieve(response.id)
print("job:", response.output_text)

question = ask("What colour is the shape left of the smallest diamond?", "beside.png")
with client.responses.stream(model="glowl", input=question) as stream:
    print("stream:", "".join(event.delta for event in stream if event.type == "response.output_text.delta"))

response = client.responses.parse(model="glowl", input=ask("一共有多少个图形？", "count.png"), text_format=Shapes)
print("structured:", response.output_parsed.count)

clock = {
    "type": "function",
    "name": "clock",
    "description": "The time of a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["Paris", "Beijing"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}
# Named as `tool_choice`, it must be called; the pocket models were not taught to call one by themselves.
named = {"type": "function", "name": "clock"}
response = client.responses.create(model="glowl", input="What time is it in Paris?", tools=[clock], tool_choice=named)
call = next(item for item in response.output if item.type == "function_call")
result = {"type": "function_call_output", "call_id": call.call_id, "output": "14:05"}
client.responses.create(model="glowl", input=[result], previous_response_id=response.id, tools=[clock])
print("tools:", call.name)
