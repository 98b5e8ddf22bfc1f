"""Send a file of questions, wait for the batch, and put answers beside questions.

With the pocket models it prints::

    colour: 粉色
    count: 4
"""

import base64
import io
import json
import os
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("GLOWL_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
)
questions = {"colour": "图中的菱形是什么颜色的？", "count": "一共有多少个图形？"}
lines = []
for name, text in questions.items():
    data = base64.b64encode(Path(f"engines/pocket/samples/{name}.png").read_bytes()).decode()
    content = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    body = {"model": "glowl", "messages": [{"role": "user", "content": content}]}
    lines.append({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})

file = client.files.create(
    file=("questions.jsonl", io.BytesIO("\n".join(map(json.dumps, lines)).encode())), purpose="batch"
)
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(1)
    batch = client.batches.retrieve(batch.id)

# Lines come in any order: go by `custom_id`. Lines that failed are in `batch.error_file_id`.
answers = {}
for line in client.files.content(batch.output_file_id).text.splitlines():
    answer = json.loads(line)
    answers[answer["custom_id"]] = answer["response"]["body"]["choices"][0]["message"]["content"]
for name in questions:
    print(f"{name}: {answers[name]}")
