"""A connection that has become a WebSocket: still counted among the connections, and let end its turn at shutdown.

In: the bytes of a connection after its handshake. Out: messages for the application. Its own module, as the library
behind it is loaded with the first such connection only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.http11 import Request

log = logging.getLogger("router.sockets")

_NO_UTF8: Final = 1007
# In the scope's state: set once the server stops; the application then ends what runs, and closes.
ENDING: Final = "glowl.ending"


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: uvicorn's.
        lost: called when the connection is gone.
        max_bytes: of a message.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        lost: Callable[[], None],
        max_bytes: int,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = log
        self.conn.max_message_size = max_bytes
        self._lost = lost
        self._ending = asyncio.Event()

    def handle_connect(self, event: Request) -> None:
        """Begin the application, which is told when to end."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["state"][ENDING] = self._ending

    async def send(self, message: ASGISendEvent) -> None:
        """Send; uvicorn takes a handshake that the application refused for one that it forgot, and logs an error."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """Hand a message on; one whose text is no UTF-8 is its sender's fault, and no error of this service."""
        if self.curr_msg_data_type == "text":
            text = b"".join(self.frames)
            try:
                text.decode()
            except UnicodeDecodeError:
                self.frames = []
                log.info("a text that is not UTF-8 ends its WebSocket")
                self.conn.send_close(_NO_UTF8)
                self.handle_parser_exception()
                return
            self.frames = [text]
        super().send_receive_event_to_app()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        super().connection_lost(exc)
        self._lost()

    def shutdown(self) -> None:
        """Ask the application to end: the server waits for that as long as for any answer."""
        self._ending.set()
        if not self.handshake_complete:
            super().shutdown()
