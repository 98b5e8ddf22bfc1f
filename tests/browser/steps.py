"""What a visitor does and sees, in words; texts are looked up by role, as a screen reader would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.browser.conftest import TIMEOUT_MS

SAMPLES = Path(__file__).parents[2] / "engines/pocket/samples"
LANGUAGES = {"en": "EN", "zh": "中文"}
_SOURCE = (Path(__file__).parents[2] / "router/ui/core/texts.js").read_text("utf-8")
_TEXTS: dict[str, list[str]] = json.loads(_SOURCE[_SOURCE.index("{") : _SOURCE.rindex("}") + 1])


def said(key: str, language: str = "en", **values: object) -> str:
    """A sentence of the page."""
    text = _TEXTS[key][list(LANGUAGES).index(language)]
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def in_both_languages(page: Any) -> Iterator[str]:
    """Show the page in Chinese, then in English, for what is to be seen in either."""
    for language in ("zh", "en"):
        switch = page.locator(f".choices button[lang={language}]")
        if switch.count():
            switch.click()
        expect(page.locator("html")).to_have_attribute("lang", language)
        yield language


def ask(
    page: Any,
    question: str,
    *pictures: Path | dict[str, Any],
    button: str = "Ask",
    route: str = "",
    template: str = "",
) -> Any:
    """Choose pictures, and how to answer, type, ask; return the bubble."""
    before = page.locator(".exchange").count()
    if pictures:
        page.locator("input[type=file]").first.set_input_files(list(pictures))
        expect(page.locator(".upload[aria-busy=false]")).to_have_count(len(pictures), timeout=TIMEOUT_MS)
    if route or template:
        page.locator("[aria-controls=options]").click()
        page.locator(".options select").nth(0).select_option(route)
        page.locator(".options select").nth(1).select_option(template)
    page.get_by_role("textbox", name="Question").or_(page.get_by_role("textbox", name="问题")).fill(question)
    page.get_by_role("button", name=button, exact=True).click()
    bubble = page.locator(".exchange").nth(before)
    bubble.wait_for(state="attached")
    return bubble


def wait_for(bubble: Any, *phases: str) -> Any:
    """Wait until a bubble is in one of these states."""
    selector = ", ".join(f".exchange[data-phase={phase}]" for phase in phases)
    page = bubble.page
    expect(bubble.and_(page.locator(selector))).to_be_attached(timeout=TIMEOUT_MS)
    return bubble


def wait_for_text(bubble: Any, text: str) -> None:
    """Wait until a bubble shows this as its answer: what it says is drawn after the state is known."""
    expect(bubble.locator(".text")).to_have_text(text, timeout=TIMEOUT_MS)


def text_of(bubble: Any) -> str:
    """The words that a bubble shows as its answer."""
    return str(bubble.locator(".text").inner_text()).strip()
