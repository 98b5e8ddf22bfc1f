"""What a hub's refusals mean, and whether they pass.

In: a status with headers, or what a connection raised. Out: a `HubError` to raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.hub.names import ModelName, Place
from engines.hub.words import AwayError, HubError

MAX_RETRY_AFTER_S = 300.0
_BUSY = frozenset({408, 425, 429})


def refusal(status: int, headers: Mapping[str, str], name: ModelName, place: Place, body: str = "") -> HubError:
    """Say what an answer other than the one that was asked for means.

    Args:
        status: of the answer.
        headers: of the answer; Hugging Face says in ``X-Error-Code`` what it means.
        name: of the model that was asked for.
        place: of the hub.
        body: of the answer.
    """
    code = headers.get("X-Error-Code", "")
    told = headers.get("X-Error-Message", "") or " ".join(body.split())[:200] or "no reason given"
    values: dict[str, Any] = {
        "repo": name.repo,
        "endpoint": place.endpoint,
        "status": status,
        "variable": place.token_variable,
    }
    if status in _BUSY or status >= 500:
        return AwayError("busy", retry_after_s=_retry_after_s(headers), **values)
    if code == "GatedRepo":
        return HubError("gated", **values, page=f"{place.endpoint}/{name.repo}")
    if code == "RevisionNotFound" or (status == 404 and "revision" in told.lower()):
        return HubError("revision", **values, revision=name.wanted_revision)
    if code == "EntryNotFound":
        return HubError("missing", **values, revision=name.wanted_revision, file=told)
    # Hugging Face answers 401 also for a model that does not exist: it does not say which.
    if status == 404 or code == "RepoNotFound" or (status == 401 and not place.token):
        return HubError("unknown", **values)
    if status == 401:
        return HubError("token", **values)
    if status == 403:
        return HubError("forbidden", **values, reason=told)
    return HubError("foreign", endpoint=place.endpoint, variable=place.endpoint_variable, reason=f"status {status}")


def away(error: BaseException, place: Place) -> AwayError:
    """Say that a hub cannot be reached, and why."""
    reason = " ".join(str(error).split())[:200]
    return AwayError("away", endpoint=place.endpoint, reason=reason or type(error).__name__)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    return min(float(value), MAX_RETRY_AFTER_S) if value.isdigit() else None
