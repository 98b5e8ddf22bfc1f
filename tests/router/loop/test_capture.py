from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import SamplingParams, Usage
from router.jobs.job import BranchPlan, Job, JobSpec, Unit
from router.jobs.results import FinalAnswer, UnitResult
from router.loop import capture as module
from router.loop.capture import Capture, to_terms
from router.loop.records import Feedback, Terms, to_exchange
from router.loop.store import LoopStore
from tests.support.exchanges import make_picture


def ended_job(number: int = 1, *, owner: str = "own_a", is_captured: bool = True, text: str = "打 13812345678") -> Job:
    picture = make_picture()
    spec = JobSpec(
        id=f"resp_{number}",
        owner=owner,
        created_at=1000.0,
        model="glowl",
        messages=[
            {
                "role": "user",
                "parts": [
                    {"type": "image", "sha256": picture.sha256, "media_type": "image/png"},
                    {"type": "text", "text": text},
                ],
            }
        ],
        sampling=SamplingParams(),
        decision={"route": "deep", "rule": "english", "engine": "owl2"},
        language="zh",
        branches=(BranchPlan("draft", "glm"), BranchPlan("deep", "owl2")),
        strategy="deep",
        is_captured=is_captured,
    )
    units = {
        "draft": Unit("draft", "completed", result=UnitResult("one", "glm", usage=Usage(5, 1), duration_s=0.25)),
        "deep": Unit("deep", "completed", result=UnitResult("two", "owl2", usage=Usage(6, 2), duration_s=1.5)),
        "merge": Unit("merge", "completed"),
    }
    final = FinalAnswer("two a@b.cn", "owl2", "owl2", "deep", agreement=0.5, usage=Usage(11, 3))
    return Job(spec, "completed", units, completed_at=1002.0, final=final)


def _capture(folder: Path, captures: str = "pictures") -> Capture:
    terms = {"own_a": to_terms(captures, None, keep_s=100.0)}
    return Capture(folder, lambda owner: terms.get(owner, Terms()), revisions=lambda: {"glm": "pocket@1"})


async def test_an_answer_is_kept_redacted_with_its_pictures(tmp_path: Path) -> None:
    capture = _capture(tmp_path / "loop")
    capture.add(ended_job(), [make_picture()])
    assert await capture.flush()
    capture.close()
    with LoopStore(tmp_path / "loop") as store:
        found = store.get("resp_1")
        assert found is not None
        assert (found.question, found.final, found.draft, found.deep) == ("打 [phone]", "two [email]", "one", "two")
        assert found.messages[0]["parts"][1]["text"] == "打 [phone]"
        assert (found.agreement, found.took_s, found.prompt_tokens, found.rule) == (0.5, 2.0, 11, "english")
        assert found.answers["deep"].took_s == 1.5
        assert found.revisions == {"glm": "pocket@1"}
        (kept,) = store.pictures(found.pictures).values()
        assert kept.file is not None
        assert kept.look.kind == "graphic"
        assert store.expire(1099.0) == 0
        assert store.expire(1100.0) == 1


@pytest.mark.parametrize("job", [ended_job(owner="own_b"), ended_job(is_captured=False)], ids=["owner", "request"])
async def test_without_consent_there_is_no_trace(tmp_path: Path, job: Job) -> None:
    capture = _capture(tmp_path / "loop")
    capture.add(job, [make_picture()])
    assert await capture.flush()
    capture.close()
    assert not (tmp_path / "loop").exists()


async def test_with_consent_to_texts_pictures_are_only_measured(tmp_path: Path) -> None:
    capture = _capture(tmp_path / "loop", "text")
    capture.add(ended_job(), [make_picture()])
    assert await capture.flush()
    capture.close()
    with LoopStore(tmp_path / "loop") as store:
        (kept,) = store.pictures([make_picture().sha256]).values()
        assert (kept.file, kept.look.width_px) == (None, 40)
    assert not (tmp_path / "loop/pictures").exists()


async def test_a_disk_that_takes_nothing_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a disk that is full
    is_full, tries = threading.Event(), threading.Event()
    is_full.set()
    put = LoopStore.put

    def fails(store: LoopStore, *arguments: Any) -> bool:
        if is_full.is_set():
            tries.set()
            raise sqlite3.OperationalError("database or disk is full")
        return put(store, *arguments)

    monkeypatch.setattr(LoopStore, "put", fails)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 3 * 8 * 1024)
    capture = _capture(tmp_path / "loop")
    # When more answers come than memory may hold
    for number in range(5):
        capture.add(ended_job(number))
    assert tries.wait(300)
    # Then those that do not fit are counted, it is said once, and the rest is written when there is room again
    assert capture.lost == 2
    is_full.clear()
    assert await capture.flush(300)
    capture.close()
    with LoopStore(tmp_path / "loop") as store:
        assert store.count("own_a") == 3
    assert [record.levelname for record in caplog.records if "cannot be written" in record.message] == ["ERROR"]


async def test_arguments_of_functions_are_redacted_too(tmp_path: Path) -> None:
    job = ended_job()
    call = {"id": "call_1", "name": "find", "arguments": '{"mail": "a@b.cn"}'}
    asked = [*job.spec.messages, {"role": "assistant", "parts": [], "tool_calls": [call]}]
    exchange = to_exchange(replace(job, spec=replace(job.spec, messages=asked)), frozenset({"email"}))
    assert exchange.messages[1]["tool_calls"] == [{**call, "arguments": '{"mail": "[email]"}'}]


async def test_what_is_kept_goes_by_what_its_owner_says_now(tmp_path: Path) -> None:
    keep_s = 100.0
    capture = Capture(tmp_path, lambda _: Terms("text", keep_s), clock=lambda: 1060.0)
    capture.add(ended_job())
    assert await capture.flush()
    assert await capture.expire() == 0
    keep_s = 50.0
    assert await capture.expire() == 1
    capture.close()


async def test_feedback_is_redacted_too(tmp_path: Path) -> None:
    capture = _capture(tmp_path / "loop")
    kept = await capture.say("resp_1", "own_a", Feedback("down", {"mail": "a@b.cn"}, {"tel": "13812345678"}, "x@y.cn"))
    assert (kept.correction, kept.fields, kept.comment) == ({"mail": "[email]"}, {"tel": "[phone]"}, "[email]")


def test_terms_of_a_newer_release_capture_nothing() -> None:
    assert to_terms("video", None, keep_s=1).captures == "off"
    assert to_terms("text", ["email", "dna"], keep_s=1) == Terms("text", 1, frozenset({"email"}))
