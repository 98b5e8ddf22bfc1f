"""The address of redis as Celery's transport wants it, which makes connections of its own.

In: ``REDIS_URL``. Out: a `Broker`: URLs in kombu's form, and its options for TLS and sentinels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from redis.backoff import NoBackoff
from redis.retry import Retry

from engines.http.address import url_host
from router.redis_address import RedisAddress, read
from router.redis_master import SENTINEL_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Broker:
    """What Celery is told.

    Attributes:
        url: ``broker_url``; of several sentinels, with ``;`` between them.
        ssl: ``broker_use_ssl``; None for none.
        options: for ``broker_transport_options``.
    """

    url: str = field(repr=False)
    ssl: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict, repr=False)


def to_broker(redis_url: str) -> Broker:
    """Rewrite an address that `redis_address.check_redis_url` accepts."""
    address = read(redis_url)
    database = address.options.get("db", 0)
    login = _login(address)
    if address.is_unix:
        return Broker(f"redis+socket://{login}{quote(address.options['path'])}?virtual_host={database}")
    # An empty one would leave certificates unchecked.
    ssl = {"ssl_cert_reqs": "required", **address.tls_options} if address.is_tls else None
    if not address.sentinels:
        where = f"{url_host(address.options.get('host', '127.0.0.1'))}:{address.options.get('port', 6379)}"
        return Broker(f"redis://{login}{where}/{database}", ssl)
    # The user and the password are those of redis; kombu reads them from any of these.
    urls = [f"sentinel://{login}{url_host(host)}:{port}/{database}" for host, port in address.sentinels]
    asking = {
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        # The next sentinel is asked instead.
        "retry": Retry(NoBackoff(), 0),
        **address.sentinel_options,
    }
    options = {"master_name": address.service, "sentinel_kwargs": asking}
    return Broker(";".join(urls), ssl, options)


def _login(address: RedisAddress) -> str:
    user, password = (quote(address.options.get(name, ""), safe="") for name in ("username", "password"))
    return f"{user}:{password}@" if user or password else ""
