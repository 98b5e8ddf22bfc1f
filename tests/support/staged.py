"""Echo engines that play the parts of a job, each of which a test can hold in mid-answer or make fail.

In: a `Script` per question, found by the marker in it. Out: an answer per part that no other part would give, with
characters in it that careless handling of bytes, lines or blanks would lose.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Literal

from engines.base import Delta, GenerationFailedError, GenerationRequest
from engines.echo import EchoEngine

# GLM answering at once, GLM thinking first, Owl2, Owl2 told that its JSON is none, GLM writing the final answer from
# what the others said; and, no engine's, JSON that is merged by field.
Part = Literal["draft", "thinking", "deep", "repair", "compose", "fields"]

SCHEMA = {
    "type": "object",
    "properties": {"side": {"enum": ["left", "right"]}, "count": {"type": "integer"}, "said": {"type": "string"}},
    "required": ["side", "count", "said"],
    "additionalProperties": False,
}
_MARKER = re.compile(r"cell-[a-z\d-]+")
_ANSWER = "[{part}] {marker}: 左边 2 只， “right” 7\u2028– naïve 🦉\n\nso  the right one. "
_SAID = re.compile(r"\[(draft|thinking|deep|repair)\] ")
_OWL2S: tuple[Part, ...] = ("deep", "repair")


def answer_of(part: Part, marker: str, *, is_json: bool = False) -> str:
    """Return what a part says to a question."""
    # What is read from a print, as anything with digits in it, is GLM's; what is seen is Owl2's.
    said = _ANSWER.format(part="draft" if part == "fields" else part, marker=marker)
    if not is_json:
        return said
    value = {"side": "left" if part == "draft" else "right", "count": 2, "said": said}
    # GLM's JSON is what it wrote; all other is written by the merge, which leaves no blanks.
    is_read = part in (*_OWL2S, "fields")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":") if is_read else None)


class Gate:
    """Where a part waits until it may go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._is_open = threading.Event()

    async def wait(self) -> None:
        """Be there, and go on when it is open."""
        self.reached.set()
        await asyncio.to_thread(self._is_open.wait)

    def open(self) -> None:
        """Let through whoever waits or comes."""
        self._is_open.set()


class Script:
    """What happens to the parts of one job.

    Args:
        held: parts that wait at a gate after so many words.
        failing: parts that fail after so many words, behind their gate if they have one.
        in_json: the parts of Owl2, which nothing holds to a schema, that answer in JSON all the same.

    Attributes:
        gates: of the held parts.
        asked: the parts that were asked, in order.
        running: the parts that answer now.
    """

    def __init__(self, held: Mapping[Part, int], failing: Mapping[Part, int], in_json: Collection[Part] = ()) -> None:
        self.held = dict(held)
        self.failing = dict(failing)
        self.in_json = in_json
        self.gates = {part: Gate() for part in held}
        self.asked: list[Part] = []
        self.running: list[Part] = []

    def open_all(self) -> None:
        """Hold nobody any more."""
        for gate in self.gates.values():
            gate.open()


class StagedEngine(EchoEngine):
    """One of the two engines.

    Args:
        name: ``glm`` or ``owl2``.
        scripts: by marker; a question without one is answered without delay.
    """

    def __init__(self, name: str, scripts: Mapping[str, Script]) -> None:
        super().__init__(name)
        self._name = name
        self._scripts = scripts

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Answer, wait or fail as the script says."""
        part, script = self._part_of(request), self._script_of(request)
        script.asked.append(part)
        script.running.append(part)
        num_words = 0
        try:
            async with contextlib.aclosing(super().stream(request)) as deltas:
                async for delta in deltas:
                    if not delta.reasoning:
                        if num_words == script.held.get(part):
                            await script.gates[part].wait()
                        if num_words == script.failing.get(part):
                            raise GenerationFailedError(f"the {part} broke")
                        num_words += 1
                    yield delta
        finally:
            script.running.remove(part)

    def _script_of(self, request: GenerationRequest) -> Script:
        return self._scripts.get(_marker_of(request), Script({}, {}))

    def _part_of(self, request: GenerationRequest) -> Part:
        if self._name == "owl2":
            return "repair" if any(message.role == "assistant" for message in request.messages) else "deep"
        if _SAID.search(request.messages[-1].text):
            return "compose"
        return "thinking" if request.enable_thinking else "draft"

    def _answer_text(self, request: GenerationRequest, pictures: list[str]) -> str:
        part = self._part_of(request)
        is_json = request.sampling.json_schema is not None or part in self._script_of(request).in_json
        return answer_of(part, _marker_of(request), is_json=is_json)


def _marker_of(request: GenerationRequest) -> str:
    found = _MARKER.search("\n".join(message.text for message in request.messages))
    return found.group() if found else ""
