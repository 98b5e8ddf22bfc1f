"""The Ask view against the models that ship: both routes, in both languages, and what one sees of them."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.browser.steps import SAMPLES, TIMEOUT_MS, ask, said, text_of, wait_for, wait_for_text
from tests.support.servers import wait_until
from tests.support.stack import PocketStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Visit = Callable[..., Any]


def test_two_pictures_get_a_draft_and_then_a_refined_answer(pocket: PocketStack, visit: Visit) -> None:
    # Given a worker that is held, so that the draft has time to be seen
    visitor = visit(pocket)
    page = visitor.open()
    # While redis is late to answer, as on a busy machine, pictures go inside their question
    page.locator(".samples button").first.wait_for()
    expect(page.get_by_role("status").filter(has_text=said("trouble.redis"))).to_have_count(0, timeout=TIMEOUT_MS)
    worker = pocket.processes["worker0"].child
    worker.send_signal(signal.SIGSTOP)
    try:
        # When two pictures are compared in English
        pictures = (SAMPLES / "more-1.png", SAMPLES / "more-2.png")
        bubble = wait_for(ask(page, "Which of the two pictures shows more blue shapes?", *pictures), "refining")
        # Then the draft is shown, with what is known of the wait
        expect(bubble.locator(".state")).to_contain_text("draft; refining (place 1", timeout=TIMEOUT_MS)
        draft = text_of(bubble)
        assert draft
    finally:
        worker.send_signal(signal.SIGCONT)
    # And then the refined answer, in the same bubble
    wait_for(bubble, "completed")
    expect(bubble.locator(".state")).to_have_text("refined")
    wait_for_text(bubble, "second")
    # And the badge says why it went that way
    badge = bubble.locator(".badge")
    expect(badge.locator(".tag.deep")).to_have_text("deep")
    badge.locator("summary").click()
    expect(badge).to_contain_text("mplug-owl2-pocket")
    expect(badge).to_contain_text("distinct pictures in this turn")
    # And the draft is kept, to be compared
    response = httpx.get(f"{visitor.url}/v1/responses/{bubble.get_attribute('data-id')}", trust_env=False).json()
    bubble.get_by_role("tab", name="draft").click()
    assert text_of(bubble) == response["hybrid"]["draft"]["text"].strip() == draft
    page.keyboard.press("ArrowRight")
    expect(bubble.get_by_role("tab", name="difference")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(bubble.locator(".sides section")).to_have_count(2)
    # And no picture went as base64: both were uploaded once and named
    assert [part["type"] for part in response_input(visitor.url, response["id"])] == ["file", "file", "text"]


def response_input(url: str, response_id: str) -> list[dict[str, str]]:
    items = httpx.get(f"{url}/v1/responses/{response_id}/input_items", trust_env=False).json()["data"]
    return [{"type": "file" if part.get("file_id", "").startswith("file-") else "text"} for part in items[0]["content"]]


def test_a_chinese_question_about_one_picture_is_answered_at_once(pocket: PocketStack, visit: Visit) -> None:
    visitor = visit(pocket, locale="zh-CN")
    page = visitor.open()
    expect(page.get_by_role("link", name="提问")).to_have_attribute("aria-current", "page")
    bubble = wait_for(ask(page, "一共有多少个图形？", SAMPLES / "count.png", button="提问"), "completed")
    expect(bubble.locator(".badge .tag.fast")).to_have_text("快速")
    expect(bubble.locator(".state")).to_have_text("已回答")
    wait_for_text(bubble, "4")
    # And a further question goes on from it
    second = wait_for(ask(page, "图中的菱形是什么颜色的？", SAMPLES / "colour.png", button="提问"), "completed")
    response = httpx.get(f"{visitor.url}/v1/responses/{second.get_attribute('data-id')}", trust_env=False).json()
    assert response["previous_response_id"] == bubble.get_attribute("data-id")


def test_samples_pictures_by_keyboard_and_a_title(pocket: PocketStack, visit: Visit) -> None:
    page = visit(pocket).open()
    # Given the page of the small models, which says what they know
    expect(page.locator(".welcome .knows")).to_contain_text("nothing else")
    # And a sample question, which brings its pictures
    page.get_by_role("button", name="Which picture has a blue star?").click()
    uploads = page.locator(".upload img")
    expect(uploads).to_have_count(2)
    first = uploads.nth(0).get_attribute("src")
    # When the first picture is moved to the right with the keyboard
    page.locator(".upload").nth(0).get_by_role("button", name="Move which-1.png to the right").focus()
    page.keyboard.press("Alt+ArrowRight")
    # Then it is the second, and so it is asked
    expect(uploads.nth(1)).to_have_attribute("src", str(first))
    with page.expect_request("**/v1/responses") as sent:
        page.get_by_role("button", name="Ask", exact=True).click()
    bubble = wait_for(page.locator(".exchange").last, "completed")
    wait_for_text(bubble, "first")
    # And nothing forbids an answer of the cache, until it is asked for again
    assert "cache-control" not in sent.value.all_headers()
    with page.expect_request("**/v1/responses") as sent:
        bubble.get_by_role("button", name="Ask again").click()
    assert sent.value.all_headers()["cache-control"] == "no-cache"
    wait_for(page.locator(".exchange").nth(1), "completed")
    # And the conversation can be given a title, found by it, and deleted
    history = page.get_by_role("navigation", name="History")
    entry = history.locator("li.open")
    entry.locator(".menu summary").click()
    entry.get_by_role("button", name="Rename").click()
    history.get_by_role("textbox", name="Title").fill("Stars <img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    expect(history.locator("li.open .title")).to_have_text("Stars <img src=x onerror=alert(1)>")
    history.get_by_role("searchbox", name="Search").fill("stars")
    expect(history.locator("li")).to_have_count(1)
    entry.locator(".menu summary").click()
    entry.get_by_role("button", name="Delete", exact=True).click()
    entry.get_by_role("button", name="Delete it").click()
    expect(history.get_by_text("Nothing found.")).to_be_visible()


def test_an_answer_that_calls_a_function_shows_the_call(pocket: PocketStack, visit: Visit) -> None:
    place = {"type": "string", "enum": ["Paris", "Beijing"]}
    parameters = {"type": "object", "properties": {"place": place}, "required": ["place"]}
    clock = {"type": "function", "name": "clock", "parameters": parameters}
    body = {"model": "glowl", "input": "What time is it there?", "tools": [clock], "tool_choice": "required"}
    visitor = visit(pocket)
    response = httpx.post(f"{visitor.url}/v1/responses", json=body, timeout=600, trust_env=False).json()

    page = visitor.open(f"ask/{response['id']}")

    call = page.locator(".exchange .call").first
    expect(call).to_contain_text("Calls the function clock", timeout=TIMEOUT_MS)
    expect(call.locator("pre")).to_contain_text(re.compile("Paris|Beijing"))


def test_what_cannot_be_taken_is_refused_kindly(pocket: PocketStack, visit: Visit, tmp_path: Path) -> None:
    page = visit(pocket).open()
    chooser = page.locator("input[type=file]").first
    # Given a file that is no picture, with a name that would be a script, and one of 30 MB
    bad, large = tmp_path / "<img src=x onerror=alert(1)>.png", tmp_path / "large.png"
    bad.write_bytes(b"no picture at all")
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 30_000_000)
    chooser.set_input_files([bad, large])
    refusals = page.locator(".upload .error")
    expect(refusals).to_have_count(2, timeout=TIMEOUT_MS)
    expect(refusals.nth(0)).to_contain_text("onerror=alert(1)>.png")
    expect(refusals.nth(1)).to_contain_text("large.png")
    expect(refusals.nth(1)).to_contain_text("20971520")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()
    expect(page.get_by_role("status").filter(has_text=said("ask.refused"))).to_be_visible()
    for _ in range(2):
        page.locator(".upload").first.get_by_role("button", name="Remove").click()
    # And 17 pictures are more than one question may have; the question is not lost
    bubble = wait_for(ask(page, "How many shapes are there?", *[SAMPLES / "count.png"] * 17), "refused")
    expect(bubble.get_by_role("alert")).to_contain_text("16")
    expect(bubble.locator(".asked")).to_have_text("How many shapes are there?")


def test_the_other_views_show_what_happened(pocket: PocketStack, visit: Visit) -> None:
    # Given somebody who looks at metrics: before that nothing is counted
    page = visit(pocket).open("status")
    deep = page.get_by_role("img", name=re.compile(r"time to the answer, deep: P50"))
    expect(deep).to_be_visible()
    page.get_by_role("link", name="Ask").click()
    wait_for(ask(page, "Which colour does the largest cross have?", SAMPLES / "hop.png"), "completed")
    page.get_by_role("link", name="Jobs").click()
    row = page.get_by_role("row").filter(has_text="Which colour does the largest cross have?").first
    expect(row).to_contain_text("completed")
    with page.expect_download() as saved:
        row.get_by_role("button", name="as JSON").click()
    assert saved.value.suggested_filename.startswith("resp_")
    page.get_by_role("link", name="Batches").click()
    expect(page.get_by_text("No batches.")).to_be_visible()
    page.get_by_role("link", name="Webhook deliveries").click()
    expect(page.get_by_text("Nothing was sent to a webhook.")).to_be_visible()
    # And the lab decides while one types, by every preset
    page.get_by_role("link", name="Policy lab").click()
    page.get_by_role("textbox", name="Question", exact=True).fill("Which of them is bigger?")
    page.get_by_role("spinbutton", name="Pictures").fill("2")
    decision = page.locator(".decision")
    expect(decision).to_contain_text("deep")
    expect(decision).to_contain_text("distinct pictures in this turn: 2 against 2")
    expect(page.get_by_role("row").filter(has_text="glm-only")).to_contain_text("fast")
    page.get_by_role("button", name="Decide my last 100 questions again").click()
    expect(page.get_by_text("Going another way: ")).to_be_visible()
    # And the status names the engines
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_text("mplug-owl2-pocket").first).to_be_visible()
    expect(page.get_by_role("img", name="routes")).to_be_visible()
    # And what this process has counted, as numbers and not only as lines
    expect(deep).to_have_accessible_name(re.compile(r"P50 [\d.]+ s, P95 [\d.]+ s"))
    expect(page.get_by_role("img", name=re.compile(r"memory: redis [\d.]+ MB, api [\d.]+ MB"))).to_be_visible()


METRICS = """async ([first, second]) => {
  const base = document.querySelector('link[href$="/core/api.js"]').href;
  const { growth, parse, perMinute, quantile } = await import(new URL("metrics.js", base).href);
  const all = [{ at: 1000, found: parse(first) }, { at: 1300, found: parse(second) }];
  return [
    parse(first).get("odd_total")[0].labels, quantile(all, "t_seconds", 0.5, { route: "deep" }),
    growth(all, "odd_total"), perMinute(all, "odd_total"), growth(all, "nothing_total"),
  ];
}"""


def test_metrics_are_read_as_prometheus_reads_them(pocket: PocketStack, visit: Visit) -> None:
    page = visit(pocket).open()
    page.locator(".samples button").first.wait_for()

    def written(one: int, two: int, whole: int) -> str:
        return (
            f'# HELP odd_total {{"}}\nodd_total{{a="x\\"y,}}",b="\\\\\\n"}} {whole}\n'
            f't_seconds_bucket{{route="deep",engine="a",le="1.0"}} {one}\n'
            f't_seconds_bucket{{route="deep",engine="b",le="1.0"}} 0\nt_seconds_bucket{{route="fast",le="1.0"}} 99\n'
            f't_seconds_bucket{{route="deep",engine="a",le="3.0"}} {two}\n'
            f't_seconds_bucket{{route="deep",engine="a",le="+Inf"}} {whole}\n'
        )

    labels, half, grown, rate, nothing = page.evaluate(METRICS, [written(4, 4, 4), written(4, 12, 14)])
    assert labels == {"a": 'x"y,}', "b": "\\\n"}
    # Of the ten new ones five took less than 1 s and 5/8 of the 2 s above it; at first all that there ever was counts
    assert half == [0.5, 2.25]
    assert (grown, rate) == ([4, 10], [None, 2])
    assert nothing == [None, None]


def test_a_kept_answer_takes_a_thumb_and_a_correction(pocket: PocketStack, visit: Visit) -> None:
    # Given an answer that is kept for data sets
    visitor = visit(pocket)
    page = visitor.open()
    bubble = wait_for(ask(page, "一共有多少个图形？", SAMPLES / "count.png"), "completed")
    # When it is found wrong, and what would have been right is said
    bubble.get_by_role("button", name="Wrong").click()
    bubble.get_by_label("What would have been right?").fill("七个")
    bubble.get_by_role("button", name="Send").click()
    # Then that is kept, and shown as said
    expect(bubble.get_by_label("What would have been right?")).to_have_count(0, timeout=TIMEOUT_MS)
    expect(bubble.get_by_role("button", name="Wrong")).to_have_attribute("aria-pressed", "true")
    path = f"{visitor.url}/v1/responses/{bubble.get_attribute('data-id')}/feedback"
    kept = httpx.get(path, trust_env=False).json()
    assert (kept["rating"], kept["correction"]) == ("down", "七个")


def test_a_reviewer_sees_what_may_be_wrong_and_says_what_is_right(pocket: PocketStack, visit: Visit) -> None:
    # Given two answers that were found wrong, without a word of what would have been right
    visitor = visit(pocket)
    page = visitor.open()
    ids = []
    for question in ("一共有多少个图形？", "蓝色的图形有几个？"):
        bubble = wait_for(ask(page, question, SAMPLES / "count.png"), "completed")
        # The button shows it before it is kept.
        kept = lambda answer: answer.url.endswith("/feedback") and answer.request.method == "POST"  # noqa: E731
        with page.expect_response(kept, timeout=TIMEOUT_MS):
            bubble.get_by_role("button", name="Wrong").click()
        ids.append(bubble.get_attribute("data-id"))
    # What was said is with the answer a moment after it was taken
    queue = f"{visitor.url}/v1/review"
    wait_until(lambda: all(name in httpx.get(queue, trust_env=False).text for name in ids), "both in the queue")
    # When the queue is opened, then both are there with their picture
    page.goto(f"{visitor.url}/ui/#/review")
    cards = [page.locator("article", has=page.locator(f"#review-{name}")) for name in ids]
    for card in cards:
        expect(card.get_by_role("img", name="Picture 1")).to_have_js_property("naturalWidth", 224)
    # And what is said of them is kept, and takes them out of it
    cards[1].get_by_role("button", name="This is right: Final answer").click()
    expect(cards[1]).to_have_count(0)
    cards[0].get_by_label("What would have been right?").fill("七个")
    cards[0].get_by_role("button", name="Send").click()
    expect(cards[0]).to_have_count(0)
    said = [httpx.get(f"{visitor.url}/v1/responses/{name}/feedback", trust_env=False).json() for name in ids]
    assert [(each["rating"], each["correction"]) for each in said] == [("down", "七个"), ("up", None)]
