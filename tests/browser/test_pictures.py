"""Pictures on their way into a question, in both languages, and what an answer says about places in them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.browser.conftest import KEYS
from tests.browser.steps import SAMPLES, ask, in_both_languages, said, wait_for
from tests.support.stack import ProcessStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Visit = Callable[..., Any]
LOCALES = {"en": "en-GB", "zh": "zh-CN"}
# Events as a browser makes them for files of the desktop: none of the tools at hand drag those.
GIVE = """([data, name, kind, where]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: given, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true });
  document.querySelector(where).dispatchEvent(event);
}"""


def give(page: Any, name: str, kind: str, where: str) -> None:
    data = base64.b64encode((SAMPLES / name).read_bytes()).decode()
    page.evaluate(GIVE, [data, name, kind, where])


def names(page: Any) -> list[str]:
    """The pictures that are to be asked about, in order."""
    found: list[str] = page.locator(".upload img").evaluate_all("(all) => all.map((each) => each.alt)")
    return [each.replace("：", ": ").rpartition(": ")[2] for each in found]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_pictures_come_by_camera_paste_and_drop_and_are_put_in_order(
    slow: ProcessStack, visit: Visit, language: str
) -> None:
    visitor = visit(slow, locale=LOCALES[language])
    page = visitor.open(key=KEYS[0])
    # Given a picture from each place
    page.get_by_role("button", name=said("ask.camera", language)).click()
    viewer = page.get_by_role("dialog", name=said("ask.camera", language))
    viewer.get_by_role("button", name=said("camera.take", language)).click()
    expect(viewer).to_be_hidden()
    expect(page.locator(".upload")).to_have_count(1)
    give(page, "count.png", "paste", "#question")
    give(page, "price.png", "drop", ".thread")
    expect(page.locator(".upload[aria-busy=false]")).to_have_count(3)
    camera = names(page)[0]
    assert names(page) == [camera, "count.png", "price.png"]
    assert camera.startswith(said("camera.name", language))
    # When the last is dragged to the front, and the camera's is moved with its button
    page.locator(".upload").nth(2).drag_to(page.locator(".upload").nth(0))
    assert names(page) == ["price.png", camera, "count.png"]
    expect(page.locator("#announcements")).to_have_text(said("picture.moved", language, name="price.png", n=1))
    forth = page.get_by_role("button", name=said("picture.right", language, name=camera))
    forth.focus()
    page.keyboard.press("Enter")
    # Then it is there, and so is the keyboard, at what can still be done with it
    assert names(page) == ["price.png", "count.png", camera]
    expect(page.get_by_role("button", name=said("picture.left", language, name=camera))).to_be_focused()
    page.get_by_role("button", name=said("picture.remove", language, name=camera)).click()
    expect(page.get_by_role("button", name=said("picture.remove", language, name="count.png"))).to_be_focused()
    # And a PDF is refused with what to do, without being sent
    pdf = {"name": "a.PDF", "mimeType": "application/pdf", "buffer": b"%PDF-1.7"}
    num_sent = sum("/v1/files" in each for each in visitor.requests)
    page.locator("input[type=file]").first.set_input_files(pdf)
    expect(page.locator(".upload .error")).to_contain_text(said("picture.pdf", language))
    assert sum("/v1/files" in each for each in visitor.requests) == num_sent


def test_a_camera_that_is_not_there_is_said_to_be_missing(slow: ProcessStack, visit: Visit) -> None:
    visitor = visit(slow)
    visitor.context.add_init_script(
        "if (navigator.mediaDevices)"
        "  navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', window.why))"
    )
    page = visitor.open(key=KEYS[0])
    for why, key in (("NotAllowedError", "camera.refused"), ("NotFoundError", "camera.none")):
        page.evaluate(f"window.why = '{why}'")
        page.get_by_role("button", name=said("ask.camera")).click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(said(key))
        page.keyboard.press("Escape")


def test_places_that_an_answer_names_are_drawn_where_they_are(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    # Given a wide picture, which is shown smaller than it is
    bubble = ask(page, "Where is the star?", SAMPLES / "price.png", SAMPLES / "hop.png", route="fast")
    wait_for(bubble, "completed")
    # Then the second, which the boxes are of, has both
    thumbs = bubble.locator(".thumb")
    expect(thumbs.nth(0).locator(".mark")).to_have_count(0)
    marks = thumbs.nth(1).locator(".mark")
    expect(marks).to_have_count(2)
    expect(thumbs.nth(1)).to_have_accessible_name("Enlarge: Picture 2: hop.png (places marked: 2)")
    thumbs.nth(1).click()
    # At these thousandths of the picture, however large it is drawn
    for shown in (thumbs.nth(1), bubble.get_by_role("dialog")):
        picture = shown.locator("img").bounding_box()
        box = shown.locator(".mark").first.bounding_box()
        assert abs(box["x"] - (picture["x"] + 0.300 * picture["width"])) < 1.5
        assert abs(box["y"] - (picture["y"] + 0.760 * picture["height"])) < 1.5
        assert abs(box["width"] - 0.260 * picture["width"]) < 1.5
        assert abs(box["height"] - 0.230 * picture["height"]) < 1.5
    page.keyboard.press("Escape")
    # And where the final answer names none, they stay with the draft
    deep = ask(page, "Where is the star, once more?", SAMPLES / "hop.png", route="deep")
    wait_for(deep, "completed")
    expect(deep.locator(".text")).to_have_text("Below.")
    expect(deep.locator(".mark")).to_have_count(0)
    deep.get_by_role("tab", name="draft").click()
    expect(deep.locator(".thumb .mark")).to_have_count(2)


def test_fields_that_the_two_read_differently_are_a_table(slow: ProcessStack, visit: Visit) -> None:
    page = visit(slow).open(key=KEYS[0])
    bubble = ask(page, "Read the price.", SAMPLES / "price.png", route="deep", template="price_tag")
    wait_for(bubble, "completed")
    # Then GLM's words are in the answer, and a table says what each of the two read
    expect(bubble.locator(".text")).to_contain_text('"lamp"')
    for language in in_both_languages(page):
        table = bubble.get_by_role("table", name=said("conflicts", language))
        rows = table.locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.filter(has_text="original_price").locator("td")).to_have_text(["193", "198"])
        expect(rows.filter(has_text="name").locator("td")).to_have_text(["lamp", "lantern"])
        expect(table.locator("thead th")).to_have_text([said("conflicts.what", language), "GLM", "Owl2"])
    # And who said what else
    bubble.get_by_text(said("provenance")).click()
    who = bubble.locator("details table tr")
    expect(who.filter(has_text="/unit")).to_contain_text(said("provenance.owl2"))
    expect(who.filter(has_text="/price")).to_contain_text(said("provenance.agree"))
