"""The api process: FastAPI with everything wired.

In: `Settings`. Out: an ASGI application. Nothing here or below imports torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from router.allocator import give_back_forever
from router.api import errors
from router.api.batch_lines import make_runner
from router.api.openapi import describe, serve_docs
from router.api.routes import (
    batches,
    chat,
    compat,
    feedback,
    files,
    jobs,
    messages,
    metrics,
    page,
    responses,
    review,
    system,
    webhooks,
)
from router.batches.runner import BatchRunner
from router.bootstrap import build_services
from router.leftovers import end_tasks
from router.limits.addresses import Proxies
from router.loop.collect import keep_forever
from router.middleware.audited import Audited
from router.middleware.callers import Identified
from router.middleware.encodings import Unpacked
from router.middleware.ending import EndingAnswered
from router.middleware.hosts import Cors, HostsChecked
from router.middleware.hot import HotRoutes
from router.middleware.ids import BugsAnswered, RequestIds
from router.middleware.limits import Bounded
from router.middleware.metered import Metered
from router.middleware.paths import HeadAnswered, PathsTidied
from router.middleware.reads import ReadsInTurn
from router.middleware.sockets import Sockets
from router.middleware.timed import Timed
from router.services import Services
from router.settings import Settings
from router.webhooks.sweeper import sweep_forever
from router.work.reaper import reap_forever

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

log = logging.getLogger(__name__)

# What nearly all requests ask.
_HOT_ENDPOINTS: Final = (chat.create_chat_completion, responses.create_response, messages.create_message)
HOT: Final = [
    route
    for each in (chat.routes, responses.routes, messages.routes)
    for route in each.routes
    if isinstance(route, APIRoute) and route.endpoint in _HOT_ENDPOINTS
]


def create_app(settings: Settings | None = None, traces: Traces | None = None) -> FastAPI:
    """Build the application.

    Args:
        settings: None reads the environment.
        traces: of this process; None keeps none.

    Raises:
        policies.rules.RulesError: if the configured preset is wrong.
        router.settings.SettingsError: if the settings cannot work together, or with what they name.
    """
    services = build_services(settings or Settings(), traces)
    runner = make_runner(services)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with _running(services, runner):
            yield

    app = FastAPI(
        title="Glowl",
        summary="GLM-4.6V-Flash answers at once, mPLUG-Owl2 goes deeper, one OpenAI-compatible endpoint.",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # OpenTelemetry calls cost a tenth and more of a small request even when nobody collects them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    app.state.batch_runner = runner
    errors.install(app)
    asked, stored = (chat, responses, messages, feedback, review, jobs), (files, batches)
    for module in (*asked, *stored, compat, system, metrics, webhooks, page):
        app.include_router(module.routes)
    describe(app)
    serve_docs(app)
    # The last one added is the outermost.
    app.add_middleware(HotRoutes, routes=HOT, handlers=app.exception_handlers)
    app.add_middleware(BugsAnswered, to_response=errors.answer_bug)
    app.add_middleware(EndingAnswered, draining=services.draining)
    app.add_middleware(HeadAnswered)
    app.add_middleware(PathsTidied)
    app.add_middleware(Unpacked, settings=services.settings)
    app.add_middleware(ReadsInTurn)
    app.add_middleware(Metered, limiter=services.limiter)
    app.add_middleware(Bounded, settings=services.settings)
    app.add_middleware(
        Identified, authenticator=services.authenticator, proxies=Proxies(services.settings.trusted_proxies)
    )
    app.add_middleware(Cors, origins=services.settings.cors_origins)
    app.add_middleware(HostsChecked, settings=services.settings, authenticator=services.authenticator)
    if services.audit is not None:
        is_required = services.settings.audit == "required"
        texts_of = services.settings.audit_text
        app.add_middleware(Audited, log=services.audit, is_required=is_required, with_text=texts_of)
    if services.scrape is not None:
        app.add_middleware(Timed, meters=services.meters)
    if traces is not None:
        from router.middleware.traced import Traced

        app.add_middleware(Traced, traces=traces)
    app.add_middleware(EndingAnswered, draining=services.draining)  # for what waits in the layers between
    app.add_middleware(RequestIds)
    app.add_middleware(Sockets, settings=services.settings)
    return app


@contextlib.asynccontextmanager
async def _running(services: Services, runner: BatchRunner) -> AsyncIterator[None]:
    if services.audit is not None:
        services.audit.start()
    await services.redis_watch.start()
    await services.authenticator.start()
    await services.hub.start()
    await services.monitor.start()
    await services.promotions.start()
    await services.overload.start()
    if services.scrape is not None:
        services.scrape.begin()
    healers = [
        asyncio.create_task(
            reap_forever(
                services.store,
                services.queue,
                down=services.monitor.unheard,
                ticket_check_s=services.settings.resend_after_s,
            ),
            name="reaper",
        ),
        asyncio.create_task(sweep_forever(services.webhooks, services.queue), name="webhook-sweeper"),
        asyncio.create_task(keep_forever(services.capture, services.store), name="capture"),
        asyncio.create_task(runner.run_forever(), name="batch-runner"),
        asyncio.create_task(give_back_forever(), name="memory"),
    ]
    try:
        yield
    finally:
        await end_tasks(*healers)
        await services.dispatcher.aclose()
        if services.scrape is not None:
            await services.scrape.aclose()
        await services.limiter.aclose()
        await services.idempotency.aclose()
        await services.overload.aclose()
        await services.promotions.aclose()
        await services.monitor.aclose()
        await services.hub.aclose()
        await services.fetcher.aclose()
        await services.webhook_fetcher.aclose()
        for engine in services.engines.values():
            await engine.aclose()
        await services.authenticator.aclose()
        await services.redis_watch.aclose()
        for client in services.redis_clients:
            await client.aclose()
        if services.audit is not None:
            await asyncio.to_thread(services.audit.close)
        await asyncio.to_thread(services.capture.close)
