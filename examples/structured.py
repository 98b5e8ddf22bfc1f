"""Get an object instead of prose: a pydantic model is the schema, and the answer satisfies it.

The pocket models keep to the schema as every model does, but they were taught plain answers and no JSON: any number
may stand in it. With them it prints::

    count=...
"""

import base64
import os
from pathlib import Path

from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(
    base_url=os.environ.get("GLOWL_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
)


class Shapes(BaseModel):
    """What is asked for."""

    count: int = Field(ge=0, le=20)


data = base64.b64encode(Path("engines/pocket/samples/count.png").read_bytes()).decode()
response = client.responses.parse(
    model="glowl",
    input=[
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "一共有多少个图形？"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"},
            ],
        }
    ],
    text_format=Shapes,
)
print(response.output_parsed)
