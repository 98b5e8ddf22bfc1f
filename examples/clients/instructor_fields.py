"""instructor: structured output of text, a picture, two pictures as a job, a stream of partial objects, a function.

Install `instructor`, and run it in the clone's folder while `glowl up` runs:
`python examples/clients/instructor_fields.py`. Every answer of instructor is an object.
"""

import base64
import os
from pathlib import Path
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

URL = os.environ.get("GLOWL_URL", "http://127.0.0.1:8000")
glowl = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("GLOWL_API_KEY", "none"), timeout=600)
client = instructor.from_openai(glowl, mode=instructor.Mode.JSON_SCHEMA)


class Answer(BaseModel):
    """An answer in words."""

    answer: str = Field(max_length=40)


class Shapes(BaseModel):
    """What the structured answer says."""

    count: int = Field(ge=0, le=20)


class Clock(BaseModel):
    """A place whose time is asked for."""

    place: Literal["Paris", "Beijing"]


def ask(text: str, *pictures: str) -> list[dict]:
    """One turn, with pictures by their names."""
    content: list = [{"type": "text", "text": text}]
    for name in pictures:
        data = base64.b64encode(Path("engines/pocket/samples", name).read_bytes()).decode()
        content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return [{"role": "user", "content": content}]


create = client.chat.completions.create
print("text:", create(model="glowl", response_model=Answer, messages=ask("你好")).answer)
question = ask("图中的菱形是什么颜色的？", "colour.png")
print("picture:", create(model="glowl", response_model=Answer, messages=question).answer)
question = ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png")
print("job:", create(model="glowl", response_model=Answer, messages=question).answer)
question = ask("一共有多少个图形？", "count.png")
*_, last = client.chat.completions.create_partial(model="glowl", response_model=Shapes, messages=question)
print("stream:", last.count)
print("structured:", create(model="glowl", response_model=Shapes, messages=question).count)
# The same by a function that must be called: instructor's default, for GLM alone.
caller = instructor.from_openai(glowl, mode=instructor.Mode.TOOLS)
question = ask("What time is it in Paris?")
answer, completion = caller.chat.completions.create_with_completion(
    model="glowl", response_model=Clock, messages=question
)
print("tools:", completion.choices[0].message.tool_calls[0].function.name)
