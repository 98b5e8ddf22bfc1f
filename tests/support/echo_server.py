"""An echo engine as a process that takes its time.

    python -m tests.support.echo_server NAME SOCKET WORD_S [PREFILL_S [LOAD_S]]

The product's own ``--model echo`` answers at once; chaos and benchmarks need answers that take as long as asked for.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from engines.base import Delta, GenerationRequest
from engines.echo import EchoEngine
from engines.http.server import listening


class SlowEcho(EchoEngine):
    """An echo that waits before its first word, as if it read the question.

    Args:
        name: role in the pair.
        word_s: pause before every word.
        prefill_s: pause before the first one.
        load_s: time until it is ready at all, as if it loaded weights.
    """

    def __init__(self, name: str, word_s: float, prefill_s: float, load_s: float) -> None:
        super().__init__(name, delta_delay_s=word_s, context_tokens=65_536)
        self._prefill_s = prefill_s
        self._load_s = load_s

    async def start(self) -> None:
        """Be ready after a while."""
        await asyncio.sleep(self._load_s)
        await super().start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Say the request back after a while."""
        await asyncio.sleep(self._prefill_s)
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                yield delta


async def serve(name: str, socket: str, word_s: float, prefill_s: float = 0.0, load_s: float = 0.0) -> None:
    """Listen until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with listening(SlowEcho(name, word_s, prefill_s, load_s), uds=socket):
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])))
