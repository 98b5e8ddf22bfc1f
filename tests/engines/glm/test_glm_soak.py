"""The whole GLM engine under mixed requests whose callers come and leave at random: nothing may be left behind.

150 requests in the default run; ``GLOWL_SOAK_REQUESTS=2000 pytest -s tests/engines/glm/test_glm_soak.py`` for more.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import os
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from engines import base
from engines.base import (
    ContextLengthError,
    EngineOptions,
    EngineOverloadedError,
    GenerationFailedError,
    GenerationRequest,
    ImagePart,
    InvalidImageError,
    Message,
    SamplingParams,
    TextPart,
    TooManyImagesError,
)
from engines.glm.decoding import Answer
from engines.glm.engine import GlmEngine, load
from engines.glm.runner import Pixels, PreparedRequest, Row
from engines.pocket.files import GLM_CONTEXT_TOKENS
from engines.pocket.random_tiny import make_glm

NUM_REQUESTS = int(os.environ.get("GLOWL_SOAK_REQUESTS", "150"))
NUM_CALLERS = 16  # more than rows and line hold, so that some are refused
CACHE_BYTES = 2_000_000  # so little that entries are let go all the time


def picture(colour: tuple[int, int, int], size: tuple[int, int]) -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", hashlib.sha256(buffer.getvalue()).hexdigest())


PICTURES = [
    picture(((40 * index) % 256, (90 * index) % 256, 128), size)
    for index, size in enumerate([(60, 60), (60, 60), (120, 90), (200, 40), (300, 220), (28, 400)])
]
BROKEN = replace(PICTURES[2], data=PICTURES[2].data[:70])
QUESTIONS = ["What is it?", "图片里有什么？", "Compare them, please.", "Count to ten. " * 20]


def make_request(chance: random.Random, due: str | None) -> tuple[str, GenerationRequest]:
    """Draw a request, and what has to come of it if nobody leaves; its kind is drawn too if none is due."""
    kind = (
        due
        or chance.choices(
            ["greedy", "sampled", "follow-up", "broken", "many", "long", "nan"], weights=[40, 15, 15, 4, 3, 3, 5]
        )[0]
    )
    text = TextPart(chance.choice(QUESTIONS))
    images = tuple(chance.sample(PICTURES, chance.choice([0, 0, 1, 1, 2, 3])))
    sampling = SamplingParams(max_tokens=40 if due else chance.choice([1, 4, 12, 40]))
    history: tuple[Message, ...] = ()
    if kind == "sampled":
        sampling = replace(sampling, temperature=1.5, top_p=0.9, top_logprobs=2, stop=("the",))
    elif kind == "follow-up":
        history = (Message("user", (*images, text)), Message("assistant", (TextPart("A red circle."),)))
    elif kind == "broken":
        images = (*images, BROKEN)
    elif kind == "many":
        images = (PICTURES[0],) * 17
    elif kind == "long":
        text = TextPart("好" * (4 * GLM_CONTEXT_TOKENS))
    question = Message("user", (text,) if history else (*images, text))
    return kind, GenerationRequest(
        (*history, question),
        sampling,
        enable_thinking=chance.random() < 0.2,
        request_id="nan" if kind == "nan" else "",
        caller=chance.choice(["alice", "bob", ""]),
    )


EXPECTED_ERRORS = {
    "broken": InvalidImageError,
    "many": TooManyImagesError,
    "long": ContextLengthError,
    "nan": GenerationFailedError,
}


def count_live() -> dict[str, int]:
    """Count what requests are made of, and the bytes of every tensor that is alive."""
    gc.collect()
    kinds = {"rows": Row, "jobs": PreparedRequest, "answers": Answer, "pixels": Pixels}
    counts = dict.fromkeys([*kinds, "tensor bytes"], 0)
    storages: dict[int, int] = {}
    for item in gc.get_objects():
        for name, kind in kinds.items():
            counts[name] += type(item) is kind
        if issubclass(type(item), torch.Tensor):  # isinstance would ask strange objects for their class
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return counts | {"tensor bytes": sum(storages.values())}


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def let_go(engine: GlmEngine) -> None:
    """Free what is kept on purpose: the caches, and the batch's memory."""
    assert engine._scheduler is not None
    assert engine._runner is not None
    await engine._scheduler.call(engine._runner.relieve)


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[GlmEngine], None]:
    """Let the numbers of some requests overflow at their third token: theirs only."""

    def spoil(engine: GlmEngine) -> None:
        assert engine._runner is not None
        real = engine._runner._pick
        jobs: set[int] = set()
        assemble = engine.assemble

        def pick(logits: torch.Tensor, rows: list[Row]) -> object:
            for index, row in enumerate(rows):
                if id(row.job) in jobs and len(row.token_ids) == 2:
                    logits[index] = float("nan")
            return real(logits, rows)

        def note(plan: object, pictures: object, request: GenerationRequest) -> PreparedRequest:
            job = assemble(plan, pictures, request)  # type: ignore[arg-type]
            (jobs.add if request.request_id == "nan" else jobs.discard)(id(job))
            return job

        monkeypatch.setattr(engine._runner, "_pick", pick)
        monkeypatch.setattr(engine, "assemble", note)

    return spoil


async def test_mixed_requests_with_callers_who_leave_cost_no_memory_no_place_and_no_thread(
    tmp_path: Path, spoiled: Callable[[GlmEngine], None]
) -> None:
    # Given a warm engine with little room, and what is alive in it
    torch.set_num_threads(1)
    make_glm(tmp_path)
    options = EngineOptions(str(tmp_path), device="cpu", max_queue=8, max_batch=6, cache_bytes=CACHE_BYTES)
    engine = load(options)
    await engine.start()
    spoiled(engine)
    for index in range(8):  # the pool's threads start one by one
        await base.generate(engine, GenerationRequest((Message("user", (*PICTURES, TextPart(str(index)))),)))
    await let_go(engine)
    live, threads, tasks = count_live(), set(threading.enumerate()), len(asyncio.all_tasks())
    chance = random.Random(4)
    outcomes: Counter[str] = Counter()
    answers: dict[GenerationRequest, str] = {}
    dues = list(EXPECTED_ERRORS)  # each comes once for certain: which draw a caller gets depends on the machine
    most_rows, num_refused, num_left, started = 0, 0, NUM_REQUESTS, time.monotonic()
    memory = [resident_mb()]

    async def ask(kind: str, request: GenerationRequest, stays: bool) -> None:
        nonlocal most_rows, num_refused
        leaves_after = None if stays else chance.choice([None] * 7 + [0, 1, 3])
        text = ""
        try:
            async with aclosing(engine.stream(request)) as deltas:
                async for delta in deltas:
                    most_rows = max(most_rows, engine._scheduler.num_running)  # type: ignore[union-attr]
                    text += delta.text
                    if leaves_after is not None and (leaves_after := leaves_after - 1) < 0:
                        outcomes["left"] += 1
                        return
        except EngineOverloadedError:
            num_refused += 1
            raise
        except tuple(EXPECTED_ERRORS.values()) as error:
            outcomes[kind if type(error) is EXPECTED_ERRORS.get(kind) else f"{kind}: {error!r}"] += 1
        else:
            assert delta.usage is not None
            assert kind not in EXPECTED_ERRORS or (kind == "nan" and delta.usage.completion_tokens < 3)
            outcomes["answered"] += 1
            if kind in ("greedy", "follow-up"):  # the same question has the same answer, whoever is beside it
                known = answers.setdefault(replace(request, caller="", request_id=""), text)
                assert text == known

    async def caller() -> None:
        nonlocal num_left
        while num_left > 0:
            num_left -= 1
            if num_left == NUM_REQUESTS // 2:
                memory.append(resident_mb())
            due = dues.pop() if dues else None
            question = make_request(chance, due)
            while True:
                task = asyncio.create_task(ask(*question, stays=due is not None))
                if not due and chance.random() < 0.15:  # a caller whose connection breaks, at any moment
                    await asyncio.sleep(chance.random() * 0.05)
                    task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    outcomes["cancelled"] += 1
                elif isinstance(task.exception(), EngineOverloadedError):
                    await asyncio.sleep(0.02)  # what Retry-After would tell
                    continue
                else:
                    task.result()
                break

    # When callers ask and leave
    await asyncio.gather(*(caller() for _ in range(NUM_CALLERS)))
    memory.append(resident_mb())

    # Then everything happened that should, places and line are free again, and the engine still answers
    assert engine._runner is not None
    assert engine._scheduler is not None
    stats = engine._runner.cache.stats
    print(f"\n{NUM_REQUESTS} requests, {time.monotonic() - started:.0f} s, {num_refused} refusals: {dict(outcomes)}")
    print(f"resident MB at the start, half way, at the end: {[round(mb) for mb in memory]}; {stats}")
    assert sum(outcomes.values()) == NUM_REQUESTS
    assert set(outcomes) == {"answered", "left", "cancelled", *EXPECTED_ERRORS}
    assert num_refused
    assert most_rows == options.max_batch
    assert stats.num_evictions > 0
    assert stats.num_bytes <= CACHE_BYTES
    assert stats.num_prefix_tokens_reused > 0
    await base.generate(engine, GenerationRequest((Message("user", (PICTURES[0], TextPart("Hi"))),)))
    await let_go(engine)
    assert (engine._scheduler.num_running, engine._scheduler.num_waiting) == (0, 0)
    assert not engine._runner._places
    assert not engine._runner._batch.lengths
    assert engine._pixels.num_held == 0
    assert set(threading.enumerate()) == threads
    assert len(asyncio.all_tasks()) == tasks
    assert count_live() == live

    # And closing it ends its threads
    await engine.aclose()
    engine._pool.shutdown(wait=True)
    for thread in threading.enumerate():
        if thread.name.startswith("glm-"):  # one of pictures ends a moment after the last picture
            await asyncio.to_thread(thread.join, 60)
            assert not thread.is_alive()
