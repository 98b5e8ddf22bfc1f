"""The names of spans and attributes: those of OpenTelemetry's conventions, in the version that is asked for, and ours.

In: a request and what came of it. Out: attributes. Nothing that a caller wrote is among them: no message, no stop
string, no picture, no key.

Source: OpenTelemetry semantic conventions, gen-ai spans; 1.36.0, and as of 1.41 for ``gen_ai_latest_experimental``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engines.base import Delta, GenerationRequest

Attributes = dict[str, Any]

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST: Final = "gen_ai_latest_experimental"
# With it, instrumentations write prompts and answers into spans. Ours never do.
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

PROVIDER: Final = "glowl"
OPERATION: Final = "chat"
FIRST_TEXT: Final = "glowl.first_text"

# Of HTTP, stable.
METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
ERROR: Final = "error.type"
ADDRESS: Final = "server.address"

# Ours.
REQUEST_ID: Final = "glowl.request_id"
RESPONSE_ID: Final = "glowl.response_id"
DECIDED: Final = {"route": "glowl.route", "engine": "glowl.engine", "rule": "glowl.rule"}
CACHE: Final = "glowl.cache"
UNIT: Final = "glowl.unit"
RUN: Final = "glowl.run"
QUEUE: Final = "glowl.queue"
NUM_IMAGES: Final = "glowl.num_images"
ATTEMPT: Final = "glowl.attempt"
EVENT: Final = "glowl.event"
GONE: Final = "glowl.broken_off"
PROCESS: Final = "glowl.process"
BATCH_ID: Final = "glowl.batch_id"


class GenAi:
    """The attributes of one call of a model.

    Args:
        environ: says which version of the conventions is wanted.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        wanted = {word.strip() for word in environ.get(OPT_IN, "").split(",")}
        self.is_latest = LATEST in wanted

    def of_request(self, request: GenerationRequest, model: str) -> Attributes:
        """Return what is known when it begins."""
        sampling = request.sampling
        said: Attributes = {
            "gen_ai.provider.name" if self.is_latest else "gen_ai.system": PROVIDER,
            "gen_ai.operation.name": OPERATION,
            "gen_ai.request.model": model,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.output.type": "text" if sampling.json_schema is None else "json",
            NUM_IMAGES: len(request.images),
        }
        if self.is_latest:
            said["gen_ai.request.stream"] = True
        return {name: value for name, value in said.items() if value is not None}

    def of_answer(self, model: str, last: Delta, first_text_s: float | None) -> Attributes:
        """Return what is known at its end.

        Args:
            model: that has answered.
            last: its last delta.
            first_text_s: seconds until its first text; None if there was none.
        """
        said: Attributes = {"gen_ai.response.model": model}
        if last.finish_reason is not None:
            said["gen_ai.response.finish_reasons"] = (last.finish_reason,)
        if (usage := last.usage) is not None:
            said["gen_ai.usage.input_tokens"] = usage.prompt_tokens
            said["gen_ai.usage.output_tokens"] = usage.completion_tokens
            if self.is_latest:
                said["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
                said["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
        if self.is_latest and first_text_s is not None:
            said["gen_ai.response.time_to_first_chunk"] = first_text_s
        return said


def name_of_call(model: str) -> str:
    """Return the name of a call's span."""
    return f"{OPERATION} {model}"
