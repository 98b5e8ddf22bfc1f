"""Clients of redis, as its address wants them: plain, with TLS, over a unix socket, or of the master sentinels name.

In: ``REDIS_URL``. Out: asyncio clients. Every client of the product is made here; Celery's broker, which makes its
own, is told the same by `router.jobs.broker`.
"""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis, UnixDomainSocketConnection
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

from router.redis_address import RedisAddress, read
from router.redis_watch import RedisWatch, WatchedPool

# Redis does one thing at a time; more connections than keep it busy only make more to hand around.
MAX_CONNECTIONS: Final = 32
_TURN_S: Final = 10.0
# A sentinel answers from memory; one that does not is passed over for the next one.
SENTINEL_TIMEOUT_S: Final = 1.0


class Master:
    """Where redis is, as its sentinels know it; asked at each new connection. It is what redis-py takes for its pool.

    Args:
        address: names the sentinels and their service.
        pool: its idle connections are dropped once redis has moved: to a machine that fell silent they would each take
            their timeout to notice.

    Attributes:
        is_master: no replica will do.
        check_connection: nothing is sent first.
    """

    is_master: Final = True
    check_connection: Final = False

    def __init__(self, address: RedisAddress, pool: WatchedPool) -> None:
        self._sentinel = sentinels_of(address)
        self._service = address.service
        self._pool = pool
        self._last: tuple[str, int] | None = None

    async def get_master_address(self) -> tuple[str, int]:
        """Ask the sentinels.

        Raises:
            redis.asyncio.sentinel.MasterNotFoundError: if none that answers knows of one that is up.
        """
        host, port = await self._sentinel.discover_master(self._service)
        found = str(host), int(port)
        last, self._last = self._last, found
        if last is not None and last != found:
            await self._pool.disconnect(inuse_connections=False)
        return found

    async def aclose(self) -> None:
        """Hang up on the sentinels."""
        await self._sentinel.aclose()


class MasterPool(WatchedPool):
    """Connections to the redis that sentinels name.

    Args:
        address: names them.
        options: of `WatchedPool` and of redis-py's pool.
    """

    def __init__(self, *, address: RedisAddress, **options: Any) -> None:
        kind = SentinelManagedSSLConnection if address.is_tls else SentinelManagedConnection
        self._master = Master(address, self)
        super().__init__(connection_class=kind, connection_pool=self._master, **options)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Hang up; with all connections also on the sentinels."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self._master.aclose()


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
        # Commands wait for a connection: the usual pool refuses the hundred-and-first at once, a 503 for a mere crowd.
        "max_connections": MAX_CONNECTIONS,
        "timeout": _TURN_S,
        **address.options,
    }
    if address.sentinels:
        return Redis.from_pool(MasterPool(address=address, **options))
    kind = SSLConnection if address.is_tls else UnixDomainSocketConnection if address.is_unix else Connection
    return Redis.from_pool(WatchedPool(connection_class=kind, **options))


def sentinels_of(address: RedisAddress) -> Sentinel:
    """Return what asks an address' sentinels, one after the other."""
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    # redis-py's own ten retries of a sentinel that is away would take four seconds of every fail-over.
    options = {**timeouts, "retry": Retry(NoBackoff(), 0), **address.sentinel_options}
    return Sentinel(address.sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
