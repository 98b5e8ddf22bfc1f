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
from tests.support.whole import IS_WHOLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Visit = Callable[..., Any]
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")
# Colours are all that differ between the themes, words and their lengths between the languages.
RUN = """async (rules) => (await axe.run(rules ? { runOnly: rules } : {})).violations.map(
    (each) => [each.id, each.nodes.map((node) => node.html.slice(0, 200))]
)"""
CHOOSE = """async ([language, theme]) => {
    const core = document.querySelector('link[href$="/core/language.js"]').href;
    const { choose } = await import(core);
    choose("language", language);
    choose("theme", theme);
}"""
# A default run leaves out what is neither a new language nor a new theme.
LOOKS = {("zh", "light"): None, ("en", "dark"): ["color-contrast"]}
if IS_WHOLE:
    LOOKS |= {("zh", "dark"): ["color-contrast"], ("en", "light"): None}
WIDTH = "[document.documentElement.scrollWidth, innerWidth]"
VIEWS = ("jobs", "jobs/batches", "jobs/webhooks", "review", "lab", "status")


def check(page: Any, what: str) -> None:
    """Look for faults in both languages and in both themes."""
    page.evaluate(AXE)
    for (language, theme), rules in LOOKS.items():
        page.evaluate(CHOOSE, [language, theme])
        expect(page.locator(f"html[lang={language}][data-theme={theme}]")).to_be_attached()
        found = page.evaluate(RUN, rules)
        assert found == [], (what, language, theme)
        width, screen = page.evaluate(WIDTH)
        assert width <= screen, (what, language)


def test_no_view_has_a_fault_that_axe_finds(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow, viewport={"width": 1000, "height": 800})
    # Given the sign-in, then a page with a refined answer, one more picture to be asked about, and open details
    page = visitor.open()
    page.locator("#key").wait_for()
    check(page, "sign-in")
    page.locator("#key").fill(KEYS[0])
    with page.expect_navigation():  # with its key the page begins anew
        page.keyboard.press("Enter")
    page.locator(".samples button").first.wait_for()
    check(page, "welcome")
    question = "Which is | it?\n\n```\ncode\n```\n\n- a\n- b"
    bubble = wait_for(ask(page, question, SAMPLES / "count.png", SAMPLES / "price.png"), "completed")
    bubble.locator(".badge summary").click()
    page.locator("input[type=file]").first.set_input_files(SAMPLES / "hop.png")
    page.locator("[aria-controls=options]").click()
    page.locator(".history .menu summary").first.click()
    for tab in ("final", "difference", "both"):
        bubble.locator(f"[data-tab={tab}]").click()
        check(page, tab)
    bubble.locator(".thumb").first.click()
    check(page, "a picture, enlarged")
    page.keyboard.press("Escape")
    # Then no view has a fault, and nothing is wider than the screen, on a phone neither
    page.set_viewport_size({"width": 360, "height": 700})
    for view in VIEWS:
        page.goto(f"{visitor.url}/ui/#/{view}")
        page.locator("h1").wait_for()
        if view == "lab":
            page.locator("#lab-question").fill("Which of them is bigger?")
            page.locator(".decision").wait_for()
            page.locator("#many").fill("What is it?\n这是什么？")
            page.locator(".lab ~ .row .primary").click()
            page.locator("tr.changed, .mix").first.wait_for()
        check(page, view)


HEAR = """() => {
    window.heard = [];
    const listen = () => {
        const region = document.getElementById("announcements");
        if (!region) return void setTimeout(listen, 20);
        const note = () => region.textContent && window.heard.push(region.textContent);
        note();
        new MutationObserver(note).observe(region, { childList: true });
    };
    listen();
}"""


def tab_to(page: Any, name: str, *, key: str = "Tab") -> None:
    """Go on until something of this name has the focus."""
    for _ in range(60):
        page.keyboard.press(key)
        focused = page.evaluate(
            "(({ ariaLabel, textContent }) => (ariaLabel || textContent || '').trim())(document.activeElement)"
        )
        if focused.startswith(name):
            return
    raise AssertionError(f"the keyboard does not reach {name!r}")


def test_one_asks_with_the_keyboard_alone_on_a_small_screen(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow, viewport={"width": 360, "height": 700}, reduced_motion="reduce")
    page = visitor.open(key=KEYS[0])
    page.locator(".samples button").first.wait_for()
    page.evaluate(HEAR)
    # Given two pictures, chosen and put in order without a mouse; the question has the focus from the start
    expect(page.locator("#question")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        tab_to(page, "Choose pictures")
        page.keyboard.press("Enter")
    chooser.value.set_files([SAMPLES / "count.png", SAMPLES / "price.png"])
    expect(page.locator(".upload[aria-busy=false]")).to_have_count(2)
    tab_to(page, "Move count.png to the right", key="Shift+Tab")
    page.keyboard.press("Alt+ArrowRight")
    expect(page.locator(".upload img").nth(1)).to_have_attribute("alt", "Picture 2: count.png")
    # When it is asked, stopped, and asked again
    page.locator("#question").focus()
    page.keyboard.type("Which is | bigger?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("```")
    page.keyboard.press("Enter")
    bubble = wait_for(page.locator(".exchange").first, "draft", "refining")
    expect(bubble.locator(".answer")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#question")).to_be_focused()
    assert bubble.locator(".dot").evaluate("(node) => getComputedStyle(node).animationName") == "none"
    tab_to(page, "Stop", key="Shift+Tab")
    page.keyboard.press("Enter")
    wait_for(bubble, "cancelled")
    expect(bubble.get_by_role("button", name="Ask again")).to_be_focused()
    page.keyboard.press("Enter")
    second = page.locator(".exchange").nth(1)
    second.wait_for()
    wait_for(second, "completed")
    expect(second.locator(".answer")).to_have_attribute("aria-busy", "false")
    # Then its versions are looked through, and its code is copied
    tab_to(page, "final")
    page.keyboard.press("ArrowRight")
    expect(second.get_by_role("tab", name="draft")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    tab_to(page, "Copy")
    page.keyboard.press("Enter")
    expect(page.locator("#announcements")).to_have_text("Copied")
    # And each state was said once, politely
    heard = page.evaluate("window.heard")
    assert heard[0] == "count.png is number 2 now"
    ended = [each for each in heard if each.startswith("Question 2")]
    assert ended[-1] == "Question 2: refined"
    assert len(ended) == len(set(ended)) <= 5
    assert "Question 1: cancelled" in heard
    assert page.evaluate(WIDTH)[0] <= 360


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


def test_signing_in_keeps_off_the_edge_of_a_phone(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow, viewport={"width": 390, "height": 800}).open()
    page.locator("#key").wait_for()
    box = page.locator("#key").bounding_box()
    assert box is not None
    assert box["x"] >= 8
    assert box["x"] + box["width"] <= 382
