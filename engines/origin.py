"""Where work comes from: the ids that lead from any process back to the request that caused it.

In: the door's request, a job record, or the headers of a call. Out: an `Origin`, which log lines and traces name.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


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


NOWHERE: Final = Origin()

# Of what runs now; each task has a copy of its maker's. Work that outlives the request that began it sets its own.
ORIGIN: ContextVar[Origin] = ContextVar("origin", default=NOWHERE)
