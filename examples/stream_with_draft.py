"""Show the draft at once, and replace it when the answer comes.

`hybrid.draft: events` gives the draft events of its own, so that no client mixes it up with the answer. With the pocket
models it prints::

    draft:  purple
    answer: orange
"""

import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("GLOWL_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
)
data = base64.b64encode(Path("engines/pocket/samples/beside.png").read_bytes()).decode()
stream = client.responses.create(
    model="glowl",
    stream=True,
    input=[
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What colour is the shape left of the smallest diamond?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"},
            ],
        }
    ],
    extra_body={"hybrid": {"draft": "events"}},
)
draft, answer = "", ""
for event in stream:
    if event.type == "hybrid.draft.delta":
        draft += event.delta
    elif event.type == "hybrid.draft.done":
        print("draft: ", draft)
    elif event.type == "response.output_text.delta":
        answer += event.delta
    elif event.type == "response.completed":
        print("answer:", answer)
