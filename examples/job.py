"""Leave a question in the background, poll it, and read its queue place meanwhile.

With the pocket models the last line it prints is::

    completed: second
"""

import base64
import os
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("GLOWL_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
)
content = [{"type": "input_text", "text": "Which of the two pictures shows more blue shapes?"}]
for number in (1, 2):
    data = base64.b64encode(Path(f"engines/pocket/samples/more-{number}.png").read_bytes()).decode()
    content.append({"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"})

response = client.responses.create(model="glowl", background=True, input=[{"role": "user", "content": content}])
while response.status in ("queued", "in_progress"):
    print(response.status, response.hybrid.get("queue"))
    time.sleep(1)
    response = client.responses.retrieve(response.id)
print(f"{response.status}: {response.output_text}")
