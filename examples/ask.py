"""Ask a question about a picture; the answer carries the draft, the route and the reasons.

Run it in the clone's folder while `glowl up` runs: `python examples/ask.py`. With the pocket models it prints::

    draft:  purple
    answer: orange
    route:  deep
    why:    multi-hop score 0.68 against 0.5 (relation: left of; comparison: smallest)
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
completion = client.chat.completions.create(
    model="glowl",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What colour is the shape left of the smallest diamond?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            ],
        }
    ],
)
hybrid = completion.hybrid
print("draft: ", hybrid.get("draft", {}).get("text"))  # there is none if GLM had said nothing when Owl2 was done
print("answer:", completion.choices[0].message.content)
print("route: ", hybrid["route"])
print("why:   ", hybrid["reasons"][0]["text"])
