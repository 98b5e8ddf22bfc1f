"""A caller's server that webhooks are posted to."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue


class Receiver:
    """Answers with what is next in ``answers`` (a status, or an event to hang until), 204 when there is nothing."""

    def __init__(self) -> None:
        self.answers: list[int | threading.Event] = []
        self.received: Queue[tuple[dict[str, str], bytes]] = Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = receiver.answers.pop(0) if receiver.answers else 204
                receiver.received.put(({key.lower(): value for key, value in self.headers.items()}, body))
                if isinstance(answer, threading.Event):
                    answer.wait(300)
                    return  # hangs up without an answer
                self.send_response(answer)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def next(self) -> tuple[dict[str, str], bytes]:
        """Wait for the next post."""
        return self.received.get(timeout=300)

    def stop(self) -> None:
        """Be gone."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
