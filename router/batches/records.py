"""The nouns of batches: a stored file, a batch, one line of its input.

In: the fields of records in redis. Out: frozen types that the api and the runner read.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import orjson

BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
# What the endpoints of a batch and of its lines may be.
CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"


WINDOW_S: Final = 24 * 3600
MAX_LINES: Final = 50_000
# How long files are kept, seconds.
MIN_TTL_S: Final = 3600
MAX_TTL_S: Final = 30 * 24 * 3600
# Of one owner: batches under way, and files.
MAX_OPEN: Final = 100
MAX_FILES: Final = 10_000

Json = dict[str, Any]


def new_id(prefix: str) -> str:
    """Return an id that cannot be guessed; ids sort by age, so that a list can go on after one that is gone."""
    return f"{prefix}{int(time.time() * 1000):012x}{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file beside its bytes.

    Attributes:
        id: ``file-*``.
        owner: only calls of the same owner may see it.
        filename: the owner's own; for an output, made from the batch's id.
        purpose: ``batch`` or ``batch_output``.
        num_bytes: its size.
        created_at: unix seconds.
        expires_at: unix seconds; it is gone then.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """Everything about a batch that never changes.

    Attributes:
        id: ``batch_*``.
        owner: only calls of the same owner may see it.
        endpoint: `CHAT` or `RESPONSES`; every line is a request to it.
        input_file_id: the lines.
        metadata: the caller's own pairs.
        output_ttl_s: how long the output and error files are kept.
        language: in which its errors are written.
        webhook_url: told of its end, beside the owner's endpoints.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    output_ttl_s: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    language: Literal["en", "zh"] = "en"
    webhook_url: str | None = None

    def to_json(self) -> bytes:
        """Write it for the record."""
        return orjson.dumps(asdict(self))

    @property
    def output_id(self) -> str:
        """The id that the output file has once there is one."""
        return _derive("file-", self.id, "output")

    @property
    def error_id(self) -> str:
        """The same for the error file."""
        return _derive("file-", self.id, "errors")


@dataclass(frozen=True, slots=True)
class Batch:
    """One record as it was at the moment of reading.

    Attributes:
        spec: what never changes.
        status: as OpenAI names it.
        times: unix seconds by event, such as ``created`` or ``in_progress``.
        total: lines of the input; 0 until it is validated.
        completed: lines whose answer is in the output file.
        failed: lines that are in the error file.
        line: number of the last line taken from the input.
        offset: bytes of the input up to the end of that line.
        output_file_id: of the answers; None until the batch has ended, and if there are none.
        error_file_id: of the errors; the same.
        errors: why validation failed.
        usage: token counts of all answers together.
    """

    spec: BatchSpec
    status: BatchStatus
    times: Mapping[str, float]
    total: int = 0
    completed: int = 0
    failed: int = 0
    line: int = 0
    offset: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[Json, ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Nothing about it will change any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Admitted:
    """A line that was taken from the input and is not in the output yet.

    Attributes:
        number: of the line, counted from 1.
        offset: where it begins in the input.
        num_bytes: its length.
        custom_id: the caller's name for it.
        attempt: how often its job was begun anew.
    """

    number: int
    offset: int
    num_bytes: int
    custom_id: str
    attempt: int = 0

    def to_json(self) -> bytes:
        """Write it for the record."""
        return orjson.dumps(asdict(self))


def line_job_id(batch_id: str, line: Admitted) -> str:
    """Return the id of a line's job: always the same, so that a line submitted twice is one job."""
    return _derive("resp_", batch_id, f"{line.number}.{line.attempt}")


def line_id(batch_id: str, number: int) -> str:
    """Return the id that a line has in the output."""
    return _derive("batch_req_", batch_id, str(number))


def _derive(prefix: str, batch_id: str, what: str) -> str:
    # Batch ids cannot be guessed, so neither can these.
    return prefix + hashlib.sha256(f"{batch_id}|{what}".encode()).hexdigest()[:32]
