"""The nouns of webhooks: endpoints that callers register, deliveries, and attempts at them.

In: the fields of records in redis. Out: frozen types. No type shows a secret in its repr, and only `Endpoint` and
`Claim` hold any.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Final, Literal

from engines.origin import NOWHERE, Origin

# What endpoints may ask for. Clients parse an unknown type into an unrelated class, so only standard ones are sent.
EVENT_TYPES: Final = (
    *("response.completed", "response.failed", "response.cancelled", "response.incomplete"),
    *("batch.completed", "batch.failed", "batch.expired", "batch.cancelled"),
)
MAX_ENDPOINTS: Final = 50
ROTATION_OVERLAP_S: Final = 24 * 3600

EndpointStatus = Literal["enabled", "disabled"]
DeliveryState = Literal["pending", "in_progress", "succeeded", "failed"]


def new_endpoint_id() -> str:
    """Return an id that cannot be guessed; ids sort by age, so that a list can go on after an endpoint that is gone."""
    return f"whe_{int(time.time() * 1000):012x}{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an owner wants to be told of events.

    Attributes:
        id: ``whe_*``.
        owner: only calls of the same owner may see it.
        name: the owner's own.
        url: where to post.
        event_types: of `EVENT_TYPES`.
        secret: signs.
        old_secret: signs too, until ``old_secret_until``; empty if there is none.
        created_at: unix seconds.
        updated_at: of the last change of its settings or secret.
        status: nothing is sent to a disabled one.
    """

    id: str
    owner: str
    name: str
    url: str
    event_types: tuple[str, ...]
    secret: str = field(repr=False)
    created_at: float
    updated_at: float
    status: EndpointStatus = "enabled"
    old_secret: str = field(default="", repr=False)
    old_secret_until: float = 0.0

    def signing_secrets(self, now: float) -> tuple[str, ...]:
        """Return the secrets that sign at this time, the newest first."""
        return valid_secrets(self.secret, self.old_secret, self.old_secret_until, now)


def valid_secrets(secret: str, old_secret: str, old_secret_until: float, now: float) -> tuple[str, ...]:
    """Return a secret, and the one before it while it is still good."""
    return (secret, old_secret) if old_secret and now < old_secret_until else (secret,)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One post of a delivery.

    Attributes:
        number: counted from 1.
        started_at: unix seconds.
        status_code: what the receiver answered; None if it did not.
        duration_ms: until then.
        error: what went wrong, in English; None if nothing did.
        error_zh: the same in Chinese.
    """

    number: int
    started_at: float
    status_code: int | None
    duration_ms: int
    error: str | None = None
    error_zh: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one receiver.

    Attributes:
        id: ``whd_*``; follows from event and receiver.
        owner: whose event.
        endpoint_id: a registered endpoint; empty for a URL that a request named.
        url: that URL; empty for an endpoint, whose URL may change between attempts.
        event_id: ``evt_*``: the same for every receiver and on every attempt.
        event_type: such as ``response.completed``.
        state: ``pending`` until it was accepted or is given up.
        num_attempts: posts so far.
        created_at: of the event; unix seconds.
        next_attempt_at: when it is tried again; None once it has ended.
        expires_at: no attempt is planned after this.
        failure: why it was given up: ``gave_up`` (too old), ``gone`` (the receiver answered 410),
            ``endpoint_disabled`` or ``endpoint_deleted``; empty otherwise.
        attempts: the latest ones, oldest first.
    """

    id: str
    owner: str
    endpoint_id: str
    url: str
    event_id: str
    event_type: str
    state: DeliveryState
    num_attempts: int
    created_at: float
    next_attempt_at: float | None
    expires_at: float
    failure: str = ""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make one attempt, fenced by its epoch, and all that it takes.

    Attributes:
        delivery_id: which.
        host: of the URL, in whose line it stood; empty for an endpoint that was gone by then.
        epoch: what `WebhookStore.record` must be given.
        number: of this attempt, counted from 1.
        failures: failed attempts since the delivery was last begun.
        owner: whose event.
        endpoint_id: empty for a URL that a request named.
        event_id: goes into ``webhook-id``.
        event_type: for the log.
        url: where to post.
        body: what to post.
        signing_secrets: of the endpoint; empty for a URL that a request named.
        origin: the request that the event is about.
    """

    delivery_id: str
    host: str
    epoch: int
    number: int
    failures: int
    owner: str
    endpoint_id: str
    event_id: str
    event_type: str
    url: str
    body: bytes = field(repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    origin: Origin = NOWHERE


@dataclass(frozen=True, slots=True)
class Full:
    """Who has as many attempts under way as they may.

    Attributes:
        owners: none of their deliveries is to be taken.
        hosts: no deliveries to them, of any owner.
        lines: ``owner|host``: none of this owner's to this host.
    """

    owners: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
