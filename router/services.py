"""The parts the api's routes use, by name.

In: nothing; `router.bootstrap` fills it. Out: one frozen `Services`, found as ``app.state.services``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from engines.http.balancer import RemoteEngine
from policies.rules import RulesFile
from router.audit.log import AuditLog
from router.auth.authenticator import Authenticator
from router.batches.files import FileStore
from router.batches.store import BatchStore
from router.cache.store import AnswerCache
from router.dispatch import Dispatcher
from router.fetch import SafeFetcher
from router.health import EngineMonitor
from router.idempotency import Idempotency
from router.jobs.events import EventHub
from router.jobs.queue import JobQueue
from router.jobs.store import JobStore
from router.limits.limiter import Limiter
from router.loop.capture import Capture
from router.media import MediaIntake
from router.overload import OverloadWatch
from router.promotion.live import LivePromotions
from router.redis_watch import RedisWatch
from router.settings import Settings
from router.telemetry.meters import UNMETERED, Meters
from router.telemetry.scrape import Scrape
from router.webhooks.store import WebhookStore

if TYPE_CHECKING:
    from engines.traces.sdk import Traces


@dataclass(frozen=True, slots=True)
class Services:
    """What a route may use."""

    settings: Settings
    authenticator: Authenticator
    store: JobStore
    queue: JobQueue
    hub: EventHub
    monitor: EngineMonitor
    overload: OverloadWatch
    dispatcher: Dispatcher
    media: MediaIntake
    fetcher: SafeFetcher
    webhooks: WebhookStore
    webhook_fetcher: SafeFetcher
    files: FileStore
    batches: BatchStore
    rules_file: RulesFile | None
    engines: dict[str, RemoteEngine]
    idempotency: Idempotency
    cache: AnswerCache | None
    limiter: Limiter
    redis_watch: RedisWatch
    promotions: LivePromotions
    capture: Capture
    redis_clients: tuple[Redis, ...]
    audit: AuditLog | None = None
    meters: Meters = UNMETERED
    scrape: Scrape | None = None
    traces: Traces | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)
