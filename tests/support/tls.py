"""TLS in front of a server that has none: certificates of an authority of our own, and a proxy that uses them.

In: the address of a redis. Out: a port at which it is reached by TLS alone, by clients with a certificate.
"""

from __future__ import annotations

import contextlib
import select
import socketserver
import ssl
import subprocess
import threading
from pathlib import Path
from socket import AF_UNIX
from socket import socket as connect

import pytest


def make_certificates(folder: Path) -> None:
    """Write ``ca.pem``, and ``server`` and ``client`` as ``.pem`` and ``.key``; skips where there is no openssl."""
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    ca = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    own = "req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -days 2 -keyout ca.key -out ca.pem"
    _openssl(folder, own.split())
    for name in ("server", "client"):
        ask = f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        _openssl(folder, ask.split())
        _openssl(folder, ["x509", "-req", "-in", f"{name}.csr", *ca, "-extfile", "names", "-out", f"{name}.pem"])


def _openssl(folder: Path, arguments: list[str]) -> None:
    try:
        done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here to make certificates")
    assert done.returncode == 0, done.stderr


class TlsProxy:
    """Passes on what it decrypts to a unix socket; on threads of this process.

    Args:
        folder: of `make_certificates`.
        socket: path of the server's.
    """

    def __init__(self, folder: Path, socket: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # Not asyncio's server: it hangs up on a client without a certificate and does not say why.
                with (
                    contextlib.suppress(OSError),
                    context.wrap_socket(self.request, server_side=True) as front,
                    connect(AF_UNIX) as back,
                ):
                    back.connect(str(socket))
                    _pass_on(front, back)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pass_on(front: ssl.SSLSocket, back: connect) -> None:
    """Pass on bytes both ways until one side hangs up."""
    others = {front: back, back: front}
    while True:
        ready = [front] if front.pending() else select.select([front, back], [], [])[0]
        for side in ready:
            data = side.recv(65536)
            if not data:
                return
            others[side].sendall(data)
