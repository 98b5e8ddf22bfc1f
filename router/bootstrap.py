"""Putting the parts together: the one place where settings become objects.

In: `Settings`. Out: what the api and the worker work with. Nothing here connects; the first use does.
"""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from engines.client import EngineClient
from policies.rules import Rules, RulesFile, load_preset
from router import tasks
from router.dispatch import Dispatcher
from router.fetch import SafeFetcher
from router.health import EngineMonitor
from router.jobs.events import EventHub
from router.jobs.queue import JobQueue, create_celery
from router.jobs.store import JobStore
from router.media import MediaIntake
from router.routing import Router
from router.services import Services
from router.settings import Settings
from router.webhooks.deliver import Deliverer


def build_services(settings: Settings) -> Services:
    """Build the api's parts.

    Raises:
        policies.rules.RulesError: if the preset does not exist or is wrong.
    """
    rules, rules_file = load_rules_source(settings.preset)
    redis, reader = make_redis(settings), make_redis(settings)
    store = make_store(settings, redis)
    queue = JobQueue(create_celery(settings))
    hub = EventHub(reader, store)
    engines = make_engines(settings)
    monitor = EngineMonitor(engines)
    fetcher = SafeFetcher(settings)
    return Services(
        settings=settings,
        store=store,
        queue=queue,
        hub=hub,
        monitor=monitor,
        dispatcher=Dispatcher(
            engines=engines, store=store, queue=queue, hub=hub, monitor=monitor, router=Router(rules)
        ),
        media=MediaIntake(settings, fetcher),
        fetcher=fetcher,
        rules_file=rules_file,
        engines=engines,
        redis_clients=(redis, reader),
    )


def load_rules_source(preset: str) -> tuple[Callable[[], Rules], RulesFile | None]:
    """Return where the rules come from: a shipped preset by name, or a file, which is read again when it changes.

    Raises:
        policies.rules.RulesError: if there is no such preset, or the file is wrong as it stands.
    """
    if preset.endswith((".yaml", ".yml")):
        file = RulesFile(preset)
        return file.current, file
    rules = load_preset(preset)
    return lambda: rules, None


async def make_context(settings: Settings) -> tasks.Context:
    """Build what a worker's tasks use, on the event loop that will run them."""
    return tasks.Context(
        store=make_store(settings, make_redis(settings)),
        queue=JobQueue(create_celery(settings)),
        engines=make_engines(settings),
        deliverer=Deliverer(SafeFetcher(settings)),
    )


def make_redis(settings: Settings) -> Redis:
    """Return an asyncio client; a lost connection is made again at the next command."""
    # Longer than the event reader's blocking read, short enough that a redis that hangs is a 503 and not a hang.
    client: Redis = Redis.from_url(
        settings.redis_url, socket_connect_timeout=5, socket_timeout=10, health_check_interval=30
    )
    return client


def make_store(settings: Settings, redis: Redis) -> JobStore:
    """Return the job store as the settings want it."""
    return JobStore(
        redis,
        lease_s=settings.lease_s,
        resend_after_s=settings.resend_after_s,
        max_failures=settings.max_attempts,
        job_ttl_s=settings.job_ttl_s,
        blob_ttl_s=settings.blob_ttl_s,
    )


def make_engines(settings: Settings) -> dict[str, EngineClient]:
    """Return a client per engine."""
    return {name: EngineClient(url, timeout_s=settings.engine_timeout_s) for name, url in settings.engine_urls.items()}
