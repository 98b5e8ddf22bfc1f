"""What a decision depends on beside the question and the engines: who asks, what went before, how much is used up.

In: nothing. Out: frozen types that the caller fills from its own records; nothing here keeps state.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.decision import EngineName, Route


@dataclass(frozen=True, slots=True)
class Previous:
    """The decision before this one in the same conversation.

    Attributes:
        route: the route it took.
        engine: who gave its final answer.
        image_keys: content hashes of the conversation's pictures then.
    """

    route: Route
    engine: EngineName
    image_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Context:
    """The state around one request. Everything may be left out: then it has no say.

    Attributes:
        owner: whose key it is, a hash; picks the overrides in the rules' `keys`.
        dial: the caller's own place between latency (0) and depth (1); outranks the key's and the preset's.
        route_shares: share of recent requests, 0 to 1, that each route got, by whatever window the caller counts;
            held against the quotas.
        bucket: 0 to 1, the same for the same conversation (see `bucket_of`); under the canary's share = canary.
        previous: the conversation's last decision; only sticky rules look at it.
        image_keys: content hashes of the conversation's pictures now, new and old.
    """

    owner: str | None = None
    dial: float | None = None
    route_shares: Mapping[Route, float] = field(default_factory=dict)
    bucket: float | None = None
    previous: Previous | None = None
    image_keys: frozenset[str] = frozenset()


def bucket_of(identity: str) -> float:
    """Turn the id of a conversation or a caller into a number from 0 to below 1, the same in every process."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
