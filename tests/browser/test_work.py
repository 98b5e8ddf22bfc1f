"""Batches, webhooks, and a redis that is away: what the Jobs view shows of them, in both languages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.browser.conftest import KEYS
from tests.browser.steps import SAMPLES, TIMEOUT_MS, ask, in_both_languages, said, text_of, wait_for
from tests.support.receiver import Receiver
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Visit = Callable[..., Any]


@pytest.fixture
def http(slow: ProcessStack) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    with httpx.Client(base_url=slow.urls[0], headers=headers, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def begin_batch(http: httpx.Client, questions: dict[str, str]) -> str:
    """Make a batch of questions by model; return its id."""
    bodies = [
        {"model": model, "messages": [{"role": "user", "content": text}], "hybrid": {"route": "fast"}}
        for text, model in questions.items()
    ]
    lines = [
        json.dumps({"custom_id": f"r{at}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        for at, body in enumerate(bodies)
    ]
    file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("q.jsonl", "\n".join(lines).encode())})
    asked = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return str(http.post("/v1/batches", json=asked).json()["id"])


def test_a_batch_is_followed_cancelled_and_saved(slow: ProcessStack, visit: Visit, http: httpx.Client) -> None:
    page = visit(slow).open("jobs/batches", key=KEYS[0])
    expect(page.get_by_text(said("batches.empty"))).to_be_visible()
    # Given a batch of which one line asks for a model that is not there, and one that takes longer than anybody waits
    short = begin_batch(http, {"One?": "glowl", "Two?": "glowl", "Three?": "no-such-model"})
    long = begin_batch(http, {f"{'word ' * 200}{number}?": "glowl" for number in range(50)})
    cards = page.locator(".card")
    card = cards.filter(has_text=short)
    # Then both appear by themselves, and move
    counts = said("batches.counts", completed=2, total=3, failed=1)
    expect(card).to_contain_text(counts, timeout=TIMEOUT_MS)
    expect(card.get_by_role("progressbar")).to_have_accessible_name(said("batches.progress", n=3, all=3))
    running = cards.filter(has_text=long)
    running.get_by_role("button", name="Cancel").click()
    expect(page.locator("#announcements")).to_have_text(said("jobs.cancelled"))
    for language in in_both_languages(page):
        expect(card.locator(".status")).to_have_text(said("batch.completed", language))
        expect(running.locator(".status")).to_have_text(said("batch.cancelled", language), timeout=TIMEOUT_MS)
    # And the answers and the errors can be saved
    with page.expect_download() as saved:
        card.get_by_role("button", name=said("batches.output")).click()
    assert saved.value.suggested_filename == f"{short}-output.jsonl"
    answers = saved.value.path().read_text("utf-8").splitlines()
    assert sorted(json.loads(each)["custom_id"] for each in answers) == ["r0", "r1"]
    with page.expect_download() as saved:
        card.get_by_role("button", name=said("batches.errors")).click()
    assert [json.loads(each)["custom_id"] for each in saved.value.path().read_text("utf-8").splitlines()] == ["r2"]


def test_a_batch_that_cannot_begin_says_why(slow: ProcessStack, visit: Visit, http: httpx.Client) -> None:
    file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("q.jsonl", b"\n")}).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = http.post("/v1/batches", json=asked).json()["id"]

    card = visit(slow).open("jobs/batches", key=KEYS[0]).locator(".card").filter(has_text=batch)

    expect(card.locator(".status")).to_have_text(said("batch.failed"), timeout=TIMEOUT_MS)
    expect(card.locator(".error")).to_have_text("The input file has no lines.")


def test_a_webhook_that_failed_is_sent_again(
    slow: ProcessStack, visit: Visit, http: httpx.Client, receiver: Receiver
) -> None:
    page = visit(slow).open("jobs/webhooks", key=KEYS[0])
    # Given a receiver that is broken once
    receiver.answers = [503]
    body = {"model": "glowl", "input": "Did it arrive?", "hybrid": {"route": "fast"}}
    assert http.post("/v1/responses", json={**body, "metadata": {"webhook_url": receiver.url}}).status_code == 200
    first, _ = receiver.next()
    card = page.locator(".card").filter(has_text=receiver.url)
    for language in in_both_languages(page):
        expect(card.locator(".status").first).to_have_text(said("delivery.pending", language), timeout=TIMEOUT_MS)
    card.get_by_text(said("webhooks.attempts", n=1)).click()
    expect(card.locator("li").filter(has_text="503")).to_be_visible()
    # When it is sent again
    card.get_by_role("button", name=said("webhooks.redeliver")).click()
    again, _ = receiver.next()
    # Then it is the same event, and it is delivered
    assert again["webhook-id"] == first["webhook-id"]
    delivered = page.locator(".card").filter(has_text=receiver.url).filter(has_text=said("delivery.succeeded"))
    expect(delivered.first).to_be_visible(timeout=TIMEOUT_MS)


def test_one_look_that_redis_did_not_answer_is_no_reason_to_keep_nothing(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    page.locator(".samples button").first.wait_for()
    held: list[Any] = []
    misses = 0

    def say_away(route: Any) -> None:
        nonlocal misses
        misses += 1
        reply = route.fetch()
        route.fulfill(response=reply, json={**reply.json(), "redis": False, "redis_state": "away"})

    # Given one look in which redis was away, and no other yet
    page.route("**/readyz", lambda route: held.append(route) if misses else say_away(route))
    with page.expect_response("**/readyz"):
        pass
    # Then a question is sent to be kept
    with page.expect_request(lambda sent: sent.url.endswith("/v1/responses") and sent.method == "POST") as sent:
        bubble = ask(page, "这是什么？")
    assert sent.value.post_data_json.get("store", True)
    wait_for(bubble, "completed")
    # And with a second one like it the banner says so
    while not held:
        page.wait_for_timeout(50)
    say_away(held[0])
    expect(page.get_by_role("status").filter(has_text=said("trouble.redis", "en"))).to_be_visible()


def test_without_redis_the_page_says_so_and_answers(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    page.locator(".samples button").first.wait_for()
    # When redis is killed
    slow.kill("redis")
    # Then a question that the page asks before it knows is answered by GLM
    assert text_of(wait_for(ask(page, "Is it there?"), "completed")).startswith("[echo glm]")
    for language in in_both_languages(page):
        banner = page.get_by_role("status").filter(has_text=said("trouble.redis", language))
        expect(banner).to_be_visible(timeout=TIMEOUT_MS)
    # Then a question with a picture is answered all the same, and a further one knows of it
    bubble = wait_for(ask(page, "Is it | big?", SAMPLES / "count.png"), "completed")
    assert text_of(bubble).startswith("[echo glm] 1 picture")
    wait_for(ask(page, "And small?"), "completed")
    # And so is one for the deep route; one for Owl2 alone is refused, as the banner says
    assert text_of(wait_for(ask(page, "Is it red?", route="deep"), "completed")).startswith("[echo glm]")
    wait_for(ask(page, "Is it blue?", route="owl2"), "refused")
    # And no view breaks
    for view in ("jobs", "status", "lab"):
        page.goto(f"{slow.urls[0]}/ui/#/{view}")
        expect(page.locator("h1")).to_have_text(said(f"view.{view}"))
        expect(banner).to_be_visible()
    # And when it is back, the banner goes, and what is asked is kept again
    slow.start("redis")
    expect(banner).to_have_count(0, timeout=TIMEOUT_MS)
    page.goto(f"{slow.urls[0]}/ui/#/ask")
    bubble = wait_for(ask(page, "这是什么？", route="glm"), "completed")
    expect(page.locator(".history li.open")).to_contain_text("这是什么？")


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_running_job_fits_a_phone(slow: ProcessStack, visit: Visit, http: httpx.Client, status: str) -> None:
    asked = {"model": "glowl", "background": True, "input": "Compare " + "many long words " * 100 + "?"}
    job = http.post("/v1/responses", json=asked).json()["id"]

    def say_far_back(route: Any) -> None:
        reply = route.fetch()
        told = reply.json()
        for each in told["data"]:
            if each["id"] == job:
                each |= {"status": status, "queue": {"position": 128, "eta_ms": 754_000}}
        route.fulfill(response=reply, json=told)

    visitor = visit(slow, viewport={"width": 390, "height": 800})
    visitor.context.route("**/v1/jobs?*", say_far_back)
    page = visitor.open("jobs", key=KEYS[0])

    row = page.locator(f"tr[data-id={job}]")
    for _ in in_both_languages(page):
        expect(row.locator("progress")).to_be_visible(timeout=TIMEOUT_MS)
        expect(row).to_contain_text("128")
        stop = row.get_by_role("button").first.bounding_box()
        assert stop is not None
        assert stop["x"] + stop["width"] <= 390, "it can be cancelled without scrolling sideways"
    http.post(f"/v1/responses/{job}/cancel")


def test_a_chart_of_a_single_look_says_when_that_was(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow)
    visitor.context.add_init_script(
        "window.drawn = []; const fill = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {"
        "  window.drawn.push(text); return fill.call(this, text, ...rest); };"
    )
    page = visitor.open("status", key=KEYS[0])
    page.locator(".chart canvas").first.wait_for()
    page.wait_for_function("drawn.some((text) => /^\\d\\d:\\d\\d:\\d\\d$/.test(text))")

    hours = page.evaluate("drawn.filter((text) => /^\\d\\d:\\d\\d:\\d\\d$/.test(text)).map((text) => text.slice(0, 2))")
    near = page.evaluate(
        "[-60, 0, 60].map((s) => new Date(Date.now() + s * 1000).toLocaleTimeString('en-GB').slice(0, 2))"
    )
    assert set(hours) <= set(near)
