"""Whether everybody can use it: axe-core in every view, language and theme; keyboard, announcements, small screens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python")
from playwright.sync_api import expect

from tests.browser.conftest import KEYS
from tests.browser.steps import SAMPLES, ask, wait_for
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Visit = Callable[..., Any]
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")
RUN = """async () => (await axe.run()).violations.map(
    (each) => [each.id, each.nodes.map((node) => node.html.slice(0, 200))]
)"""
VIEWS = ("ask", "jobs", "jobs/batches", "jobs/webhooks", "lab", "status")
LOCALES = {"en": "en-GB", "zh": "zh-CN"}


def violations(page: Any) -> list[Any]:
    page.evaluate(AXE)
    found: list[Any] = page.evaluate(RUN)
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_view_has_a_fault_that_axe_finds(slow: ProcessStack, visit: Visit, language: str, theme: str) -> None:
    visitor = visit(slow, locale=LOCALES[language], color_scheme=theme)
    # Given the sign-in, then a page with a refined answer, one more picture to be asked about, and open details
    page = visitor.open()
    page.locator("#key").wait_for()
    assert violations(page) == []
    page.locator("#key").fill(KEYS[0])
    with page.expect_navigation():  # with its key the page begins anew
        page.keyboard.press("Enter")
    page.locator(".samples button").first.wait_for()
    assert violations(page) == []
    button = {"en": "Ask", "zh": "提问"}[language]
    question = "Which is | it?\n\n```\ncode\n```\n\n- a\n- b"
    bubble = wait_for(ask(page, question, SAMPLES / "count.png", SAMPLES / "price.png", button=button), "completed")
    bubble.locator(".badge summary").click()
    page.locator("input[type=file]").first.set_input_files(SAMPLES / "hop.png")
    page.locator("[aria-controls=options]").click()
    page.locator(".history .menu summary").first.click()
    for tab in ("final", "draft", "difference", "both"):
        bubble.locator(f"[data-tab={tab}]").click()
        assert violations(page) == [], tab
    bubble.locator(".thumb").first.click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    # Then no view has a fault
    for view in VIEWS[1:]:
        page.goto(f"{visitor.url}/ui/#/{view}")
        page.locator("h1").wait_for()
        if view == "lab":
            page.locator("#lab-question").fill("Which of them is bigger?")
            page.locator(".decision").wait_for()
            page.locator("#many").fill("What is it?\n这是什么？")
            page.locator(".lab ~ .row .primary").click()
            page.locator("tr.changed, .mix").first.wait_for()
        assert violations(page) == [], view
        # And nothing is wider than the screen
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_one_asks_with_the_keyboard_alone_on_a_phone(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow, viewport={"width": 360, "height": 700}, reduced_motion="reduce")
    page = visitor.open(key=KEYS[0])
    # Given the first stop of the keyboard, which leads past the head of the page
    page.keyboard.press("Shift+Tab")
    page.locator("#question").focus()
    page.keyboard.type("Is it big?")
    page.keyboard.press("Enter")
    bubble = page.locator(".exchange").last
    bubble.wait_for()
    expect(bubble.locator(".answer")).to_have_attribute("aria-busy", "true")
    wait_for(bubble, "completed")
    expect(bubble.locator(".answer")).to_have_attribute("aria-busy", "false")
    # Then how it ended is said once, politely
    expect(page.locator("#announcements")).to_have_text("Question 1: refined")
    # And the answer fits the screen
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert bubble.locator(".dot").evaluate("(node) => getComputedStyle(node).animationName") == "none"


def test_language_and_colours_can_be_chosen_and_stay(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow)
    page = visitor.open(key=KEYS[0])
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("link", name="策略实验室")).to_be_visible()
    colours = page.get_by_role("button", name="配色")
    for theme in ("浅色", "深色"):
        colours.click()
        expect(colours).to_have_attribute("aria-label", f"配色：{theme}")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    again = visitor.open(key=KEYS[0])
    expect(again.locator("html")).to_have_attribute("lang", "zh")
    assert again.evaluate("getComputedStyle(document.body).backgroundColor") == back
    # And refusals come in that language
    again.locator("input[type=file]").first.set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(again.locator(".upload .error")).to_contain_text("图片")
