"""Whether traces are kept, and what a process imports for them: nothing, unless somebody wants them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from engines.traces.start import start_traces, wanted_exporters

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "a", "OTEL_TRACES_SAMPLER": "always_on"}, ()),
        (COLLECTOR, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/v1/traces"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": " Console , otlp"}, ("console", "otlp")),
        ({**COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({**COLLECTOR, "OTEL_SDK_DISABLED": "true"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
    ],
)
def test_the_standard_variables_say_whether_traces_are_kept(environ: dict[str, str], expected: tuple[str, ...]) -> None:
    assert wanted_exporters(environ) == expected


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "otlp, console and none, not zipkin"),
        ({**COLLECTOR, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc is wanted"),
    ],
)
def test_what_cannot_be_done_is_said_and_no_reason_not_to_serve(
    environ: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert start_traces("api", environ) is None
    assert said in caplog.text


def test_without_the_packages_it_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "engines.traces.sdk"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    assert start_traces("api", COLLECTOR) is None
    assert "pip install 'glowl[otel]'" in caplog.text


def test_prompts_are_never_in_traces_whatever_the_conventions_would_allow(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("opentelemetry.sdk")
    capture = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    traces = start_traces("api", {"OTEL_TRACES_EXPORTER": "console", **capture})
    assert traces is not None
    traces.end()
    assert "no question and no answer is ever in a trace" in caplog.text


# FastAPI itself imports the few modules of OpenTelemetry's api; what costs is the SDK and what sends.
HEAVY = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter",
    "opentelemetry.proto",
    "google.protobuf",
    "engines.traces.sdk",
)
PROCESSES = {
    "api": "from router.app import create_app; from router.settings import Settings; "
    "create_app(Settings(), start_traces('api'))",
    "worker": "from router.worker import create_worker; from router.settings import Settings; "
    "create_worker(Settings(), traces=start_traces('worker')); import router.bootstrap",
    "engine": "import engines.http.server, engines.echo; "
    "engines.http.server.EngineHost(engines.echo.EchoEngine('glm'), start_traces('glm'))",
}


@pytest.mark.parametrize("process", list(PROCESSES))
def test_nothing_is_imported_for_traces_that_nobody_wants(process: str) -> None:
    lines = ("import json, sys", "from engines.traces.start import start_traces", PROCESSES[process])
    probe = "\n".join((*lines, f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environ)
    assert json.loads(done.stdout.splitlines()[-1]) == []
