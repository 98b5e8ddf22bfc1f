"""Clients of redis, as its address wants them: plain, with TLS, over a unix socket, or of the master sentinels name.

In: ``REDIS_URL``. Out: asyncio clients. Every client of the product is made here; Celery's broker, which makes its
own, is told the same by `router.jobs.broker`.
"""

from __future__ import annotations

import weakref
from typing import Any, Final

from redis.asyncio import Redis, UnixDomainSocketConnection
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from router.redis_address import RedisAddress, read
from router.redis_master import MasterWatch, watch_master
from router.redis_watch import RedisWatch, WatchedPool

# Redis does one thing at a time; more connections than keep it busy only make more to hand around.
MAX_CONNECTIONS: Final = 32
_TURN_S: Final = 10.0


class MasterPool(WatchedPool):
    """Connections to the redis that sentinels name. It is also what redis-py's connections ask for it.

    Args:
        address: names the sentinels and their service.
        options: of `WatchedPool` and of redis-py's pool.

    Attributes:
        is_master: no replica will do.
        check_connection: nothing is sent first.
    """

    is_master: Final = True
    check_connection: Final = False

    def __init__(self, *, address: RedisAddress, **options: Any) -> None:
        kind = SentinelManagedSSLConnection if address.is_tls else SentinelManagedConnection
        self._address = address
        self._master: MasterWatch | None = None
        super().__init__(connection_class=kind, connection_pool=weakref.proxy(self), **options)

    async def get_master_address(self) -> tuple[str, int]:
        """Ask the sentinels.

        Raises:
            redis.asyncio.sentinel.MasterNotFoundError: if none that answers knows of one that is up.
        """
        if self._master is None:
            self._master = watch_master(self._address)
            self._master.join(self)
        return await self._master.ask()

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Hang up; with all connections also on the sentinels."""
        if inuse_connections and self._master is not None:
            master, self._master = self._master, None
            await master.leave(self)
        await super().disconnect(inuse_connections)


class Client(Redis):
    """Redis-py's, which learns from one connection that died without a word to try no other that is as old."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command."""
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisTimeoutError:
            if isinstance(self.connection_pool, WatchedPool):
                self.connection_pool.hang_up_idle()
            raise


def make_client(
    url: str | RedisAddress,
    *,
    timeout_s: float,
    connect_timeout_s: float | None = None,
    watch: RedisWatch | None = None,
    num_replicas: int = 0,
) -> Redis:
    """Return a client; a lost connection is made again at the next command.

    Args:
        url: as `redis_address.check_redis_url` accepts it, or what was read of it.
        timeout_s: of a command.
        connect_timeout_s: of a connection; None for the same.
        watch: commands fail at once while it finds redis silent; None sends them all the same.
        num_replicas: that must have what is announced (`GLOWL_REDIS_WAIT`).
    """
    address = read(url) if isinstance(url, str) else url
    options = {
        "watch": watch,
        "num_replicas": num_replicas,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s if connect_timeout_s is None else connect_timeout_s,
        "health_check_interval": 30,
        # With them, of which only managed services make use, redis-py hands out idle connections that have been closed:
        # after a restart of redis each would fail one command.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        # Commands wait for a connection: the usual pool refuses the hundred-and-first at once, a 503 for a mere crowd.
        "max_connections": MAX_CONNECTIONS,
        "timeout": _TURN_S,
        **address.options,
    }
    if address.sentinels:
        return Client.from_pool(MasterPool(address=address, **options))
    kind = SSLConnection if address.is_tls else UnixDomainSocketConnection if address.is_unix else Connection
    return Client.from_pool(WatchedPool(connection_class=kind, **options))
