"""An echo engine as a process that takes its time.

    python -m tests.support.echo_server NAME SOCKET WORD_S [PREFILL_S [LOAD_S]]

The product's own ``--model echo`` answers at once; chaos and benchmarks need answers that take as long as asked for.
The file that ``ECHO_ANSWERS`` names says what is answered instead of an echo: ``{"a part of the question": {"glm":
"...", "owl2": "..."}}``, with GLM's box marks if it likes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from engines.base import Delta, GenerationRequest
from engines.boxes import BoxReader, MarkedText
from engines.echo import EchoEngine
from engines.http.server import listening
from engines.images import upright_size
from engines.logs import start_logging
from engines.traces.start import start_traces


class SlowEcho(EchoEngine):
    """An echo that waits before its first word, as if it read the question.

    Args:
        name: role in the pair.
        word_s: pause before every word.
        prefill_s: pause before the first one.
        load_s: time until it is ready at all, as if it loaded weights.
        answers: what it says to questions that have a key in them; to others it says what an echo says.
    """

    def __init__(
        self, name: str, word_s: float, prefill_s: float, load_s: float, answers: Mapping[str, Mapping[str, str]]
    ) -> None:
        super().__init__(name, delta_delay_s=word_s, context_tokens=65_536)
        self._answers = {key: said[name] for key, said in answers.items() if name in said}
        self._prefill_s = prefill_s
        self._load_s = load_s

    async def start(self) -> None:
        """Be ready after a while."""
        await asyncio.sleep(self._load_s)
        await super().start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Say the request back, or what is to be said, after a while."""
        await asyncio.sleep(self._prefill_s)
        marked = MarkedText(BoxReader(lambda: [upright_size(image) for image in request.images]))
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                text, boxes = marked.push(delta.text)
                yield replace(delta, text=text + (marked.finish() if delta.finish_reason else ""), boxes=boxes)

    def _answer_text(self, request: GenerationRequest, pictures: list[str]) -> str:
        asked = request.messages[-1].text
        found = next((said for key, said in self._answers.items() if key in asked), None)
        return super()._answer_text(request, pictures) if found is None else found


def read_answers() -> dict[str, dict[str, str]]:
    """What is to be said instead of an echo, if anything."""
    file = os.environ.get("ECHO_ANSWERS")
    found: dict[str, dict[str, str]] = json.loads(Path(file).read_text("utf-8")) if file else {}
    return found


async def serve(name: str, socket: str, word_s: float, prefill_s: float = 0.0, load_s: float = 0.0) -> None:
    """Listen until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    echo = SlowEcho(name, word_s, prefill_s, load_s, ANSWERS)
    async with listening(echo, uds=socket, traces=start_traces(name)):
        await stopping.wait()


ANSWERS = read_answers()

if __name__ == "__main__":
    start_logging(sys.argv[1], "INFO")
    asyncio.run(serve(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])))
