"""The parts the api's routes use, by name.

In: nothing; `router.bootstrap` fills it. Out: one frozen `Services`, found as ``app.state.services``.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from engines.client import EngineClient
from policies.rules import RulesFile
from router.dispatch import Dispatcher
from router.fetch import SafeFetcher
from router.health import EngineMonitor
from router.jobs.events import EventHub
from router.jobs.queue import JobQueue
from router.jobs.store import JobStore
from router.media import MediaIntake
from router.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What a route may use."""

    settings: Settings
    store: JobStore
    queue: JobQueue
    hub: EventHub
    monitor: EngineMonitor
    dispatcher: Dispatcher
    media: MediaIntake
    fetcher: SafeFetcher
    rules_file: RulesFile | None
    engines: dict[str, EngineClient]
    redis_clients: tuple[Redis, ...]
