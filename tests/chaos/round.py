"""One round: jobs from several callers while processes are killed with -9, then an audit of all that was promised.

In: a running stack and a seed. Out: a `Report`, whose ``wrong`` is empty if nothing was lost, doubled or left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import redis

from router.jobs.pictures import BLOB_GRACE_S
from tests.chaos.callers import DIRECT, TERMINAL, Callers, Outcome
from tests.chaos.receiver import Receiver
from tests.chaos.workload import KEYS, PlannedKill, plan_jobs, plan_kills
from tests.support.stack import ProcessStack

_PREFIX = "glowl:"
# After the last kill everything is over long before this; what is not by then is a finding.
_MOST_S = 90.0
_DELIVERIES_S = 30.0
# A deadline is looked at once a second, by an api, in redis. Time in which no api answers does not count.
_LATE_S = 5.0
_LOOK_S = 0.25
# Keys that must be gone with the last job, and what must be counted down to nothing.
_OF_JOBS = ("leases", "delayed", "line:", "turns:", "agenda", "unfinished", "holders:")
_COUNTS = (b"depth:", b"running:")
# Keys that are there for good: state of the service, none of them grows with the number of jobs.
_GLOBAL = ("activity", "queues", "celery:_kombu.binding", "webhook_secret:", "webhook_secrets", "auth:")


@dataclass
class Report:
    """What happened in a round.

    Attributes:
        seed: of the round.
        states: how the jobs ended, by state.
        kills: by kind of process.
        num_retries: calls that callers had to make again.
        num_resumes: times that a stream was picked up again.
        num_reruns: units that were begun again.
        num_direct: foreground requests that were answered without a job, since Owl2 was away.
        num_broken_answers: such answers that broke off, were refused as that, and asked for again.
        num_posts: webhook attempts that the receiver saw.
        num_events: different events among them.
        slowest_s: from acceptance to the end, the slowest job.
        wall_s: of the round.
        num_stranded: messages of killed workers that celery will hand out again when their time is over; each finds
            nothing to do then.
        wrong: findings.
    """

    seed: int
    states: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    num_retries: int = 0
    num_resumes: int = 0
    num_reruns: int = 0
    num_direct: int = 0
    num_broken_answers: int = 0
    num_posts: int = 0
    num_events: int = 0
    slowest_s: float = 0.0
    wall_s: float = 0.0
    num_stranded: int = 0
    wrong: list[str] = field(default_factory=list)


def make_stack(*, is_quick: bool) -> ProcessStack:
    """Return two apis, two workers, two engines and a redis.

    Args:
        is_quick: leases and resends are shorter than the defaults, for rounds of seconds.
    """
    env = {
        "GLOWL_API_KEYS": ",".join(KEYS),
        # A run that dies with its engine or its worker counts as failed; here that is the weather.
        "GLOWL_MAX_ATTEMPTS": "100",
        "GLOWL_WEBHOOK_DELAYS_S": "0.2,0.5",
        "GLOWL_WEBHOOK_TIMEOUT_S": "2",
    }
    if is_quick:
        env |= {"GLOWL_LEASE_S": "1.5", "GLOWL_RESEND_AFTER_S": "3"}
    return ProcessStack(num_apis=2, workers=(None, None), delay_s=0.03, env=env)


async def run_round(
    stack: ProcessStack, seed: int, *, num_jobs: int, num_kills: int, gap_s: tuple[float, float]
) -> Report:
    """Run a round on a stack on which everything works; so it does afterwards.

    Args:
        stack: of `make_stack`, without jobs.
        seed: of what is sent and who is killed.
        num_jobs: sent while kills happen.
        num_kills: how many.
        gap_s: shortest and longest time between two kills.
    """
    begun, report = time.monotonic(), Report(seed)
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for name in stack.names:
        kinds["engine" if name in ("glm", "owl2") else name.rstrip("0123456789")].append(name)
    kills = plan_kills(seed, num_kills, kinds, gap_s)
    report.kills = Counter(next(kind for kind, names in kinds.items() if kill.victim in names) for kill in kills)
    async with _receiving(seed) as receiver, aiohttp.ClientSession(trust_env=False) as http:
        jobs = plan_jobs(seed, num_jobs, kills[-1].after_s, receiver.url)
        callers = Callers(http, stack.urls, seed)

        async def send(number: int) -> Outcome:
            await asyncio.sleep(jobs[number].at_s)
            return await callers.run(jobs[number])

        there: list[float] = []
        watching = asyncio.create_task(_watch(http, stack.urls, there))
        killing = asyncio.create_task(_kill(stack, kills))
        sending = [asyncio.create_task(send(number)) for number in range(num_jobs)]
        _, late = await asyncio.wait(sending, timeout=kills[-1].after_s + _MOST_S)
        for task in late:
            task.cancel()
        await killing
        await asyncio.to_thread(stack.wait_ready)
        outcomes = await asyncio.gather(*sending)
        watching.cancel()
        await _audit(stack, callers, receiver, outcomes, report, there)
        await _forget(stack, callers, outcomes, report)
    report.wall_s = time.monotonic() - begun
    return report


@contextlib.asynccontextmanager
async def _receiving(seed: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(seed)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.aclose()


async def _kill(stack: ProcessStack, kills: list[PlannedKill]) -> None:
    begun = time.monotonic()
    for kill in kills:
        await asyncio.sleep(max(kill.after_s - (time.monotonic() - begun), 0.0))
        await asyncio.to_thread(stack.kill, kill.victim)
        await asyncio.sleep(kill.down_s)
        await asyncio.to_thread(stack.start, kill.victim)


async def _watch(http: aiohttp.ClientSession, urls: list[str], there: list[float]) -> None:
    """Note, every `_LOOK_S`, the unix time if any api answers from redis."""
    headers, timeout = {"authorization": f"Bearer {KEYS[0]}"}, aiohttp.ClientTimeout(total=1.0)

    async def answers(url: str) -> bool:
        try:
            async with http.get(f"{url}/v1/jobs?limit=1", headers=headers, timeout=timeout) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    while True:
        begun = time.monotonic()
        if any(await asyncio.gather(*(answers(url) for url in urls))):
            there.append(time.time())
        await asyncio.sleep(max(_LOOK_S - (time.monotonic() - begun), 0.0))


async def _audit(
    stack: ProcessStack,
    callers: Callers,
    receiver: Receiver,
    outcomes: list[Outcome],
    report: Report,
    there: list[float],
) -> None:
    """Hold what is recorded now against what callers saw and what was promised."""
    wrong = report.wrong
    secrets, broken = {}, set[str]()
    for key in KEYS:
        mine = {outcome.id for outcome in outcomes if outcome.job.key == key and outcome.id}
        listed = {job["id"]: job for job in await _list(callers, key, "/v1/jobs")}
        announced = {job_id for outcome in outcomes if outcome.job.key == key for job_id in outcome.announced}
        wrong += [
            f"{job_id} of {key} was announced and is not there" for job_id in sorted((mine | announced) - set(listed))
        ]
        for job_id in sorted(set(listed) - mine):
            # A direct answer that broke off was a refusal to whoever waited for it, is kept as such, and asked again.
            if listed[job_id]["route"] == "fast" and listed[job_id]["status"] in ("failed", "cancelled"):
                report.num_broken_answers += 1
                broken.add(job_id)
                await callers.call(key, "DELETE", f"/v1/responses/{job_id}")
            else:
                wrong.append(f"{job_id} of {key} was never sent, or sent once and begun twice: {listed[job_id]}")
        _, secret = await callers.call(key, "POST", "/v1/webhook_secret")
        secrets[key] = secret["signing_secret"]

    told: list[Outcome] = []
    with stack.redis() as client:
        for outcome in outcomes:
            wrong += outcome.wrong
            report.num_retries += outcome.num_retries
            report.num_resumes += outcome.num_resumes
            if not outcome.id:
                continue
            status, job = await callers.call(outcome.job.key, "GET", f"/v1/jobs/{outcome.id}")
            if status != 200:
                wrong.append(f"{outcome.id}: {outcome.job.kind} is lost; its caller saw {outcome.response}")
                continue
            response = await callers.look(outcome)
            report.states[response["status"]] += 1
            wrong += _check_answer(outcome, response)
            told += [outcome] if outcome.job.has_webhook else []
            if _is_direct(outcome, response):
                report.num_direct += 1
                continue
            events = [_decode(fields) for _, fields in client.xrange(f"{_PREFIX}events:{outcome.id}")]
            wrong += _check_events(outcome.id, events, response["status"])
            report.num_reruns += sum(kind == "requeued" for kind, _, _ in events)
            if job["completed_at"]:
                took_s = job["completed_at"] - job["created_at"]
                report.slowest_s = max(report.slowest_s, took_s)
                due_at = job["created_at"] + (outcome.job.deadline_s or took_s)
                late_s = _LOOK_S * sum(due_at < at < job["completed_at"] for at in there)
                if late_s > _LATE_S:
                    wrong.append(f"{outcome.id}: ended {took_s:.1f} s after it was accepted, {late_s:.1f} s too late")
            else:
                wrong.append(f"{outcome.id}: as a job it is {job['status']}, without an end")

    deliveries = await _wait_for_deliveries(callers, {_webhook_url(outcome) for outcome in told})
    for outcome in told:
        # A direct answer that broke off was told too, before it was asked for again under another id.
        all_ids = deliveries.get(_webhook_url(outcome), [])
        event_ids = [each for each in all_ids if receiver.job_of(each) not in broken]
        if len(event_ids) != 1:
            wrong.append(f"{outcome.id}: {len(event_ids)} events where one was promised")
            continue
        state = outcome.response.get("status", "")
        wrong += receiver.check(event_ids[0], outcome.id, state, secrets[outcome.job.key])
    if strangers := set(receiver.heard) - {event for event_ids in deliveries.values() for event in event_ids}:
        wrong.append(f"events that belong to no job: {sorted(strangers)}")
    report.num_posts = sum(len(heard.posts) for heard in receiver.heard.values())
    report.num_events = len(receiver.heard)


def _webhook_url(outcome: Outcome) -> str:
    return str(outcome.job.body["metadata"]["webhook_url"])


def _is_direct(outcome: Outcome, response: dict[str, Any]) -> bool:
    """Whether GLM answered a foreground request at once: no job, hence no events."""
    return outcome.job.kind in DIRECT and response.get("hybrid", {}).get("route") == "fast"


def _check_answer(outcome: Outcome, response: dict[str, Any]) -> list[str]:
    """Compare the record with what its caller saw, and with the only answers that are right."""
    wrong, state, saw = [], response["status"], outcome.response.get("status")
    text = _text(response)
    # A stream has no event for a cancelled job and ends as an incomplete one.
    if state != saw:
        wrong.append(f"{outcome.id}: its caller saw it {saw}, now it is {state}")
    is_cancelled = state == "cancelled" and outcome.is_cancel_sent
    code = (response["error"] or {}).get("code")
    is_late = state == "failed" and code == "deadline_exceeded" and outcome.job.deadline_s is not None
    # Its engine was killed in the middle of a word that somebody was reading: that is told, and not begun again.
    is_broken_off = state == "failed" and _is_direct(outcome, response) and str(code).startswith(("engine_", "gener"))
    if state not in TERMINAL or not (state == "completed" or is_cancelled or is_late or is_broken_off):
        wrong.append(f"{outcome.id}: it ended {state}: {response['error']}")
    if state == "completed":
        if text not in outcome.job.answers:
            wrong.append(f"{outcome.id}: was asked {outcome.job.question!r} and says {text!r}")
        if _text(outcome.response) != text:
            wrong.append(f"{outcome.id}: its caller read {_text(outcome.response)!r}, the record says {text!r}")
    if outcome.job.kind in ("stream", "direct") and state == saw == "completed" and not outcome.is_broken:
        final_id = outcome.events[-1]["response"]["output"][-1]["id"]
        said = "".join(
            event["delta"]
            for event in outcome.events
            if event["type"] == "response.output_text.delta" and event["item_id"] == final_id
        )
        if said != text:
            wrong.append(f"{outcome.id}: the stream said {said!r}, the record {text!r}")
    return wrong


def _text(response: dict[str, Any]) -> str:
    """The answer's words; the draft before it is a reasoning item, which has none."""
    return "".join(part["text"] for item in response.get("output", ()) for part in item.get("content", ()))


def _decode(fields: dict[bytes, bytes]) -> tuple[str, str, str]:
    return fields[b"k"].decode(), fields[b"u"].decode(), fields[b"s"].decode()


def _check_events(job_id: str, events: list[tuple[str, str, str]], state: str) -> list[str]:
    """Every unit ends once, the job ends once, and nothing comes after that."""
    wrong = []
    ends = [index for index, (kind, _, _) in enumerate(events) if kind == "end"]
    if ends != [len(events) - 1] or events[-1][2] != state:
        wrong.append(f"{job_id}: {state}, with ends at {ends} of {len(events)} events")
    finished = Counter(unit for kind, unit, _ in events if kind == "finished")
    if twice := [unit for unit, count in finished.items() if count > 1]:
        wrong.append(f"{job_id}: {twice} ended more than once")
    return wrong


async def _wait_for_deliveries(callers: Callers, urls: set[str]) -> dict[str, list[str]]:
    """Return the ids of the events for each URL once every delivery has succeeded, or time is up."""
    deadline = time.monotonic() + _DELIVERIES_S
    while True:
        found: defaultdict[str, list[str]] = defaultdict(list)
        num_open = 0
        for key in KEYS:
            for delivery in await _list(callers, key, "/v1/webhook_deliveries"):
                if delivery["url"] in urls:
                    found[delivery["url"]].append(delivery["event_id"])
                    num_open += delivery["status"] != "succeeded"
        if (num_open == 0 and len(found) == len(urls)) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.25)


async def _list(callers: Callers, key: str, path: str) -> list[dict[str, Any]]:
    """Read all pages of a list."""
    found: list[dict[str, Any]] = []
    while True:
        after = f"&after={found[-1]['id']}" if found else ""
        _, page = await callers.call(key, "GET", f"{path}?limit=100{after}")
        found += page["data"]
        if not page["has_more"]:
            return found


async def _forget(stack: ProcessStack, callers: Callers, outcomes: list[Outcome], report: Report) -> None:
    """Delete every response; then nothing of them may be left in redis but what expires by itself."""
    ids = [outcome.id for outcome in outcomes if outcome.id]
    for outcome in outcomes:
        if outcome.id:
            await callers.call(outcome.job.key, "DELETE", f"/v1/responses/{outcome.id}")
    with stack.redis() as client:
        report.num_stranded = client.hlen(f"{_PREFIX}celery:unacked")  # type: ignore[assignment]
        report.wrong += _leftovers(client, ids)


def _leftovers(client: redis.Redis, ids: list[str]) -> list[str]:
    wrong = []
    counts: dict[bytes, bytes] = client.hgetall(f"{_PREFIX}queues")  # type: ignore[assignment]
    for name, value in ((name.decode(), int(value)) for name, value in counts.items() if name.startswith(_COUNTS)):
        if value != 0:
            wrong.append(f"left behind: {name} is {value} with nothing in line")
    for raw in client.scan_iter(count=1000):
        key = raw.decode()
        name = key.removeprefix(_PREFIX)
        if any(job_id in key for job_id in ids) or name.startswith(_OF_JOBS):
            wrong.append(f"left behind: {key}")
        elif name.startswith("blob:") and client.ttl(raw) > BLOB_GRACE_S:  # type: ignore[operator]
            # What an api that was killed had put for a job that it never came to accept goes by itself, soon.
            wrong.append(f"left behind: {key}, which no job holds")
        elif client.ttl(raw) == -1 and not name.startswith((*_GLOBAL, "celery:unacked")):
            wrong.append(f"left behind for ever: {key}")
    return wrong
