"""Whether an answer has begun: after that it can only be cut, since its status has been sent.

In: where an answer is sent to. Out: the same, which remembers.
"""

from __future__ import annotations

from starlette.types import Message, Send


class BegunSend:
    """Passes messages on.

    Args:
        send: to the client.

    Attributes:
        has_begun: something was sent.
    """

    def __init__(self, send: Send) -> None:
        self.has_begun = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        self.has_begun = True
        await self._send(message)
