"""A real browser in front of the whole product: pocket engines as they ship, and slow echo engines for what takes time.

Without a browser these tests skip, and say so. `make test-browser` installs one where it may.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.stack import PocketStack, ProcessStack

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")

NAMES = ("chromium", "chromium-browser", "google-chrome")
# As root there is no sandbox; nothing of the browser's own is to reach for the network.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    # A camera that shows a test card, and that nobody has to allow.
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
TIMEOUT_MS = 300_000  # a guard against hangs; nothing takes a tenth of it on a quiet machine
playwright_api.expect.set_options(timeout=TIMEOUT_MS)
# Owl2's first word comes when the draft has been there for a while; then there is time to do something about it.
WORD_S = {"glm": 0.03, "owl2": 0.04}
PREFILL_S = {"owl2": 3.0}
KEYS = ("first-owner", "second-owner")
PRICE = {"name": "lamp", "price": 25, "original_price": 193, "currency": "CNY", "unit": None}
# What the echo engines say to questions that have these words in them.
ANSWERS = {
    "Where is the star": {
        "glm": "Below <|begin_of_box|>[[300,760,560,990]]<|end_of_box|>, and above <|begin_of_box|>[[500,80,720,300]]"
        "<|end_of_box|>.",
        "owl2": "Below.",
    },
    "Read the price": {
        "glm": json.dumps({"products": [PRICE]}),
        "owl2": json.dumps({"products": [{**PRICE, "name": "lantern", "original_price": 198, "unit": "piece"}]}),
    },
}


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO BROWSER: the page is not tested; `make test-browser` installs chromium where it may")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def pocket(browser: Any) -> Iterator[PocketStack]:
    """The shipped models; asked for after the browser, so that nothing is started for tests that skip."""
    pytest.importorskip("torch")
    stack = PocketStack()
    stack.start()
    stack.wait_ready()
    yield stack
    stack.stop()


@pytest.fixture(scope="package")
def slow(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessStack]:
    """Echo engines that take their time, and two owners; a webhook that failed once is not sent again by itself."""
    answers: Path = tmp_path_factory.mktemp("echo") / "answers.json"
    answers.write_text(json.dumps(ANSWERS), "utf-8")
    env = {
        "GLOWL_API_KEYS": ",".join(KEYS),
        "GLOWL_LEASE_S": "2",
        "GLOWL_DRAFT_PATIENCE_S": "300",
        "GLOWL_WEBHOOK_DELAYS_S": "3600",
        "GLOWL_WEBHOOK_SECRET": "whsec_" + "A" * 40,
        "ECHO_ANSWERS": str(answers),
    }
    stack = ProcessStack(delay_s=WORD_S, prefill_s=PREFILL_S, env=env)
    stack.start()
    stack.wait_ready()
    yield stack
    stack.stop()


class Watched:
    """A browser of one visitor: what it asks for, and what it complains about.

    Attributes:
        context: Playwright's; has the tabs.
        requests: every address that was asked for.
        complaints: errors of scripts, and what the content security policy stopped.
    """

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1200, "height": 900}, **options})
        self.context.set_default_timeout(TIMEOUT_MS)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.context.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def open(self, view: str = "ask", key: str = "") -> Any:
        """Open a tab."""
        page = self.context.new_page()
        if key:
            page.add_init_script(f"sessionStorage.setItem('glowl.key', '{key}')")
        page.goto(f"{self.url}/ui/#/{view}")
        return page

    def check(self) -> None:
        """Nothing but this service was asked, and nothing went wrong."""
        own = urlsplit(self.url).netloc
        assert {
            each for each in self.requests if urlsplit(each).netloc != own and not each.startswith("blob:")
        } == set()
        assert self.complaints == []


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens browsers of visitors; at the end each is checked and closed."""
    visitors: list[Watched] = []

    def come(stack: ProcessStack, **options: Any) -> Watched:
        visitors.append(Watched(browser, stack.urls[0], **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        visitor.check()
