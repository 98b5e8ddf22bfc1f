"""Endpoints and deliveries in redis: who wants to be told, what is still to be told, and how each attempt went.

In: what callers register, events, outcomes of attempts. Out: frozen records. Every change is one atomic script
(`router.lua`); a job's end plans its deliveries in its own script (`lua/include/fan_out.lua`), and `emit` does
so for every other event.

Keys: ``delivery:ID`` hash, ``delivery_attempts:ID`` list, ``deliveries`` sorted set of ids by when something must
happen, ``webhook_log:OWNER`` and ``webhook_log:ENDPOINT`` sorted sets of ids by age, ``webhook_endpoint:ID`` hash,
``webhook_endpoints:OWNER`` sorted set, ``webhook_secret:OWNER`` hash; ``delivery_turns``, ``delivery_hosts:OWNER`` and
``delivery_line:OWNER|HOST`` sorted sets of whose attempt is next.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import orjson
from redis.asyncio import Redis

from engines.json_text import dump_line
from engines.origin import Origin
from router.lua import Scripts, WebhookScript, to_fields
from router.redis import PREFIX, Clock, guard
from router.schema import known_fields
from router.webhooks import texts
from router.webhooks.records import (
    MAX_ENDPOINTS,
    ROTATION_OVERLAP_S,
    Attempt,
    Claim,
    Delivery,
    Endpoint,
    Full,
    new_endpoint_id,
    valid_secrets,
)
from router.webhooks.signing import new_secret

_LOST = {
    "status_code": None,
    "duration_ms": 0,
    "error": texts.ATTEMPT_LOST.en,
    "error_zh": texts.ATTEMPT_LOST.zh,
}


class WebhookStore:
    """Reads and changes endpoints and deliveries.

    Args:
        redis: an asyncio client that returns bytes.
        configured_secrets: sign what goes to URLs named in requests, for every owner; the first is the current one.
            Without any, each owner has a secret that is made when it is first needed.
        clock: unix seconds; None uses the Redis server's own clock.
        reads: a client for what only reads; None for the same.

    Raises:
        QueueUnavailableError: by every method, when Redis does not answer.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        configured_secrets: Sequence[str] = (),
        clock: Clock | None = None,
        reads: Redis | None = None,
    ) -> None:
        self.redis = redis
        self._reads = reads or redis
        self._configured_secrets = tuple(configured_secrets)
        self._clock = clock
        self._scripts = Scripts(redis, clock)

    # Events

    async def emit(
        self, owner: str, event_type: str, data: Mapping[str, Any], *, url: str | None = None, created_at: float = 0.0
    ) -> int:
        """Plan an event's deliveries; told twice of the same event, it plans it once.

        Args:
            owner: whose event.
            event_type: such as ``batch.completed``; endpoints get it if they asked for it.
            data: the event's ``data``; its ``id`` names what happened to what, and decides the event's id.
            url: told too, whatever is registered.
            created_at: unix seconds; now if not given.

        Returns:
            how many deliveries were planned; the sweeper sees to them, or at once whoever sends a ticket.
        """
        event = make_event(event_type, data, created_at or time.time())
        return int(
            await self._scripts.run(
                WebhookScript.EMIT,
                owner=owner,
                url=url or "",
                event_id=event["id"],
                kind=event_type,
                body=dump_line(event),
            )
        )

    # Endpoints

    async def create_endpoint(
        self, owner: str, *, name: str, url: str, event_types: Sequence[str], endpoint_id: str | None = None
    ) -> tuple[Endpoint, str] | None:
        """Register an endpoint; returns it and its secret, or None if the owner has `MAX_ENDPOINTS` already."""
        endpoint_id, secret = endpoint_id or new_endpoint_id(), new_secret()
        words: list[bytes] = await self._scripts.run(
            WebhookScript.CREATE_ENDPOINT,
            id=endpoint_id,
            owner=owner,
            name=name,
            url=url,
            event_types=",".join(event_types),
            secret=secret,
            max_endpoints=MAX_ENDPOINTS,
        )
        return (_to_endpoint(endpoint_id, to_fields(words)), secret) if words else None

    async def get_endpoint(self, owner: str, endpoint_id: str) -> Endpoint | None:
        """Read an endpoint of the owner's; None if there is none."""
        raw = await guard(cast("Any", self._reads.hgetall(f"{PREFIX}webhook_endpoint:{endpoint_id}")))
        endpoint = _to_endpoint(endpoint_id, raw) if raw else None
        return endpoint if endpoint is not None and endpoint.owner == owner else None

    async def list_endpoints(self, owner: str, *, after: str = "", limit: int = 20) -> tuple[list[Endpoint], bool]:
        """Return endpoints, newest first, after the given id, which may be gone; and whether there are more."""
        ids: list[bytes] = await guard(
            self._reads.zrevrangebylex(
                f"{PREFIX}webhook_endpoints:{owner}", f"({after}" if after else "+", "-", 0, limit + 1
            )
        )
        found = [await self.get_endpoint(owner, each.decode()) for each in ids[:limit]]
        return [endpoint for endpoint in found if endpoint is not None], len(ids) > limit

    async def update_endpoint(self, owner: str, endpoint_id: str, changes: Mapping[str, str]) -> Endpoint | None:
        """Change fields of an endpoint (``event_types`` as a comma list); None if there is none."""
        pairs = [text for pair in changes.items() for text in pair]
        await self._scripts.run(WebhookScript.UPDATE_ENDPOINT, *pairs, id=endpoint_id, owner=owner)
        return await self.get_endpoint(owner, endpoint_id)

    async def delete_endpoint(self, owner: str, endpoint_id: str) -> bool:
        """Forget an endpoint; what was still to be sent to it is given up."""
        return bool(await self._scripts.run(WebhookScript.DELETE_ENDPOINT, id=endpoint_id, owner=owner))

    async def rotate_secret(self, owner: str, endpoint_id: str, *, keep_old: bool) -> tuple[Endpoint, str] | None:
        """Give an endpoint a new secret; the old one may sign too for a day. None if there is no such endpoint."""
        secret = new_secret()
        is_done = await self._rotate(f"webhook_endpoint:{endpoint_id}", owner, secret, keep_old=keep_old)
        endpoint = await self.get_endpoint(owner, endpoint_id) if is_done else None
        return None if endpoint is None else (endpoint, secret)

    # The secret for URLs named in requests

    @property
    def has_configured_secret(self) -> bool:
        """Whether the deployment, rather than each owner, has the secret for URLs named in requests."""
        return bool(self._configured_secrets)

    async def request_secrets(self, owner: str) -> tuple[str, ...]:
        """Return what signs events to URLs that this owner's requests name, the newest first."""
        if self._configured_secrets:
            return self._configured_secrets
        key = f"{PREFIX}webhook_secret:{owner}"
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.hsetnx(key, "secret", new_secret())
        pipeline.hsetnx(key, "owner", owner)
        pipeline.hmget(key, ["secret", "old_secret", "old_secret_until"])
        pipeline.time()
        *_, found, (seconds, _microseconds) = await guard(pipeline.execute())
        now = self._clock() if self._clock else float(seconds)
        secret, old_secret, until = (value.decode() if value else "" for value in found)
        return valid_secrets(secret, old_secret, float(until or 0), now)

    async def rotate_request_secret(self, owner: str, *, keep_old: bool) -> str:
        """Give the owner a new secret for URLs named in requests; not where one is configured."""
        await self.request_secrets(owner)
        secret = new_secret()
        await self._rotate(f"webhook_secret:{owner}", owner, secret, keep_old=keep_old)
        return secret

    # Deliveries

    async def get_delivery(self, owner: str, delivery_id: str) -> Delivery | None:
        """Read a delivery of the owner's; None if there is none."""
        found = await self._read_deliveries(owner, [delivery_id])
        return found[0] if found else None

    async def list_deliveries(
        self, owner: str, *, endpoint_id: str = "", after: str = "", limit: int = 20
    ) -> tuple[list[Delivery], bool] | None:
        """Return deliveries, newest first, after the given one; and whether there are more.

        Args:
            owner: whose.
            endpoint_id: only those to this endpoint, which must be the owner's.
            after: a delivery of the same list; None is returned if it is not in there.
            limit: most of them.
        """
        key = f"{PREFIX}webhook_log:{endpoint_id or owner}"
        first = 0
        if after:
            rank: int | None = await guard(cast("Any", self._reads.zrevrank(key, after)))
            if rank is None:
                return None
            first = rank + 1
        ids: list[bytes] = await guard(self._reads.zrevrange(key, first, first + limit))
        return await self._read_deliveries(owner, [each.decode() for each in ids[:limit]]), len(ids) > limit

    async def redeliver(self, owner: str, delivery_id: str) -> bool | None:
        """Send a delivery again from the start, whatever became of it; one under way is left alone.

        Returns:
            whether it could be; False if its endpoint is disabled or gone, None if there is no such delivery.
        """
        outcome: bytes = await self._scripts.run(WebhookScript.REDELIVER, id=delivery_id, owner=owner)
        return None if outcome == b"unknown" else outcome == b"pending"

    async def is_due(self) -> bool:
        """Whether any delivery waits for an attempt now."""
        return bool(await self._scripts.run(WebhookScript.IS_DUE))

    async def take_next(self, *, lease_s: float, full: Full | None = None) -> Claim | None:
        """Take the right to make the attempt whose turn it is; None if there is none that may be made now.

        Owners take turns, within an owner the hosts do, and for one host the oldest goes first. An attempt that lost
        its worker is made again.

        Args:
            lease_s: the attempt is taken for lost after this.
            full: whose turn it cannot be, because they have enough under way.
        """
        found: Any = 1
        while found == 1:
            found = await self._scripts.run(
                WebhookScript.TAKE, lease_s=lease_s, lost=orjson.dumps(_LOST)[1:], full=orjson.dumps(full or Full())
            )
        if not found:
            return None
        delivery_id, host, epoch, number, failures, *rest = found
        owner, endpoint, event, event_type, url, body, secret, old_secret, origin = rest
        return Claim(
            delivery_id=delivery_id.decode(),
            host=host.decode(),
            epoch=int(epoch),
            number=int(number),
            failures=int(failures),
            owner=owner.decode(),
            endpoint_id=endpoint.decode(),
            event_id=event.decode(),
            event_type=event_type.decode(),
            url=url.decode(),
            body=body,
            signing_secrets=tuple(text.decode() for text in (secret, old_secret) if text),
            origin=Origin.from_text(origin),
        )

    async def record(
        self, claim: Claim, attempt: Attempt, *, retry_in_s: float | None, is_gone: bool = False
    ) -> str | None:
        """Write down how an attempt ended.

        Args:
            claim: the right to it.
            attempt: for the log.
            retry_in_s: when to try again after a failure; given up instead if the delivery would be too old by then.
            is_gone: the receiver wants no more: the delivery is given up and its endpoint disabled.

        Returns:
            the delivery's state now; None if the right was lost, and nothing was written.
        """
        outcome = "succeeded" if attempt.error is None else "failed" if retry_in_s is None else "pending"
        state: bytes = await self._scripts.run(
            WebhookScript.RECORD,
            id=claim.delivery_id,
            epoch=claim.epoch,
            outcome=outcome,
            retry_in_s=retry_in_s or 0.0,
            entry=orjson.dumps(asdict(attempt)),
            is_gone=int(is_gone),
        )
        return state.decode() or None

    async def _read_deliveries(self, owner: str, ids: Sequence[str]) -> list[Delivery]:
        pipeline = self._reads.pipeline(transaction=False)
        for each in ids:
            pipeline.hgetall(f"{PREFIX}delivery:{each}")
            pipeline.lrange(f"{PREFIX}delivery_attempts:{each}", 0, -1)
        found = await guard(pipeline.execute()) if ids else []
        # A log outlives its oldest entries: what has expired is left out.
        rows = zip(ids, found[::2], found[1::2], strict=True)
        deliveries = [_to_delivery(each, raw, attempts) for each, raw, attempts in rows if raw]
        return [delivery for delivery in deliveries if delivery.owner == owner]

    async def _rotate(self, key: str, owner: str, secret: str, *, keep_old: bool) -> bool:
        overlap_s = ROTATION_OVERLAP_S if keep_old else 0
        return bool(
            await self._scripts.run(WebhookScript.ROTATE, name=key, owner=owner, secret=secret, overlap_s=overlap_s)
        )


def make_event(event_type: str, data: Mapping[str, Any], created_at: float) -> dict[str, Any]:
    """Return an event; its id follows from its type and its subject's id."""
    digest = hashlib.sha256(f"{data['id']}|{event_type}".encode()).hexdigest()
    return {
        "id": f"evt_{digest[:32]}",
        "object": "event",
        "created_at": int(created_at),
        "type": event_type,
        "data": dict(data),
    }


def _to_endpoint(endpoint_id: str, raw: Mapping[bytes, bytes]) -> Endpoint:
    text = {key.decode(): value.decode() for key, value in raw.items()}
    return Endpoint(
        id=endpoint_id,
        owner=text["owner"],
        name=text["name"],
        url=text["url"],
        event_types=tuple(text["event_types"].split(",")),
        secret=text["secret"],
        created_at=float(text["created_at"]),
        updated_at=float(text["updated_at"]),
        status=cast("Any", text["status"]),
        old_secret=text["old_secret"],
        old_secret_until=float(text["old_secret_until"]),
    )


def _to_delivery(delivery_id: str, raw: Mapping[bytes, bytes], attempts: Sequence[bytes]) -> Delivery:
    text = {key.decode(): value.decode() for key, value in raw.items()}
    return Delivery(
        id=delivery_id,
        owner=text["owner"],
        endpoint_id=text["endpoint"],
        url=text["url"],
        event_id=text["event"],
        event_type=text["type"],
        state=cast("Any", text["state"]),
        num_attempts=int(text["attempts"]),
        created_at=float(text["created_at"]),
        next_attempt_at=float(text["next_at"]) if text["next_at"] else None,
        expires_at=float(text["expires_at"]),
        failure=text.get("failure", ""),
        attempts=tuple(Attempt(**known_fields(Attempt, orjson.loads(entry))) for entry in attempts),
    )
