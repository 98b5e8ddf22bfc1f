"""Whether this process keeps traces, and with what: the standard variables of OpenTelemetry decide.

In: the environment. Out: `Traces`, or None; nothing of OpenTelemetry's SDK is imported before it is known to be wanted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from engines.traces.conventions import CAPTURE

if TYPE_CHECKING:
    from engines.traces.sdk import Traces

log = logging.getLogger(__name__)

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def wanted_exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return where traces are to go, as ``OTEL_TRACES_EXPORTER`` names it; nowhere unless somebody has said so.

    Either that variable or the address of a collector is enough.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    named = [word.strip().lower() for word in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if word.strip()]
    if not named and any(environ.get(name, "").strip() for name in _ENDPOINTS):
        named = ["otlp"]
    return tuple(name for name in named if name != "none")


def start_traces(process: str, environ: Mapping[str, str] = os.environ) -> Traces | None:
    """Begin to keep traces, if that is wanted and can be done; what can't be is a warning, and no reason not to serve.

    Args:
        process: its name: ``api``, ``worker``, ``glm``, ``owl2``.
        environ: with the variables ``OTEL_*``.
    """
    exporters = wanted_exporters(environ)
    if not exporters:
        return None
    if unknown := [name for name in exporters if name not in ("otlp", "console")]:
        log.warning("no traces: OTEL_TRACES_EXPORTER takes otlp, console and none, not %s", ", ".join(unknown))
        return None
    protocol = next((found for name in _PROTOCOLS if (found := environ.get(name, "").strip())), "http/protobuf")
    if "otlp" in exporters and protocol != "http/protobuf":
        log.warning("no traces: %s is wanted, and only http/protobuf is spoken (port 4318 of a collector)", protocol)
        return None
    if environ.get(CAPTURE, "").strip().lower() in ("1", "true", "span_only", "span_and_event", "event_only"):
        log.warning("%s is ignored: no question and no answer is ever in a trace", CAPTURE)
    try:
        from engines.traces.sdk import Traces
    except ImportError as error:
        log.warning("no traces: %s is not installed here; pip install 'glowl[otel]'", error.name)
        return None
    traces = Traces.of_environment(process, exporters, environ)
    log.info("traces are kept: %s", ", ".join(exporters))
    return traces
