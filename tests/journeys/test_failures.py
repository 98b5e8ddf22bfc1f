"""What happens when things go wrong: cancelled, killed, down, back again. Nothing accepted is lost."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest

from engines.base import GenerationFailedError, InvalidImageError
from tests.journeys.conftest import Stack
from tests.support.servers import start_worker, wait_until

pytestmark = pytest.mark.e2e

QUESTION = "What colour is the owl on the left?"


def hybrid(answer: Any) -> dict[str, Any]:
    extra: dict[str, Any] = answer.model_extra["hybrid"]
    return extra


def test_cancel_of_a_running_job_frees_the_engine_and_stays(stack: Stack) -> None:
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.3
    cancelled_before = engine.num_cancelled
    response = stack.client.responses.create(model="glowl", input=QUESTION, background=True)
    wait_until(lambda: engine.num_running > 0, "the deep branch to run")

    cancelled = stack.client.responses.cancel(response.id)

    assert cancelled.status == "cancelled"
    wait_until(lambda: engine.num_running == 0, "the engine to be free")
    assert engine.num_cancelled == cancelled_before + 1
    assert stack.client.responses.cancel(response.id).status == "cancelled"
    assert stack.client.responses.retrieve(response.id).status == "cancelled"


def test_cancel_of_a_queued_job_means_it_never_starts(stack: Stack) -> None:
    # Given nobody who would take the job
    stack.worker.stop()
    response = stack.client.responses.create(model="glowl", input=QUESTION, background=True)
    engine = stack.engines["owl2"]
    engine.last_request = None

    # When it is cancelled while queued and a worker comes, with another job behind it
    assert stack.client.responses.cancel(response.id).status == "cancelled"
    stack.restart_worker()
    marker = stack.client.responses.create(model="glowl", input="Is this one answered?", background=True)

    # Then only the other one is answered
    stack.wait_for(marker.id, "completed")
    assert engine.last_request is not None
    assert engine.last_request.messages[-1].text == "Is this one answered?"
    assert stack.client.responses.retrieve(response.id).status == "cancelled"


def test_cancel_of_a_finished_response_returns_it_unchanged(stack: Stack) -> None:
    response = stack.client.responses.create(model="glowl", input=QUESTION)

    assert stack.client.responses.cancel(response.id).status == "completed"


def test_a_killed_worker_loses_nothing(stack: Stack) -> None:
    # Given a job in the middle of its deep branch
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.4
    response = stack.client.responses.create(model="glowl", input=QUESTION, background=True)
    wait_until(lambda: engine.num_running > 0, "the deep branch to run")

    # When its worker is killed and another one starts
    stack.worker.kill()
    wait_until(lambda: engine.num_running == 0, "the engine to notice")
    engine.delta_delay_s = 0.0
    stack.restart_worker()

    # Then the job completes, and its record says that it took a second run
    done = stack.wait_for(response.id, "completed")
    assert done.output_text == f"[echo owl2] no pictures, question: {QUESTION}"
    with stack.http as http:
        units = {unit["name"]: unit for unit in http.get(f"/v1/jobs/{response.id}").json()["units"]}
    assert units["deep"]["runs"] == 2
    assert units["deep"]["failures"] == 1


def test_a_stream_survives_the_death_of_the_worker_without_repeating_itself(stack: Stack) -> None:
    engine = stack.engines["owl2"]
    engine.delta_delay_s = 0.2
    events: list[Any] = []

    def read() -> None:
        events.extend(stack.client.responses.create(model="glowl", input=QUESTION, stream=True))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: engine.num_running > 0, "the deep branch to run")
    stack.worker.kill()
    wait_until(lambda: engine.num_running == 0, "the engine to notice")
    engine.delta_delay_s = 0.0
    stack.restart_worker()
    reader.join(300)

    assert events[-1].type == "response.completed"
    final_item = events[-1].response.output[-1]
    said = "".join(
        event.delta for event in events if event.type == "response.output_text.delta" and event.item_id == final_item.id
    )
    assert said == final_item.content[0].text == f"[echo owl2] no pictures, question: {QUESTION}"


def test_without_owl2_english_is_answered_by_glm_which_says_so_and_with_it_again_deep(stack: Stack) -> None:
    stack.stop_engine("owl2")
    stack.wait_for_health(owl2="down")

    degraded = stack.client.responses.create(model="glowl", input=QUESTION)

    assert degraded.output_text.startswith("[echo glm]")
    assert hybrid(degraded)["route"] == "fast"
    assert "owl2" in hybrid(degraded)["degraded"][0]

    stack.start_engine("owl2")
    stack.wait_for_health(owl2="up")
    back = stack.client.responses.create(model="glowl", input=QUESTION)
    assert back.output_text.startswith("[echo owl2]")
    assert hybrid(back)["degraded"] == []


def test_without_glm_chinese_is_answered_by_owl2_which_says_so(stack: Stack) -> None:
    stack.stop_engine("glm")
    stack.wait_for_health(glm="down")

    response = stack.client.responses.create(model="glowl", input="图里有什么？")

    assert response.output_text.startswith("[echo owl2]")
    assert "glm" in hybrid(response)["degraded"][0]

    stack.start_engine("glm")
    stack.wait_for_health(glm="up")
    back = stack.client.responses.create(model="glowl", input="图里有什么？")
    assert back.output_text.startswith("[echo glm]")


def test_an_engine_that_dies_after_the_decision_still_gives_a_degraded_answer(stack: Stack) -> None:
    # Given a job already accepted for both engines
    stack.worker.stop()
    response = stack.client.responses.create(model="glowl", input=QUESTION, background=True)

    # When Owl2 is gone by the time it runs, and stays away for longer than anybody waits
    stack.stop_engine("owl2")
    stack.worker = start_worker({**stack.env, "GLOWL_ENGINE_PATIENCE_S": "2"}, stack.dir / "worker.log")
    done = stack.wait_for(response.id, "completed")

    # Then the draft becomes the answer and the object says why
    assert done.output_text.startswith("[echo glm]")
    assert "owl2 gave no answer (engine_unavailable)" in hybrid(done)["degraded"][0]
    assert hybrid(done)["merge"] == "draft"

    stack.start_engine("owl2")
    stack.wait_for_health(owl2="up")
    stack.worker.stop()
    stack.restart_worker()


def test_an_engine_that_comes_back_in_time_answers_what_waited_for_it(stack: Stack) -> None:
    # Given jobs for an Owl2 that crashed, or is loading, and was asked in vain
    stack.worker.stop()
    ids = [stack.client.responses.create(model="glowl", input=QUESTION, background=True).id for _ in range(3)]
    stack.stop_engine("owl2")
    stack.wait_for_health(owl2="down")
    stack.restart_worker()

    def waits(response_id: str) -> bool:
        with stack.http as http:
            units = {unit["name"]: unit for unit in http.get(f"/v1/jobs/{response_id}").json()["units"]}
        return bool(units["deep"]["runs"] >= 3 and units["deep"]["status"] == "queued")

    wait_until(lambda: all(map(waits, ids)), "three runs in vain")

    # When it is back
    stack.start_engine("owl2")

    # Then it answers, and nothing of all that counted as a failure
    for response_id in ids:
        done = stack.wait_for(response_id, "completed")
        assert done.output_text == f"[echo owl2] no pictures, question: {QUESTION}"
        assert hybrid(done)["degraded"] == []


def test_when_no_branch_gives_an_answer_the_job_fails_with_the_engines_reason(stack: Stack) -> None:
    for engine in stack.engines.values():
        engine.fail_with = GenerationFailedError("the card is on fire")
    response = stack.client.responses.create(model="glowl", input=QUESTION, background=True)

    failed = stack.wait_for(response.id, "failed")

    assert failed.error is not None
    assert failed.error.message == "the card is on fire"
    assert failed.output == []


def test_what_only_the_engine_can_see_is_wrong_is_still_a_400_for_who_waits(stack: Stack) -> None:
    refusal = InvalidImageError("cut off", code="image_parse_error")
    for engine in stack.engines.values():
        engine.fail_with = refusal

    with pytest.raises(openai.BadRequestError) as caught:
        stack.client.responses.create(model="glowl", input=QUESTION)

    assert caught.value.code == "image_parse_error"


def test_with_both_engines_down_the_refusal_is_a_503_in_openai_shape(stack: Stack) -> None:
    for name in ("glm", "owl2"):
        stack.stop_engine(name)
    stack.wait_for_health(glm="down", owl2="down")

    with pytest.raises(openai.InternalServerError) as caught:
        stack.client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": "你好"}])

    assert caught.value.status_code == 503
    assert caught.value.code == "engine_unavailable"
    assert caught.value.response.headers["retry-after"]
    for name in ("glm", "owl2"):
        stack.start_engine(name)
    stack.wait_for_health(glm="up", owl2="up")


def test_redis_away_is_a_503_for_jobs_while_fast_answers_go_on_and_then_all_is_well(stack: Stack) -> None:
    queued = stack.client.responses.create(model="glowl", input=QUESTION)
    stack.redis.stop()

    fast = stack.client.chat.completions.create(model="glowl", messages=[{"role": "user", "content": "你好"}])
    assert (fast.choices[0].message.content or "").startswith("[echo glm]")
    with pytest.raises(openai.InternalServerError) as caught:
        stack.client.responses.create(model="glowl", input=QUESTION, background=True)
    assert caught.value.code == "queue_unavailable"
    assert caught.value.response.headers["retry-after"]

    stack.redis.start()
    # What was answered before is still there, and new work is done, without a restart of anything.
    wait_until(lambda: stack.redis.answers(), "redis")
    assert stack.client.responses.retrieve(queued.id).output_text == queued.output_text
    again = stack.client.responses.create(model="glowl", input=QUESTION, background=True)
    stack.wait_for(again.id, "completed")
