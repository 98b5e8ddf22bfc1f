"""What a round of chaos consists of, drawn from one seed: the jobs, when they are sent, and who is killed when.

Only the plan follows from the seed. How processes interleave does not, which is the point of running many rounds.
"""

from __future__ import annotations

import base64
import io
import random
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

Kind = Literal["poll", "wait", "stream", "cancel", "direct", "chat"]

KEYS = ("key-of-anna", "key-of-bo", "key-of-chen")
COLOURS = ("red", "teal", "gold")
SIZE = (40, 30)
_MODELS = ("glowl", "glowl", "mplug-owl2", "glm-4.6v-flash")
_KINDS: tuple[Kind, ...] = ("poll", "poll", "wait", "stream", "stream", "cancel", "direct", "chat")
# About what an answer takes here when nothing goes wrong, so that some make it and some don't.
_DEADLINE_MS = 1500


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job and what its caller does with it.

    Attributes:
        number: within the round; also its question's.
        key: the caller's API key.
        kind: how the caller gets the answer.
        at_s: when it is sent, from the start of the round.
        body: of ``POST /v1/responses``; of ``/v1/chat/completions`` for a chat.
        question: what an echo says back.
        has_picture: one is in the body.
        num_reposts: how often the same request is sent again under its key, in the middle of things.
        cancel_after_s: from the moment it was accepted.
        has_webhook: the receiver wants to hear of it.
    """

    number: int
    key: str
    kind: Kind
    at_s: float
    body: dict[str, Any]
    question: str
    has_picture: bool
    num_reposts: int
    cancel_after_s: float
    has_webhook: bool

    @property
    def deadline_s(self) -> float | None:
        """After so long the caller wants an answer or the news that there is none."""
        deadline_ms = self.body["hybrid"].get("deadline_ms")
        return None if deadline_ms is None else deadline_ms / 1000

    @property
    def answers(self) -> frozenset[str]:
        """The texts that are right: whichever engine wrote them, to this question and no other."""
        pictures = f"1 picture ({SIZE[0]}x{SIZE[1]} png)" if self.has_picture else "no pictures"
        return frozenset(f"[echo {name}] {pictures}, question: {self.question}" for name in ("glm", "owl2"))


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """A ``kill -9``.

    Attributes:
        after_s: since the start of the round.
        victim: name of the process.
        down_s: until it is started again.
    """

    after_s: float
    victim: str
    down_s: float


def plan_kills(
    seed: int, num_kills: int, victims: dict[str, list[str]], gap_s: tuple[float, float]
) -> list[PlannedKill]:
    """Draw kills that take turns among the kinds of process.

    Args:
        seed: of the round.
        num_kills: how many.
        victims: names of processes by kind.
        gap_s: shortest and longest time between two.
    """
    chance = random.Random(f"kills {seed}")
    kinds: list[str] = []
    kills, now_s = [], 0.0
    for _ in range(num_kills):
        kinds = kinds or chance.sample(sorted(victims), len(victims))
        now_s += chance.uniform(*gap_s)
        kills.append(PlannedKill(now_s, chance.choice(victims[kinds.pop()]), chance.uniform(0.0, 1.0)))
    return kills


def plan_jobs(seed: int, num_jobs: int, span_s: float, webhook_url: str) -> list[PlannedJob]:
    """Draw jobs that are sent over a time in which kills happen; a job's number is added to the receiver's URL."""
    chance = random.Random(f"jobs {seed}")
    jobs = []
    for number in range(num_jobs):
        kind = _KINDS[number % len(_KINDS)]
        words = " ".join(
            chance.choice(("wide", "blue", "left", "small", "round")) for _ in range(chance.randint(2, 24))
        )
        question = f"What is in row {number} of list {seed}, where it says {words}?"
        has_picture, has_webhook = chance.random() < 0.3, chance.random() < 0.7
        content: list[dict[str, Any]] = [{"type": "input_text", "text": question}]
        if has_picture:
            content.insert(0, {"type": "input_image", "image_url": _picture(chance.choice(COLOURS))})
        body: dict[str, Any] = {
            "model": chance.choice(_MODELS),
            "input": [{"role": "user", "content": content}],
            "background": kind not in ("wait", "direct"),
            "stream": kind in ("stream", "direct"),
            "metadata": {"number": str(number)},
            "hybrid": {},
        }
        if kind == "poll" and chance.random() < 0.4:
            # A model by name: what the policy makes of a deadline is tested elsewhere.
            body["model"], body["hybrid"] = "mplug-owl2", {"deadline_ms": _DEADLINE_MS}
        # Whoever waits in the foreground must wait for a job: the fast route has none.
        if kind == "wait":
            body["model"], body["hybrid"] = chance.choice(("glowl", "mplug-owl2")), {"route": "deep"}
        if kind == "direct":
            body["model"], body["hybrid"] = chance.choice(("glowl", "glm-4.6v-flash")), {"route": "fast"}
        if kind == "chat":
            body = _to_chat(body)
        if has_webhook:
            body["metadata"]["webhook_url"] = f"{webhook_url}/{number}"
        jobs.append(
            PlannedJob(
                number=number,
                key=chance.choice(KEYS),
                kind=kind,
                at_s=chance.uniform(0.0, span_s),
                body=body,
                question=question,
                has_picture=has_picture,
                num_reposts=chance.choice((0, 0, 1, 2)),
                cancel_after_s=chance.choice((0.0, chance.uniform(0.0, 2.0))),
                has_webhook=has_webhook,
            )
        )
    return jobs


def _to_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Turn a request for a response into one for a stored chat stream on the fast route."""
    content = [
        {"type": "text", "text": part["text"]}
        if part["type"] == "input_text"
        else {"type": "image_url", "image_url": {"url": part["image_url"]}}
        for part in body["input"][0]["content"]
    ]
    return {
        "model": "glowl",
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "store": True,
        "metadata": body["metadata"],
        "hybrid": {"route": "fast"},
    }


def _picture(colour: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, colour).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
