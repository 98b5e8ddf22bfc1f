"""Dispatch: a routed call runs now on GLM, or becomes a job.

In: a `Call`. Out: `Running`: the job as it is now and the stream of its events, the same kind for both routes, so that
everything after this step reads one thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engines.adapter_names import model_with
from engines.base import (
    Delta,
    Engine,
    EngineError,
    EngineInfo,
    EngineUnavailableError,
    GenerationFailedError,
    GenerationRequest,
    TextPart,
)
from policies.decision import Health
from policies.rules import Rules
from router import texts
from router.answers.groups import with_degraded
from router.begun import as_begun
from router.cache.answers import KeptAnswer
from router.cache.flights import Flights, SharedStream, flight_of
from router.cache.keys import CacheKey, is_repeatable
from router.cache.store import AnswerCache, KeptAs
from router.call import Call, pictures_first
from router.costs import to_cost
from router.direct import FAST_UNIT, DirectAnswer, DirectStream, Keeping, Sharing, as_accepted, not_stored, to_tell
from router.errors import BadRequestError, NotCachedError, QueueUnavailableError
from router.failover import FALLBACK, may_hand_over, to_router_error, with_failure, without
from router.health import EngineMonitor
from router.jobs.events import EventHub, replay
from router.jobs.facts import of_answer
from router.jobs.job import BranchPlan, Event, Job, JobSpec, Terms
from router.jobs.queue import JobQueue
from router.jobs.specs import to_spec
from router.jobs.store import JobStore
from router.later import Later
from router.leftovers import Leftovers
from router.limits.meters import Cost
from router.loop.capture import Capture
from router.output_format import with_instruction
from router.planning import DRAFT_UNIT, check_images, plan_answer, plan_job
from router.redis import may_be_done, while_heard
from router.redis_watch import RedisWatch
from router.routing import Routed, Router
from router.second_looks import SecondLooks, ask, with_draws
from router.work.local import EarlyStream, LocalRuns
from router.work.transcript import Piece, Transcript

_SMALL_BYTES = 1 << 20
_MANY_TURNS = 64
# At most this many drafts run in this process; the rest go to a worker, which keeps GLM's queue short.
_MAX_LOCAL_DRAFTS = 32

log = logging.getLogger(__name__)


@dataclass
class Running:
    """A job under way.

    Attributes:
        job: the record as it was when this was made.
        events: from the first on; ends after ``end``. Close it when no client reads any more: a fast answer stops, a
            job goes on.
        is_queued: it is a job in the queue; otherwise the answer lives and dies with ``events``.
        is_replayed: it was begun by an earlier request with the same ``Idempotency-Key``.
        began_at: when its caller began to wait, as of `time.monotonic`.
        seen: the record as it was last read for this caller; None if it was not.
    """

    job: Job
    events: AsyncGenerator[Event, None]
    is_queued: bool
    is_replayed: bool = False
    began_at: float = field(default_factory=time.monotonic)
    seen: Job | None = None
    _finished: list[Job] = field(default_factory=list)

    def finished(self) -> Job | None:
        """The record of a fast answer after its ``end`` event."""
        return self._finished[0] if self._finished else None


class Dispatcher:
    """Sends calls where the policy says.

    Args:
        engines: by name.
        store: the job records.
        queue: sends units to the workers.
        hub: follows jobs.
        monitor: what is known of the engines.
        router: decides.
        max_images: most pictures in one conversation; None leaves that to the engines.
        max_text_chars: longest text of one conversation; None leaves that to the engines.
        runner: runs the drafts of callers who wait for the first word in this process; None leaves them to the workers.
        health: of the engines, for one call; None: what the monitor knows, which is no more than who is up.
        cache: of answers; None keeps none.
        flights: lets equal requests share a run of GLM; None lets none.
        watch: of redis; None waits for redis as long as its client does.
        looks: asks some questions again in idle time; None asks none.
        promoted: gives a call the adapter that answers for the model it asks for; None leaves calls as they are.
        capture: keeps what owners let us; None keeps nothing.
    """

    def __init__(
        self,
        *,
        engines: Mapping[str, Engine],
        store: JobStore,
        queue: JobQueue,
        hub: EventHub,
        monitor: EngineMonitor,
        router: Router,
        max_images: int | None = None,
        max_text_chars: int | None = None,
        runner: LocalRuns | None = None,
        health: Callable[[Call], Health] | None = None,
        cache: AnswerCache | None = None,
        flights: Flights | None = None,
        watch: RedisWatch | None = None,
        promoted: Callable[[Call], Call] | None = None,
        looks: SecondLooks | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._engines = engines
        self._store = store
        self._queue = queue
        self._hub = hub
        self._monitor = monitor
        self._router = router
        self._max_images = max_images
        self._max_text_chars = max_text_chars
        self._runner = runner
        self._health = health or (lambda _call: monitor.health())
        self._cache = cache
        self.flights = flights
        self._watch = watch
        self._promoted = promoted or (lambda call: call)
        self._looks = looks or SecondLooks()
        self._capture = capture
        self._leftovers = Leftovers()
        self._closing = asyncio.Event()
        self.do_later = Later(self._leftovers, self._closing).do

    def route(self, call: Call, rules: Rules | None = None) -> Routed:
        """Decide only.

        Args:
            call: what is asked.
            rules: to decide by; None for those in use.

        Raises:
            BadRequestError: if the conversation is longer than any engine could read.
        """
        self._check_text(call)
        return self._router.route(call, self._health(call), rules)

    async def start(self, call: Call) -> Running:
        """Decide and begin.

        A streamed fast call returns when its first token is there, any other when its answer is, so that what is wrong
        with it is still a proper error. If GLM is gone or full, stops answering or answers with rubbish, the call is
        decided again with that knowledge.

        Raises:
            EngineFailedError: if no engine can take it.
            QueueUnavailableError: if it must become a job and redis does not answer.
            RateLimitError: if a limit of its caller is reached.
            BadRequestError: if there are too many pictures or too much text.
            NotCachedError: if only a cached answer was wanted, and there is none.
        """
        began_at = time.monotonic()
        self._check_number(call)
        call = self._promoted(call)
        key = self._cache.to_key(call) if self._cache and (call.cache.reads or call.cache.writes) else None
        if self._cache and key and call.cache.reads:
            kept = await self._cache.find(key, max_age_s=call.cache.max_age_s)
            if kept is not None:
                if call.admission is not None:  # it takes no engine any tokens
                    await call.admission.charge(Cost(requests=0 if call.batch_id else 1))
                running = await give_again(self._keeping(call, None), call, kept)
                running.began_at = began_at
                self._router.meters.answered(of_answer(running.job))
                if self._capture is not None:
                    self._capture.add(running.job, call.images)
                return running
        if call.cache.is_all:
            raise NotCachedError(texts.NOT_CACHED)
        routed = self.route(call)
        if len(call.messages) > _MANY_TURNS:
            await asyncio.sleep(0)  # with thousands of turns, the next step blocks as long as the last
        try:
            return await self._begin(call, routed, key, began_at)
        except BaseException:
            if call.admission is not None:
                await call.admission.close()
            raise

    async def _begin(self, call: Call, routed: Routed, key: CacheKey | None, began_at: float) -> Running:
        if routed.decision.route == "deep" or call.is_background:
            return await self._enqueue(call, routed, key)
        try:
            return await self._run_now(call, routed, key)
        except FALLBACK as error:
            log.warning("glm failed at a direct answer: %s", error.for_operators)
            if isinstance(error, EngineUnavailableError):
                self._monitor.mark_down("glm")
            if may_hand_over(call, error):
                # Where one engine is restarted after the other, it has come up since the last look.
                await self._monitor.look_again("owl2")
            health = without(self._health(call), "glm")
            routed = with_failure(self._router.route(call, health), error)
            if routed.decision.route == "deep" and may_hand_over(call, error):
                running = await self._enqueue(call, routed, key, health)
                running.began_at = began_at
                return running
            raise to_router_error(error) from error
        except EngineError as error:
            raise to_router_error(error) from error

    def _check_text(self, call: Call) -> None:
        if self._max_text_chars is not None:
            check_num_chars(
                sum(len(part.text) for each in call.messages for part in each.parts if isinstance(part, TextPart)),
                self._max_text_chars,
            )

    def _check_number(self, call: Call) -> None:
        """Refuse a conversation that has gathered more pictures than one request may send.

        Raises:
            BadRequestError: if it has.
        """
        if self._max_images is not None and len(call.images) > self._max_images:
            raise BadRequestError(
                texts.TOO_MANY_IN_CONVERSATION.fill(num_images=len(call.images), max_images=self._max_images),
                code="too_many_images",
            )

    async def _enqueue(
        self, call: Call, routed: Routed, key: CacheKey | None = None, health: Health | None = None
    ) -> Running:
        spec = plan_job(call, routed, health or self._health(call), self._infos())
        key = _if_known(key, spec)
        where = self._cache.name_now(key) if self._cache and key and call.cache.writes else None
        if key is not None:
            spec = replace(spec, cache="miss")
        await self._charge(call, spec)
        draft = self._begin_draft(call, spec)
        epoch: int | None = None
        try:
            flight = flight_of(spec) if self._may_join(call) else ""
            async with while_heard(self._watch_of(call)):
                job = await self._store.create(spec, call.images, _terms(call), kept_as=str(where or ""), flight=flight)
            if call.admission is not None:
                call.admission.hand_over()
            if draft is not None:
                with contextlib.suppress(QueueUnavailableError):  # the job is accepted; a worker runs the draft instead
                    async with while_heard(self._watch):
                        epoch = await self._store.claim(job.follows or job.id, DRAFT_UNIT)
        except BaseException as error:
            if isinstance(error, QueueUnavailableError):
                self._take_back(spec, error)
            else:
                self.abandon(spec)  # the client hung up; the job may be stored all the same
            if draft is not None:
                await asyncio.shield(self._leftovers.add(draft.aclose()))
            raise
        if where is None and (naming := self._begin_naming(call, key)) is not None:
            self._leftovers.add(self._name_late(job.id, naming))
        if call.again is None:
            self._router.count(call, routed.decision)
        if job.follows:  # nothing of its own is queued
            if draft is not None:
                self._leftovers.add(self._run_draft_of(job.follows, epoch, draft))
        elif draft is None or self._runner is None:
            await self._queue.send_branches(job)
        elif epoch is None:  # a worker was faster, or a job with this id exists already
            self._leftovers.add(draft.aclose())
            await self._queue.send_branches(job)
        else:
            self._runner.run(job, DRAFT_UNIT, epoch, draft)
            # Send in the background, for a fast first word; the reaper resends tickets that are lost with this process.
            self._leftovers.add(self._queue.send_branches(job, but=DRAFT_UNIT))
        return Running(job, self._hub.follow(job.id, job.follows), is_queued=True)

    def _begin_naming(self, call: Call, key: CacheKey | None) -> asyncio.Task[KeptAs | None] | None:
        """Find out where the answer is to be kept, which may take decoding pictures, while it is being made."""
        if self._cache is None or key is None or not call.cache.writes:
            return None
        return self._leftovers.add(self._cache.name(key))

    async def _name_late(self, job_id: str, naming: asyncio.Task[KeptAs | None]) -> None:
        if (where := await naming) is not None:
            await self._store.keep_as(job_id, str(where))

    def _begin_draft(self, call: Call, spec: JobSpec) -> EarlyStream | None:
        """Ask GLM for the draft of a caller who waits for it, before anything is on record; None if a worker is to.

        What is written while the job is being recorded would be the wait for its first word.
        """
        plan = next((branch for branch in spec.branches if branch.name == DRAFT_UNIT), None)
        info = self._monitor.info("glm")
        if self._runner is None or plan is None or info is None or not call.is_watched:
            return None
        if self._runner.num_running >= _MAX_LOCAL_DRAFTS:
            return None
        request = _to_request(call, spec, plan)
        return EarlyStream(self._ask_glm(call, request), model_with(info.model_id, call.adapter_for("glm")))

    async def _run_draft_of(self, leader_id: str, epoch: int | None, draft: EarlyStream) -> None:
        """Run the draft of a job that others wait for, if it was not begun: one of them waits for the first word."""
        leader = await self._store.get(leader_id) if epoch is not None else None
        if leader is None or epoch is None or self._runner is None:
            await draft.aclose()
        else:
            self._runner.run(leader, DRAFT_UNIT, epoch, draft)

    def _ask_glm(self, call: Call, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Begin a run of GLM, or join that of an equal request if this one may."""
        engine = self._engines["glm"]
        if self.flights is not None and self._may_join(call):
            return self.flights.stream("glm", engine, request)
        return engine.stream(request)

    def _may_join(self, call: Call) -> bool:
        return self.flights is not None and call.cache.joins and is_repeatable(call)

    async def _run_now(self, call: Call, routed: Routed, key: CacheKey | None) -> Running:
        check_images(call, self._monitor.info("glm"))
        engine = self._engines["glm"]
        info = self._monitor.info("glm") or await engine.info()
        plan = BranchPlan(FAST_UNIT, "glm", enable_thinking=routed.decision.enable_thinking)
        draws = self._looks.draw(call)
        spec = with_draws(plan_answer(call, routed, (plan,)), draws)
        key = _if_known(key, spec)
        if key is not None:
            spec = replace(spec, cache="miss")
        await self._charge(call, spec)
        request = _to_request(call, spec, plan)
        where = self._begin_naming(call, key)
        deltas = self._ask_glm(call, request)
        if isinstance(deltas, SharedStream) and deltas.is_joined:
            spec = replace(spec, cache="joined")
        is_kept = call.is_stored or call.keep_s > 0 or call.webhook_url is not None
        # A stream announces the id in its first event, so the record must be durable before.
        is_told_early = call.is_streamed and (call.is_stored or call.webhook_url is not None)
        begun = self._leftovers.add(self._begin_record(spec, call)) if is_told_early else None
        transcript = Transcript(model_with(info.model_id, call.adapter_for("glm")), time.monotonic())
        try:
            said: list[Piece | None] = []
            async for delta in deltas:
                said.append(transcript.take(delta))
                # Send nothing before the first readable text: until then another engine can still take over.
                if call.is_streamed and (plan.enable_thinking or transcript.has_answer):
                    break
            _check_usable(said, transcript, call)
            epoch = await asyncio.shield(begun) if begun is not None else None
        except QueueUnavailableError as unavailable:
            self._take_back(spec, unavailable)
            if call.webhook_url is not None or call.keep_s > 0:
                await deltas.aclose()
                raise
            log.warning("%s cannot be stored: %s", spec.id, unavailable.message)
            spec = with_degraded(replace(spec, is_stored=False), [texts.NOT_STORED])
            epoch, is_kept = None, False
        except BaseException:
            if begun is not None:
                # First, since a fallback or a retry under the same key must reuse this id.
                forgetting = self._leftovers.add(self._forget(spec.id, begun))
                with contextlib.suppress(QueueUnavailableError):
                    await asyncio.shield(forgetting)
            await deltas.aclose()
            raise
        self._router.count(call, routed.decision)
        answer = DirectAnswer(
            call,
            as_accepted(Job(spec, "in_progress", {})),
            DirectStream(transcript, to_tell(said, call), deltas),
            self._keeping(call, epoch) if is_kept else None,
            self._monitor,
            self._leftovers,
            Sharing(self._cache, where) if self._cache and where else None,
            self._router.meters,
            self._capture,
        )
        events, finished = answer.events(), answer.finished
        if any(draw.is_drawn for draw in draws):
            add = self._leftovers.add
            events = self._looks.follow(events, call, draws, finished, lambda again: add(ask(self.start, again)))
        return Running(answer.job, await as_begun(events), is_queued=False, _finished=finished)

    async def _charge(self, call: Call, spec: JobSpec) -> None:
        """Charge a call, unless that was done before it was decided again.

        Raises:
            RateLimitError: if a limit of its caller is reached.
            BadRequestError: if it is larger than a whole limit.
        """
        if (admission := call.admission) is not None and not admission.is_charged:
            cost = to_cost(call.messages, spec, self._infos(), counts_tokens=admission.counts_tokens)
            await admission.charge(cost)

    def _infos(self) -> dict[str, EngineInfo | None]:
        return {name: self._monitor.info(name) for name in self._engines}

    async def _begin_record(self, spec: JobSpec, call: Call) -> int | None:
        async with while_heard(self._watch_of(call)):
            return await self._store.begin(spec, call.images, _terms(call))

    def _keeping(self, call: Call, epoch: int | None) -> Keeping:
        return Keeping(self._store, epoch, self._take_back, self._watch_of(call))

    def _watch_of(self, call: Call) -> RedisWatch | None:
        """Return what ends the wait for a record; redis may be silent just because it writes large pictures."""
        return self._watch if sum(len(image.data) for image in call.images) <= _SMALL_BYTES else None

    def abandon(self, spec: JobSpec, *, grace_s: float = 0.0) -> None:
        """End a job whose client has disconnected, if only it could read it: clients retry, and work must not multiply.

        Args:
            spec: of the job.
            grace_s: how long its stream may be resumed before.
        """
        if spec.is_only_for_its_caller:
            self._leftovers.add(self._abandon(spec.id, grace_s))

    async def _abandon(self, job_id: str, grace_s: float) -> None:
        reader = secrets.token_hex(8) if grace_s else ""
        if grace_s:
            if not await self._store.tell(job_id, left_by=reader):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), grace_s)
        await self._store.cancel(job_id, left_by=reader)

    def take_back(self, error: QueueUnavailableError, undo: Callable[[], Awaitable[object]]) -> None:
        """Undo, once redis answers, what it may do although it was refused now: it had it before it fell silent."""
        if may_be_done(error):
            self.do_later(undo)

    def _take_back(self, spec: JobSpec, error: QueueUnavailableError) -> None:
        """Take a job back; one under an Idempotency-Key stays: the next request with that key finds it."""
        if spec.keep_s == 0:
            self.take_back(error, lambda: self._store.delete(spec.id))

    async def _forget(self, job_id: str, begun: asyncio.Task[int | None]) -> None:
        """Take back the record of an answer that failed before its id was announced."""
        if await begun is not None:
            await self._store.delete(job_id)

    async def aclose(self) -> None:
        """Finish storing what was answered last, and give back the drafts that are not done."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.aclose()
        await self._leftovers.aclose()


async def give_again(keeping: Keeping, call: Call, kept: KeptAnswer) -> Running:
    """Answer a call as the same was answered before: under an id of its own, and with a record if it is to have one.

    Raises:
        QueueUnavailableError: if it has to be recorded, and redis does not answer.
    """
    job = kept.to_job(to_spec(call, **kept.plan), time.time())
    is_job = call.is_background or job.spec.branches[0].name != FAST_UNIT
    if call.is_stored or call.is_background or call.keep_s > 0 or call.webhook_url is not None:
        try:
            async with while_heard(keeping.watch):
                await keeping.store.put_finished(job, call.images, is_direct=not is_job)
        except QueueUnavailableError as unavailable:
            keeping.take_back(job.spec, unavailable)
            if call.is_background or call.keep_s > 0 or call.webhook_url is not None:
                raise
            job = not_stored(job)

    async def events() -> AsyncGenerator[Event, None]:
        for event in replay(job):
            yield event

    return Running(job, events(), is_queued=call.is_background, _finished=[job])


def _if_known(key: CacheKey | None, spec: JobSpec) -> CacheKey | None:
    """Return a key, or None while an engine of the plan has not said which weights it has.

    An answer that is kept without them would be found after they have changed.
    """
    return key if key is not None and key.engines.issuperset(branch.engine for branch in spec.branches) else None


def _terms(call: Call) -> Terms:
    admission = call.admission
    return Terms() if admission is None else Terms(admission.reservation, admission.max_unfinished_jobs)


def _to_request(call: Call, spec: JobSpec, plan: BranchPlan) -> GenerationRequest:
    """Return what GLM is asked when this process asks it."""
    request = GenerationRequest(
        pictures_first(call.messages),
        call.sampling,
        enable_thinking=plan.enable_thinking,
        request_id=spec.id,
        origin=spec.origin,
        caller=call.owner,
        adapter=call.adapter_for("glm"),
    )
    return with_instruction(request, call.output_format, spec.language)


def _check_usable(said: Sequence[Piece | None], transcript: Transcript, call: Call) -> None:
    """Refuse a whole answer that says nothing, unless a stop string may have cut it to that.

    Raises:
        GenerationFailedError: if there is no text.
    """
    if not said:
        raise GenerationFailedError("The engine ended its answer without saying anything.")
    if not transcript.has_answer and transcript.finish_reason == "stop" and not call.sampling.stop:
        raise GenerationFailedError("The engine answered nothing.")


def check_num_chars(num_chars: int, limit: int) -> None:
    """Refuse a conversation that is longer than any engine could read.

    Raises:
        BadRequestError: if it is.
    """
    if num_chars > limit:
        raise BadRequestError(
            texts.TOO_MANY_CHARACTERS.fill(num_chars=num_chars, limit=limit), code="context_length_exceeded"
        )
