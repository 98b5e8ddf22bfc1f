"""Tell the service manager that this process is ready: systemd takes a unit of ``Type=notify`` as started from then on.

In: a state, such as ``READY=1``. Out: one datagram to the socket that ``NOTIFY_SOCKET`` names; without one, nothing.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state; a socket that is gone is a warning, since the process itself is well.

    Source: systemd's sd_notify(3); a name that begins with ``@`` is in the abstract namespace.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), path)
    except OSError as error:
        log.warning("cannot tell %s of %s: %s", address, state, error)
