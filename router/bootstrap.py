"""Putting the parts together: the one place where settings become objects.

In: `Settings`. Out: what the api and the worker work with. Nothing here connects; the first use does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis

from engines.base import Engine
from engines.http.balancer import RemoteEngine, connect
from policies import multi_hop_weights
from policies.rules import Rules, RulesFile, load_preset
from router.attend import AttendedEngine
from router.audit.log import AuditLog
from router.auth.authenticator import Authenticator
from router.auth.store import OwnerStore
from router.batches.files import FileStore
from router.batches.store import BatchStore
from router.cache.flights import Flights
from router.cache.store import AnswerCache
from router.dispatch import Dispatcher
from router.fetch import SafeFetcher
from router.health import EngineMonitor, values_of
from router.idempotency import Idempotency
from router.jobs.cancels import CancelWatch
from router.jobs.events import EventHub
from router.jobs.queue import JobQueue, create_celery
from router.jobs.store import JobStore
from router.limits.limiter import Limiter
from router.loop.capture import Capture, to_terms
from router.loop.records import Terms
from router.media import MediaIntake
from router.overload import OverloadWatch
from router.promotion.live import LivePromotions
from router.promotion.store import PromotionStore
from router.redis_clients import make_client
from router.redis_watch import LOOK_TIMEOUT_S, RedisWatch
from router.room import Room
from router.routing import Router
from router.second_looks import SecondLooks
from router.services import Services
from router.settings import Settings, SettingsError
from router.telemetry.fleet import Fleet
from router.telemetry.meters import UNMETERED, CountingMeters, Meters
from router.telemetry.scrape import Scrape
from router.webhooks.backoff import Backoff
from router.webhooks.deliver import Deliverer
from router.webhooks.store import WebhookStore
from router.work.context import Context
from router.work.local import LocalRuns
from router.work.reaper import wake

if TYPE_CHECKING:
    from engines.traces.sdk import Traces
    from router.auth.tokens import TokenVerifier

# Longer than the event reader's blocking read, and than a redis takes for a large picture on a slow disk. Whether a
# write that had no answer was done is not known, so it is not given up early.
_REDIS_TIMEOUT_S: Final = 10.0
# What only reads may be given up, and asked again.
_REDIS_READ_TIMEOUT_S: Final = 2.0


def build_services(settings: Settings, traces: Traces | None = None) -> Services:
    """Build the api's parts.

    Args:
        settings: of this process.
        traces: of this process; None keeps none.

    Raises:
        policies.rules.RulesError: if the preset does not exist or is wrong.
        SettingsError: if tokens could not be checked with these settings, the audit log not be written, or the
            multi-hop weights not be read.
    """
    rules, rules_file = load_rules_source(settings.preset)
    try:
        multi_hop_weights.use_file(settings.multi_hop_weights)
    except multi_hop_weights.WeightsError as error:
        raise SettingsError(f"GLOWL_MULTI_HOP_WEIGHTS: {error}") from None
    meters = make_meters(settings)
    looks = make_redis(settings, timeout_s=LOOK_TIMEOUT_S)
    watch = RedisWatch(looks)
    redis, reader = make_redis(settings, watch=watch), make_redis(settings)
    reads = make_redis(settings, watch=watch, timeout_s=_REDIS_READ_TIMEOUT_S)
    store = make_store(settings, redis, reads)
    queue = JobQueue(create_celery(settings), watch=watch)
    hub = EventHub(reader, store)
    engines = make_engines(settings)
    monitor = EngineMonitor(engines, on_up=lambda engine: wake(store, queue, engine))
    overload = OverloadWatch(monitor, store.backlogs, lambda: rules().max_queue_age_s)
    webhooks, webhook_fetcher = make_webhook_store(settings, redis, reads), make_webhook_fetcher(settings)
    ended, news = make_redis(settings), make_redis(settings)
    asked = _traced(_attended(engines, monitor), traces, monitor)
    context = Context(
        store,
        queue,
        asked,
        make_deliverer(settings, webhooks, webhook_fetcher),
        cancels=CancelWatch(ended),
        traces=traces,
    )
    fetcher = SafeFetcher(settings)
    cache = make_cache(settings, reads, lambda: revisions_of(monitor), rules, meters)
    authenticator = make_authenticator(settings, reads, news)
    promotions = LivePromotions(PromotionStore(reads), monitor.info)
    capture = make_capture(settings, authenticator, lambda: revisions_of(monitor))
    return Services(
        settings=settings,
        authenticator=authenticator,
        store=store,
        queue=queue,
        hub=hub,
        monitor=monitor,
        overload=overload,
        dispatcher=Dispatcher(
            engines=asked,
            store=store,
            queue=queue,
            hub=hub,
            monitor=monitor,
            router=Router(rules, meters),
            max_images=settings.max_images,
            max_text_chars=settings.max_text_chars,
            runner=LocalRuns(context),
            health=overload.health,
            cache=cache,
            flights=None if cache is None else Flights(),
            watch=watch,
            promoted=promotions.apply,
            capture=capture,
            looks=SecondLooks(
                settings.second_looks,
                shadow=promotions.shadow,
                keeps=lambda call: call.is_captured,
            ),
        ),
        promotions=promotions,
        media=MediaIntake(settings, fetcher, meters),
        fetcher=fetcher,
        webhooks=webhooks,
        webhook_fetcher=webhook_fetcher,
        files=make_files(settings, redis, reads, authenticator),
        batches=make_batches(settings, redis, reads, authenticator),
        rules_file=rules_file,
        engines=engines,
        cache=cache,
        limiter=make_limiter(settings, reads, meters),
        idempotency=Idempotency(redis, watch=watch),
        redis_watch=watch,
        capture=capture,
        audit=make_audit(settings),
        meters=meters,
        traces=traces,
        scrape=make_scrape(meters, redis, monitor),
        redis_clients=(redis, reads, reader, ended, news, looks),
    )


def make_meters(settings: Settings) -> Meters:
    """Return what counts and times all that happens; it does nothing if the settings want no metrics."""
    return CountingMeters() if settings.metrics else UNMETERED


def make_scrape(meters: Meters, redis: Redis, monitor: EngineMonitor) -> Scrape | None:
    """Return what answers who asks for metrics; None if nothing is counted."""
    if not isinstance(meters, CountingMeters):
        return None
    return Scrape(meters, Fleet(redis, meters), lambda: values_of(monitor))


def make_authenticator(settings: Settings, redis: Redis, listener: Redis) -> Authenticator:
    """Return what knows the keys, owners and tokens of this service."""
    return Authenticator(
        settings.api_keys,
        OwnerStore(redis),
        listener,
        tokens=make_tokens(settings),
        is_open=settings.is_only_local,
        is_insecure=settings.insecure,
    )


def make_limiter(settings: Settings, redis: Redis, meters: Meters = UNMETERED) -> Limiter:
    """Return what charges requests; a charge is given up as soon as a read, and then counted in this process."""
    return Limiter(
        redis,
        each_owner=settings.limits,
        each_key=settings.key_limits,
        each_address=settings.address_limits,
        meters=meters,
    )


def make_files(settings: Settings, redis: Redis, reads: Redis, authenticator: Authenticator) -> FileStore:
    """Return the store of uploads and of batches' outputs as the settings want it."""
    return FileStore(
        redis,
        max_file_bytes=settings.max_file_bytes,
        max_total_bytes=settings.max_stored_bytes,
        ttl_s=settings.file_ttl_s,
        room=make_room(settings, reads),
        reads=reads,
        retention_of=authenticator.retention_of,
    )


def make_batches(settings: Settings, redis: Redis, reads: Redis, authenticator: Authenticator) -> BatchStore:
    """Return the store of batches as the settings want it."""
    return BatchStore(
        redis,
        lease_s=settings.lease_s,
        ttl_s=settings.job_ttl_s,
        reads=reads,
        retention_of=authenticator.retention_of,
    )


def _attended(engines: Mapping[str, RemoteEngine], monitor: EngineMonitor) -> dict[str, Engine]:
    """The monitor asks all the time; a call under way hears from it that its engine is gone."""
    return {
        name: AttendedEngine(engine, partial(_is_up, monitor, name), partial(monitor.mark_silent, name))
        for name, engine in engines.items()
    }


def _traced(
    engines: dict[str, Engine], traces: Traces | None, monitor: EngineMonitor | None = None
) -> dict[str, Engine]:
    """Let each answer of an engine be a span, where traces are kept; else nothing is put between."""
    if traces is None:
        return engines
    from engines.traces.engine import TracedEngine

    return {
        name: TracedEngine(engine, traces, name, None if monitor is None else partial(monitor.info, name))
        for name, engine in engines.items()
    }


def make_tokens(settings: Settings) -> TokenVerifier | None:
    """Return what checks tokens; None if the settings say nothing of them, and then nothing of it is imported.

    Raises:
        SettingsError: if tokens could not be checked with these settings.
    """
    if not settings.names_tokens:
        return None
    from router.auth.tokens import make_verifier

    return make_verifier(settings)


def make_audit(settings: Settings) -> AuditLog | None:
    """Return the audit log; None if the settings want none.

    Raises:
        SettingsError: if its folder cannot be written.
    """
    if settings.audit == "off":
        return None
    folder = settings.audit_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(f"GLOWL_AUDIT: {folder} cannot be written: {error.strerror}") from None
    return AuditLog(folder, keep_days=settings.audit_days)


def make_capture(
    settings: Settings, authenticator: Authenticator, revisions: Callable[[], Mapping[str, str]] = dict
) -> Capture:
    """Return what keeps the exchanges of owners who let us; it makes its folder when the first one is kept."""
    longest_s = settings.capture_days * 86_400.0
    by_setting = {owner: to_terms(captures, None, keep_s=longest_s) for owner, captures in settings.capture}

    def terms_of(owner_id: str) -> Terms:
        owner = authenticator.record_of(owner_id)
        if owner is None:
            return by_setting.get(owner_id, Terms())
        keep_s = min(longest_s, owner.retention_s or longest_s)
        captures = owner.captures or by_setting.get(owner_id, Terms()).captures
        return to_terms(captures, owner.redacts, keep_s=keep_s)

    return Capture(settings.loop_dir, terms_of, revisions=revisions)


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


async def _is_up(monitor: EngineMonitor, name: str) -> bool:
    return monitor.is_up(name)


async def make_context(settings: Settings, traces: Traces | None = None) -> Context:
    """Build what a worker's tasks use, on the event loop that will run them."""
    engines = make_engines(settings)
    asked: dict[str, Engine] = {name: AttendedEngine(engine, engine.is_ready) for name, engine in engines.items()}
    return Context(
        store=make_store(settings, make_redis(settings)),
        queue=JobQueue(create_celery(settings)),
        engines=_traced(asked, traces),
        traces=traces,
        looks={name: engine.is_ready for name, engine in engines.items()},
        deliverer=make_deliverer(
            settings, make_webhook_store(settings, make_redis(settings)), make_webhook_fetcher(settings), traces
        ),
        cancels=CancelWatch(make_redis(settings)),
        cache=make_cache(settings, make_redis(settings)),
    )


def make_redis(settings: Settings, *, watch: RedisWatch | None = None, timeout_s: float = _REDIS_TIMEOUT_S) -> Redis:
    """Return an asyncio client of the settings' redis.

    Args:
        settings: of this process.
        watch: commands fail at once while it finds redis silent; None sends them all the same.
        timeout_s: of a command.
    """
    return make_client(
        settings.redis_url,
        timeout_s=timeout_s,
        connect_timeout_s=min(timeout_s, 5.0),
        watch=watch,
        num_replicas=settings.redis_wait,
    )


def make_store(settings: Settings, redis: Redis, reads: Redis | None = None) -> JobStore:
    """Return the job store as the settings want it.

    Args:
        settings: of this process.
        redis: writes.
        reads: for what only reads; None for the same client.
    """
    return JobStore(
        redis,
        reads=reads,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        job_ttl_s=settings.job_ttl_s,
        blob_ttl_s=settings.blob_ttl_s,
        expires_s=settings.job_expires_s,
        max_unfinished=settings.max_unfinished_jobs,
        max_picture_bytes=settings.max_picture_bytes,
        grace_s=settings.draft_patience_s,
        merge_patience_s=settings.merge_patience_s,
        engine_patience_s=settings.engine_patience_s,
        room=make_room(settings, reads or redis),
    )


def make_cache(
    settings: Settings,
    redis: Redis,
    revisions: Callable[[], Mapping[str, str]] = dict,
    rules: Callable[[], Rules] | None = None,
    meters: Meters = UNMETERED,
) -> AnswerCache | None:
    """Return the cache of answers as the settings want it; None if there is to be none.

    Args:
        settings: of this process.
        redis: keeps them.
        revisions: says what is known of each engine's model; what looks for answers needs it.
        rules: of the policy; likewise.
        meters: told of what is looked up.
    """
    if settings.cache_bytes == 0:
        return None
    return AnswerCache(
        redis,
        max_bytes=settings.cache_bytes,
        ttl_s=min(settings.cache_ttl_s, settings.job_ttl_s),
        revisions=revisions,
        rules=rules,
        room=make_room(settings, redis),
        meters=meters,
    )


def revisions_of(monitor: EngineMonitor) -> dict[str, str]:
    """Say by engine what its answers depend on beside the request, as far as it was ever heard of."""
    infos = {name: monitor.info(name) for name in ("glm", "owl2")}
    return {name: f"{info.model_id}@{info.revision}" for name, info in infos.items() if info is not None}


def make_room(settings: Settings, redis: Redis) -> Room:
    """Return what says whether redis has room; its disk is looked at if it is the redis that `glowl up` starts."""
    is_near = settings.redis_url.startswith(("unix://", "redis://127.0.0.1"))
    return Room(redis, disk=settings.data_dir / "redis" if is_near else None)


def make_webhook_store(settings: Settings, redis: Redis, reads: Redis | None = None) -> WebhookStore:
    """Return the store of endpoints and deliveries as the settings want it."""
    return WebhookStore(
        redis,
        reads=reads,
        configured_secrets=[secret.get_secret_value() for secret in settings.webhook_secret],
    )


def make_deliverer(
    settings: Settings, store: WebhookStore, fetcher: SafeFetcher, traces: Traces | None = None
) -> Deliverer:
    """Return what posts webhooks as the settings want it."""
    backoff = Backoff(settings.webhook_delays_s)
    return Deliverer(store, fetcher, backoff, timeout_s=settings.webhook_timeout_s, traces=traces)


def make_webhook_fetcher(settings: Settings) -> SafeFetcher:
    """Return a fetcher that gives receivers of webhooks their own time."""
    return SafeFetcher(settings.model_copy(update={"fetch_timeout_s": settings.webhook_timeout_s}))


def make_engines(settings: Settings) -> dict[str, RemoteEngine]:
    """Return a client per engine, which may have several servers."""
    return {name: make_engine(settings, name, urls) for name, urls in settings.engine_urls.items()}


def make_engine(settings: Settings, name: str, urls: Sequence[str]) -> RemoteEngine:
    """Return the client of one engine's servers, or of some of them."""
    key = settings.glm_api_key.get_secret_value() if settings.glm_api_key and name == "glm" else None
    return connect(
        urls,
        timeout_s=settings.engine_timeout_s,
        answer_timeout_s=settings.answer_timeout_s,
        name=name,
        api_key=key,
        model=settings.glm_model if name == "glm" else None,
    )
