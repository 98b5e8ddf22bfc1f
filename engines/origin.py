"""Where work comes from: the ids that lead from any process back to the request that caused it.

In: the door's request, a job record, or the headers of a call. Out: an `Origin`, which log lines and traces name.
"""

from __future__ import annotations

from contextvars import Context, ContextVar
from dataclasses import asdict, dataclass, fields
from typing import Final

import orjson


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that some work is done for.

    Attributes:
        request_id: ``x-request-id`` of the request at the api; empty for work of no request.
        response_id: of the job or answer; empty before there is one.
        traceparent: W3C trace context of what caused it; empty where no traces are kept.
        tracestate: of the same trace; empty for none.
    """

    request_id: str = ""
    response_id: str = ""
    traceparent: str = ""
    tracestate: str = ""

    def to_text(self) -> bytes:
        """Return it as a record has it; empty if it says nothing."""
        said = {name: value for name, value in asdict(self).items() if value}
        return orjson.dumps(said) if said else b""

    @classmethod
    def from_text(cls, text: bytes) -> Origin:
        """Read `to_text`'s form, by whichever release it was written."""
        said = orjson.loads(text) if text else {}
        return cls(**{each.name: str(said[each.name]) for each in fields(cls) if each.name in said})


NOWHERE: Final = Origin()


def of_nobody() -> Context:
    """Return the context for a task that outlives what happens to start it: ``create_task(..., context=...)``."""
    return Context()


def to_trace_headers(origin: Origin) -> dict[str, str]:
    """Return the headers that hand a trace on (W3C Trace Context); none where no traces are kept."""
    if not origin.traceparent:
        return {}
    headers = {"traceparent": origin.traceparent}
    return headers | {"tracestate": origin.tracestate} if origin.tracestate else headers


# Of what runs now; each task has a copy of its maker's. Work that outlives the request that began it sets its own.
ORIGIN: ContextVar[Origin] = ContextVar("origin", default=NOWHERE)
