"""Be called back: a small server that takes an event only if its signature is right.

It asks one question whose event comes to itself, checks it, fetches the answer and ends. Start Glowl with
`GLOWL_ALLOW_PRIVATE_URLS=true`, since this receiver is on the same machine. With the pocket models it prints::

    response.completed: second
"""

import base64
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import openai
from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("GLOWL_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("GLOWL_API_KEY", "none"),
)
# URLs named in requests are signed with one secret per API key; registered endpoints have their own.
secret = client.post("/webhook_secret", cast_to=object)["signing_secret"]
seen: set[str] = set()
events = []


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to a signed event, 400 to anything else."""

    def do_POST(self) -> None:
        """Check before reading: whoever knows the address can post here."""
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = client.webhooks.unwrap(body.decode(), dict(self.headers.items()), secret=secret)
        except openai.InvalidWebhookSignatureError:
            self.send_response(400)
        else:
            if self.headers["webhook-id"] not in seen:  # an event may come twice
                seen.add(self.headers["webhook-id"])
                events.append(event)
            self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


content = [{"type": "input_text", "text": "Which of the two pictures shows more blue shapes?"}]
for number in (1, 2):
    data = base64.b64encode(Path(f"engines/pocket/samples/more-{number}.png").read_bytes()).decode()
    content.append({"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"})

with HTTPServer(("127.0.0.1", 0), Receiver) as server:
    client.responses.create(
        model="glowl",
        background=True,
        input=[{"role": "user", "content": content}],
        metadata={"webhook_url": f"http://127.0.0.1:{server.server_port}/events"},
    )
    while not events:
        server.handle_request()
response = client.responses.retrieve(events[0].data.id)
print(f"{events[0].type}: {response.output_text}")
