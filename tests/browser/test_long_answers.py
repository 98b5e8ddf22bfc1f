"""Answers that take their time: stopped, left and come back to, read in two tabs, cut off; and two owners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.browser.conftest import KEYS
from tests.browser.steps import SAMPLES, TIMEOUT_MS, ask, text_of, wait_for
from tests.support.servers import wait_until
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Visit = Callable[..., Any]
# An echo says its question back, a word at a time: this is how long an answer is.
LONG = "Which is it? " + " ".join(f"word{number}" for number in range(40))
HOSTILE = (
    "这是什么？<script>window.hacked=1</script> <img src=x onerror='window.hacked=1'> [a](javascript:window.hacked=1) "
    "![p](http://evil.example/p.png) <svg onload=window.hacked=1> <style>*{display:none}</style> "
    "<iframe src=x></iframe> <a href='x' onclick='window.hacked=1'>c</a> [b](https://ok.example) **bold**"
)


def response_of(stack: ProcessStack, response_id: str | None, key: str = KEYS[0]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    found: dict[str, Any] = httpx.get(
        f"{stack.urls[0]}/v1/responses/{response_id}", headers=headers, trust_env=False
    ).json()
    return found


def answer_of(response: dict[str, Any]) -> str:
    return str(response["output"][-1]["content"][0]["text"]).strip()


def test_stop_ends_the_work_itself(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    bubble = wait_for(ask(page, LONG), "draft", "refining", "answering")
    bubble.get_by_role("button", name="Stop").click()
    wait_for(bubble, "cancelled")
    expect(bubble).to_contain_text("You stopped this answer.")
    response_id = bubble.get_attribute("data-id")
    wait_until(lambda: response_of(slow, response_id).get("status") == "cancelled", "the end of the work")


def test_stop_holds_for_a_question_that_is_still_on_its_way(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    # Given a question that the service has not heard of yet
    held: list[Any] = []
    page.route("**/v1/responses", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/v1/responses"):
        bubble = ask(page, LONG)
    bubble.get_by_role("button", name="Stop").click()
    # When it arrives after all
    held[0].continue_()
    # Then it does not run
    wait_for(bubble, "cancelled")
    assert response_of(slow, bubble.get_attribute("data-id"))["status"] == "cancelled"


def test_a_closed_tab_loses_nothing_and_a_second_one_sees_the_same(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow)
    page = visitor.open(key=KEYS[0])
    # Given an answer in the middle of which the tab is closed
    bubble = wait_for(ask(page, LONG), "draft", "refining")
    expect(bubble.locator(".text")).to_contain_text("word3", timeout=TIMEOUT_MS)
    view = page.url.partition("#/")[2]
    page.close()
    # When it is opened again, in two tabs
    tabs = [visitor.open(view, key=KEYS[0]) for _ in range(2)]
    bubbles = [wait_for(tab.locator(".exchange"), "completed") for tab in tabs]
    # Then both have the whole answer, as it is on record, and the draft beside it
    response = response_of(slow, bubbles[0].get_attribute("data-id"))
    for each in bubbles:
        assert text_of(each) == answer_of(response)
        assert "word39" in text_of(each)
        each.get_by_role("tab", name="draft").click()
        assert text_of(each) == response["hybrid"]["draft"]["text"].strip()
    # And it was asked once
    listed = httpx.get(
        f"{visitor.url}/v1/responses?q=word39", headers={"authorization": f"Bearer {KEYS[0]}"}, trust_env=False
    ).json()
    conversation = response["metadata"]["conversation"]
    assert [each["metadata"]["conversation"] for each in listed["data"]].count(conversation) == 1


def test_text_that_is_selected_is_not_swapped(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    bubble = wait_for(ask(page, LONG), "draft", "refining")
    expect(bubble.locator(".text")).to_contain_text("word1", timeout=TIMEOUT_MS)
    # Given somebody who selects in the draft
    bubble.locator(".md").first.click(click_count=3)
    wait_for(bubble, "completed")
    # Then the draft stays, and a bar offers the answer
    expect(bubble.get_by_role("tab", name="draft")).to_have_attribute("aria-selected", "true")
    assert page.evaluate("document.getSelection().toString().length") > 0
    bubble.get_by_role("button", name="Show it").click()
    expect(bubble.get_by_role("tab", name="final")).to_have_attribute("aria-selected", "true")
    assert text_of(bubble).startswith("[echo owl2]")


# As soon as a draft is seen, whatever else the machine does meanwhile.
SCROLL = """(byHand) => new MutationObserver((_, observer) => {
    if (!document.querySelector(".exchange .text")?.textContent.includes("word1")) return;
    observer.disconnect();
    const thread = document.querySelector(".thread");
    if (byHand) thread.dispatchEvent(new WheelEvent("wheel", { bubbles: true }));
    else thread.scrollTop = 0;
}).observe(document.body, { childList: true, subtree: true, characterData: true })"""


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_draft_stays_for_a_reader_who_scrolls_by_hand(slow: ProcessStack, visit: Visit, by_hand: bool) -> None:
    page = visit(slow, viewport={"width": 500, "height": 300}).open(key=KEYS[0])
    # Given a draft while the wheel is turned, or the page scrolls by itself, as it does when it is laid out anew
    page.evaluate(SCROLL, by_hand)
    bubble = wait_for(ask(page, LONG), "completed")
    # Then only the reader's draft stays, and a bar offers the answer
    shown = "draft" if by_hand else "final"
    expect(bubble.get_by_role("tab", name=shown)).to_have_attribute("aria-selected", "true")
    expect(bubble.get_by_role("button", name="Show it")).to_have_count(int(by_hand))


def test_hostile_words_run_nothing(slow: ProcessStack, visit: Visit) -> None:
    # Given an answer that says all of it back
    page = visit(slow).open(key=KEYS[0])
    name = "<img src=x onerror=window.hacked=1>.png"
    picture = {"name": name, "mimeType": "image/png", "buffer": (SAMPLES / "count.png").read_bytes()}
    bubble = wait_for(ask(page, HOSTILE, picture), "completed")
    text = bubble.locator(".text")
    expect(text.locator("strong")).to_have_text("bold")
    # Then nothing of it is anything but text and one harmless link
    assert text.locator("script, img, svg, style, iframe").count() == 0
    expect(text).to_contain_text("<script>window.hacked=1</script>")
    assert page.evaluate("window.hacked") is None
    (link,) = text.locator("a[href]").all()
    assert (link.get_attribute("href"), link.inner_text()) == ("https://ok.example", "b")
    assert "noreferrer" in str(link.get_attribute("rel"))
    expect(text).to_contain_text("[p]")


def test_an_engine_that_dies_is_named_and_the_answer_comes_when_it_is_back(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    bubble = wait_for(ask(page, LONG), "refining")
    expect(bubble.locator(".text")).to_contain_text("[echo owl2]", timeout=TIMEOUT_MS)
    # When Owl2 is killed while it answers
    slow.kill("owl2")
    banner = page.get_by_role("status").filter(has_text="Owl2 is down")
    expect(banner).to_be_visible(timeout=TIMEOUT_MS)
    # Then the page can be used all the time, and when the engine is back the answer comes, whole
    slow.start("owl2")
    wait_for(bubble, "completed")
    expect(banner).to_have_count(0, timeout=TIMEOUT_MS)
    assert text_of(bubble) == answer_of(response_of(slow, bubble.get_attribute("data-id")))


def test_two_owners_see_nothing_of_each_other(slow: ProcessStack, visit: Visit) -> None:
    # Given a page that asks for a key, and says so when one is wrong
    first = visit(slow)
    page = first.open()
    # And so where a label was copied with it, which no browser can send in a header
    for wrong in ("no-such-key", f"密钥：{KEYS[0]}"):
        page.reload()
        page.get_by_label("Key").fill(wrong)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("This key is not known here.")).to_be_visible()
        expect(page.get_by_label("Key")).to_be_visible()
        expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    page.get_by_label("Key").fill(KEYS[0])
    page.get_by_role("button", name="Sign in").click()
    bubble = wait_for(ask(page, "这是秘密吗？", SAMPLES / "count.png"), "completed")
    expect(page.locator(".history li.open")).to_contain_text("这是秘密吗？")
    # When somebody else signs in, even at the same address
    second = visit(slow)
    other = second.open(page.url.partition("#/")[2], key=KEYS[1])
    # Then there is nothing
    expect(other.get_by_role("alert")).to_contain_text("There is no such conversation")
    expect(other.locator(".history")).not_to_contain_text("秘密")
    assert response_of(slow, bubble.get_attribute("data-id"), KEYS[1])["error"]["code"] == "response_not_found"
    other.goto(f"{second.url}/ui/#/jobs")
    expect(other.get_by_text("No jobs here.")).to_be_visible()
    # And no key was ever part of an address, or kept beyond the tab
    assert not [each for each in first.requests + second.requests if any(key in each for key in KEYS)]
    assert page.evaluate("JSON.stringify(localStorage)").find(KEYS[0]) == -1


def test_nothing_can_be_begun_that_the_end_of_the_sign_in_would_lose(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open()
    page.get_by_label("Key").fill(KEYS[0])
    # While a key is looked at, for as long as that takes
    held: list[Any] = []
    page.route("**/v1/models", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/v1/models"):
        page.get_by_role("button", name="Sign in").click()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    # Then there is no place yet for a picture or a word
    assert page.locator(".composer").count() == 0
    held[0].continue_()
    wait_for(ask(page, "这是什么？", SAMPLES / "count.png"), "completed")


def test_a_tab_that_nobody_looks_at_gives_its_connection_back_and_reads_on(slow: ProcessStack, visit: Visit) -> None:
    # Given a tab that says it is out of view when it is told to
    visitor = visit(slow)
    page = visitor.context.new_page()
    page.add_init_script(
        "Object.defineProperty(document, 'visibilityState', { get: () => window.away ? 'hidden' : 'visible' });"
        f"sessionStorage.setItem('glowl.key', '{KEYS[0]}')"
    )
    page.goto(f"{visitor.url}/ui/")
    bubble = wait_for(ask(page, LONG, route="deep"), "draft", "refining")
    # When it is left for longer than an answer takes
    page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
    response_id = bubble.get_attribute("data-id")
    wait_until(lambda: response_of(slow, response_id)["status"] == "completed", "the answer")
    # Then the answer is there when it is looked at again
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(bubble, "completed")
    assert text_of(bubble) == answer_of(response_of(slow, response_id))
