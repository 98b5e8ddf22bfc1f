"""Every refusal the router makes on purpose; ``router.api.errors`` turns them into OpenAI envelopes.

Errors::

    RouterError                      status, code, param and a message that says what would be accepted
    ├── BadRequestError              400; wrong shape, wrong value, no user message
    ├── ImageError                   400; a picture that is none, is truncated, too large or of an unknown type
    ├── ImageFetchError              400; a picture URL that cannot be fetched
    ├── AuthenticationError          401; no key, or an unknown one
    ├── PermissionDeniedError        403; the key is not good for this route
    ├── OriginRefusedError           403; sent by a web page that may not use this service
    ├── NotFoundError                404; no such response, job, model or path (also: somebody else's)
    ├── BodyTimeoutError             408; the request body did not arrive in time
    ├── ConflictError                409; the same request is still being worked on
    ├── NotCapturedError             409; feedback on an answer that is not kept for data sets
    ├── BodyTooLargeError            413; the request body is over the limit
    ├── EncodingUnsupportedError     415; the body is packed in a way that is not known here
    ├── HostRefusedError             421; the Host is no name of this service
    ├── IdempotencyReuseError        422; an Idempotency-Key that came with another body before
    ├── RateLimitError               429; a limit of the caller's owner, key or address is reached
    ├── QueueFullError               429; the caller has too many unfinished jobs
    ├── TooManyInFlightError         429; the caller has too many requests, or too much of them, open
    ├── OverloadedError              503; all callers together have
    ├── ShuttingDownError            503; this process ends, and the answer was not made in time
    ├── QueueUnavailableError        503; redis does not answer
    │   ├── NotReplicatedError       503; redis wrote it, but too few of its replicas have it
    │   └── StorageFullError         503; redis has no room for anything new
    ├── NewerRecordError             503; a newer Glowl wrote the record so that this one cannot read it
    ├── NotCachedError               504; only a cached answer was wanted, and there is none
    ├── LoopUnavailableError         503; what is kept for data sets cannot be read or written now
    ├── AuditUnavailableError        503; requests must be written down, and the disk takes nothing
    ├── KeysUnavailableError         503; the issuer's keys cannot be read, so a token can be neither taken nor refused
    └── EngineFailedError            the status of the engine's own error, after every fallback failed
"""

from __future__ import annotations

from typing import ClassVar, Final

from policies.text import Text

# Of a request whose client disconnected before it was answered; only logs show it.
CLIENT_CLOSED: Final = 499


class RouterError(Exception):
    """Base of every refusal.

    Args:
        text: what is wrong, and what would be accepted. A string is what others said, in whatever language that is.
        code: machine-readable; OpenAI's where one exists.
        param: the request field at fault.
        retry_after_s: when set, sent as ``Retry-After``.

    Attributes:
        text: in both languages.
        message: the text in English.
        message_zh: in Chinese, for callers whose ``Accept-Language`` prefers it.
    """

    status_code: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request_error"
    default_code: ClassVar[str] = "invalid_request"

    def __init__(
        self,
        text: Text | str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        text = Text.same(text) if isinstance(text, str) else text
        super().__init__(text.en)
        self.text = text
        self.message = text.en
        self.message_zh = text.zh
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequestError(RouterError):
    """The request has a wrong shape or value."""


class ImageError(RouterError):
    """A picture was refused before any engine saw it."""

    default_code: ClassVar[str] = "invalid_image"


class ImageFetchError(RouterError):
    """A picture URL could not be fetched, or points where fetching is not allowed."""

    default_code: ClassVar[str] = "failed_to_download_image"


class AuthenticationError(RouterError):
    """The key is missing or unknown."""

    status_code: ClassVar[int] = 401
    type: ClassVar[str] = "authentication_error"
    default_code: ClassVar[str] = "invalid_api_key"


class PermissionDeniedError(RouterError):
    """The key is known, and not good for what was asked for."""

    status_code: ClassVar[int] = 403
    type: ClassVar[str] = "permission_error"
    default_code: ClassVar[str] = "insufficient_scope"


class OriginRefusedError(RouterError):
    """A web page sent the request, and may not use this service."""

    status_code: ClassVar[int] = 403
    type: ClassVar[str] = "permission_error"
    default_code: ClassVar[str] = "origin_not_allowed"


class EncodingUnsupportedError(RouterError):
    """The body is packed in a way that is not known here."""

    status_code: ClassVar[int] = 415
    default_code: ClassVar[str] = "unsupported_encoding"


class HostRefusedError(RouterError):
    """The request was meant for another host."""

    status_code: ClassVar[int] = 421
    default_code: ClassVar[str] = "host_not_allowed"


class NotFoundError(RouterError):
    """There is no such thing, or it belongs to somebody else: callers cannot tell which."""

    status_code: ClassVar[int] = 404
    default_code: ClassVar[str] = "not_found"


class BodyTimeoutError(RouterError):
    """The request body did not arrive in time."""

    status_code: ClassVar[int] = 408
    default_code: ClassVar[str] = "request_timeout"


class ConflictError(RouterError):
    """The same request is still being worked on."""

    status_code: ClassVar[int] = 409
    default_code: ClassVar[str] = "conflict"


class NotCapturedError(RouterError):
    """Feedback is kept beside the answer, and this one is not kept for data sets, or has not ended."""

    status_code: ClassVar[int] = 409
    default_code: ClassVar[str] = "not_captured"


class IdempotencyReuseError(RouterError):
    """An Idempotency-Key came with another body before."""

    status_code: ClassVar[int] = 422
    default_code: ClassVar[str] = "idempotency_key_reuse"


class BodyTooLargeError(RouterError):
    """The request body is over the limit."""

    status_code: ClassVar[int] = 413
    default_code: ClassVar[str] = "request_too_large"


class RateLimitError(RouterError):
    """A limit of the caller's owner, key or address is reached.

    Args:
        text: which.
        retry_after_ms: after which the same request is accepted, if no other comes; sent as ``retry-after-ms``, too.
    """

    status_code: ClassVar[int] = 429
    type: ClassVar[str] = "rate_limit_error"
    default_code: ClassVar[str] = "rate_limit_exceeded"

    def __init__(self, text: Text, *, retry_after_ms: int) -> None:
        super().__init__(text, retry_after_s=-(-retry_after_ms // 1000))
        self.retry_after_ms = retry_after_ms


class QueueFullError(RouterError):
    """The caller has as many unfinished jobs as one caller may have."""

    status_code: ClassVar[int] = 429
    type: ClassVar[str] = "rate_limit_error"
    default_code: ClassVar[str] = "queue_full"


class TooManyInFlightError(RouterError):
    """The caller has too many requests open at a time, or too many bytes of them."""

    status_code: ClassVar[int] = 429
    type: ClassVar[str] = "rate_limit_error"
    default_code: ClassVar[str] = "too_many_in_flight"


class OverloadedError(RouterError):
    """All callers together have too many requests open, or too many bytes of them."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "overloaded"


class ShuttingDownError(RouterError):
    """The process that was asked is being stopped, and the answer was not made before its time was over."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "shutting_down"


class QueueUnavailableError(RouterError):
    """Redis does not answer, so no job can be accepted or read."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "queue_unavailable"


class NotReplicatedError(QueueUnavailableError):
    """Redis wrote it, but too few replicas have it, so it is not announced, and taken back where it can be."""


class StorageFullError(QueueUnavailableError):
    """Redis answers, but its memory or its disk has no room for anything new."""

    default_code: ClassVar[str] = "storage_full"


class NewerRecordError(RouterError):
    """A newer Glowl wrote this record in a way that this one cannot read; it is left as it is."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "newer_record"


class KeysUnavailableError(RouterError):
    """The public keys of the tokens' issuer cannot be read, so no token can be checked."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "token_keys_unavailable"


class LoopUnavailableError(RouterError):
    """What is kept for data sets cannot be read or written now."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "loop_unavailable"


class AuditUnavailableError(RouterError):
    """Every request must be written to the audit log, and it cannot be written now."""

    status_code: ClassVar[int] = 503
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "audit_unavailable"


class NotCachedError(RouterError):
    """Only an answer from the cache was wanted (`Cache-Control: only-if-cached`), and there is none."""

    status_code: ClassVar[int] = 504
    default_code: ClassVar[str] = "not_cached"


class EngineFailedError(RouterError):
    """No engine could answer; carries the last engine error's status."""

    default_code: ClassVar[str] = "engine_unavailable"

    def __init__(
        self,
        text: Text | str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(text, code=code, param=param, retry_after_s=retry_after_s)
        self.status = status
