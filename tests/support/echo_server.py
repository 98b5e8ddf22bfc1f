"""An echo engine as a process that takes its time: ``python -m tests.support.echo_server NAME SOCKET DELAY_S``.

The product's own ``--model echo`` answers at once; chaos and benchmarks need answers that take as long as asked for.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from engines.echo import EchoEngine
from engines.server import listening


async def serve(name: str, socket: str, delay_s: float) -> None:
    """Listen until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with listening(EchoEngine(name, delta_delay_s=delay_s), uds=socket):
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], float(sys.argv[3])))
