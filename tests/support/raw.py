"""Requests written to a socket, for clients that leave before the answer."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.support.servers import AppServer


def send(
    api: AppServer, path: str, body: dict[str, Any], headers: dict[str, str] | None = None, raw: bytes | None = None
) -> socket.socket:
    """Send a POST request and return the connection, from which nothing was read."""
    raw = raw or json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(raw)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    connection = socket.create_connection(("127.0.0.1", api.port))
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + raw)
    return connection
