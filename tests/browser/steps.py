"""What a visitor does and sees, in words; texts are looked up by role, as a screen reader would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import expect

SAMPLES = Path(__file__).parents[2] / "engines/pocket/samples"
TIMEOUT_MS = 60_000


def ask(page: Any, question: str, *pictures: Path | dict[str, Any], button: str = "Ask") -> Any:
    """Choose pictures, type, ask; return the bubble."""
    before = page.locator(".exchange").count()
    if pictures:
        page.locator("input[type=file]").first.set_input_files(list(pictures))
        expect(page.locator(".upload[aria-busy=false]")).to_have_count(len(pictures), timeout=TIMEOUT_MS)
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


def text_of(bubble: Any) -> str:
    """The words that a bubble shows as its answer."""
    return str(bubble.locator(".text").inner_text()).strip()
