"""Standard Webhooks signatures: how a receiver knows that an event is ours, unchanged, and not an old one sent again.

In: secrets, an event's id, the attempt's time, the very bytes of the body. Out: the three headers. The newest secret
signs first; during a rotation the one before it signs too, so that receivers change over when they like. Secrets that
operators bring are checked by `router.settings`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
_NEW_SECRET_BYTES: Final = 32


def new_secret() -> str:
    """Return a fresh signing secret: ``whsec_`` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


def mask(secret: str) -> str:
    """Return what may be shown of a secret: enough to tell two apart, too little to guess one."""
    return f"{PREFIX}...{secret[-4:]}"


def to_headers(event_id: str, timestamp: int, body: bytes, signing_secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of one attempt.

    Args:
        event_id: the same on every attempt; receivers drop what they have seen.
        timestamp: unix seconds of this attempt; receivers refuse old ones.
        body: as it will be sent.
        signing_secrets: each signs once, in this order.
    """
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(event_id, timestamp, body, secret) for secret in signing_secrets),
    }


def sign(event_id: str, timestamp: int, body: bytes, secret: str) -> str:
    """Return ``v1,`` and the base64 HMAC-SHA256 of ``id.timestamp.body``."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
