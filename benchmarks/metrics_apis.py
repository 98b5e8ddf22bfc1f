"""Several apis in one process, each on a port of its own: some with metrics, some without.

    python -m benchmarks.metrics_apis PORT=on PORT=off ...      # other settings from the environment, as `glowl api`

In: ports. Out: the product's whole server on each of them, until the process is ended. Two processes of the same code
differ by more than metrics cost, by where their memory happens to lie; what one process serves on two ports does not.
"""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from router.app import create_app
from router.serve import ApiServer
from router.settings import Settings


async def serve(ports: dict[int, bool]) -> None:
    """Serve on each port, with metrics or without."""
    servers = []
    for port, has_metrics in ports.items():
        settings = Settings().model_copy(update={"port": port, "metrics": has_metrics})
        servers.append(ApiServer(create_app(settings), settings))
    gc.collect()
    gc.freeze()
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    uvloop.run(serve({int(port): way == "on" for port, _, way in (each.partition("=") for each in sys.argv[1:])}))
