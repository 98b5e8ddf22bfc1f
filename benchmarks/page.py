"""What the page costs: bytes, first paint, memory of the api, and work of the browser in long histories and answers.

    python -m benchmarks.page --turns 2000 --words 20000

In: chromium, echo engines as processes. Out: a table. Work of the main thread is its CPU time, read between equal parts
of the answer: were a word dearer in a long answer, the later parts would say so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.browser.conftest import ARGUMENTS, NAMES
from tests.support.stack import ProcessStack

Row = tuple[str, str]

PARTS = 10
OPENED = 12
MORE = 10
TYPE = """(text) => {
  const box = document.getElementById("question");
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}"""
WATCH_TASKS = """() => {
  window.tasks = [];
  const note = (list) => window.tasks.push(...list.getEntries().map((each) => each.duration));
  new PerformanceObserver(note).observe({ type: "longtask" });
}"""
SCROLL = """async () => {
  const thread = document.querySelector(".thread");
  const times = [];
  let last = performance.now();
  for (let step = 0; step < 120; step += 1) {
    thread.scrollTop -= 150;
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  return times.sort((a, b) => a - b);
}"""
SAYS = "(word) => document.querySelector('.answer .text')?.textContent.includes(word)"
LINE_WORDS = 12


class Meter:
    """The main thread of a tab. One session for all readings: each would begin to count anew."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def work_ms(self) -> float:
        """Milliseconds of CPU that it has worked so far: other processes do not count."""
        metrics = {each["name"]: each["value"] for each in self._session.send("Performance.getMetrics")["metrics"]}
        return float(1000 * metrics["TaskDuration"])


def first_paint(browser: Browser, url: str) -> tuple[float, int]:
    """Milliseconds from asking for ``/`` to the first paint, and bytes that came, in a browser that has nothing yet."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url + "/")
    page.locator(".samples button").first.wait_for()
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    size = page.evaluate(
        "[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
        ".filter((each) => each.name.includes('/ui') && !each.name.includes('/samples/'))"
        ".reduce((sum, each) => sum + each.encodedBodySize, 0)"
    )
    context.close()
    return float(paint), int(size)


def fill(url: str, turns: int) -> None:
    """Ask so many short questions of one conversation."""
    body = {"model": "glowl", "hybrid": {"route": "fast"}, "metadata": {"conversation": "conv_long"}}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http, ThreadPoolExecutor(8) as threads:
        done = threads.map(
            lambda number: http.post("/v1/responses", json={**body, "input": f"**Question** {number}?"}).status_code,
            range(turns),
        )
        assert set(done) == {200}


def long_history(browser: Browser, url: str) -> Iterator[Row]:
    """Open a conversation of thousands of turns, read back, and scroll."""
    page = browser.new_page()
    meter = Meter(page)
    began = time.perf_counter()
    page.goto(f"{url}/ui/#/ask/conv_long")
    page.locator(".exchange").nth(19).wait_for()
    yield "opened: the newest 20 turns are there after", f"{1000 * (time.perf_counter() - began):.0f} ms"
    earlier = page.get_by_role("button", name="Show earlier questions")
    for number in range(1, MORE + 1):
        before = meter.work_ms()
        began = time.perf_counter()
        earlier.click()
        page.locator(".exchange").nth(20 * number + 19).wait_for()
        took_ms = 1000 * (time.perf_counter() - began)
    yield (
        f"{20 * MORE} turns shown; 20 more are there after",
        f"{took_ms:.0f} ms, {meter.work_ms() - before:.0f} ms of work",
    )
    frames = page.evaluate(SCROLL)
    yield (
        "scrolling through them: frame P50, P95, longest",
        ", ".join(f"{frames[at]:.0f}" for at in (60, 114, 119)) + " ms",
    )
    page.close()


def written(words: int) -> str:
    """Lists and paragraphs of so many different words."""
    lines = []
    for line in range(words // LINE_WORDS):
        said = " ".join(f"w{line * LINE_WORDS + at}" for at in range(LINE_WORDS))
        lines.append(("- " if line % 40 < 20 else "") + said + ("\n" if line % 20 == 19 else ""))
    return "\n".join(lines)


def long_answer(browser: Browser, url: str, words: int) -> Iterator[Row]:
    """Let an answer of so many words be written, and weigh it part by part."""
    page = browser.new_page()

    def longer(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}")
        hybrid = {"route": "fast", "draft": "message"}
        route.continue_(post_data=json.dumps({**body, "max_output_tokens": words + 1000, "hybrid": hybrid}))

    page.route("**/v1/responses", longer)
    page.goto(f"{url}/ui/")
    page.evaluate(TYPE, written(words))
    page.get_by_role("button", name="Ask", exact=True).click()
    page.evaluate(WATCH_TASKS)
    page.locator(".exchange .answer").wait_for()
    meter = Meter(page)
    before = meter.work_ms()
    step = words // PARTS
    for part in range(1, PARTS + 1):
        last = min(part * step, LINE_WORDS * (words // LINE_WORDS) - 1)
        page.wait_for_function(SAYS, arg=f"w{last}", timeout=300_000, polling=500)
        now = meter.work_ms()
        yield f"words {(part - 1) * step:,} to {part * step:,}", f"{(now - before) / step * 1000:.0f} µs of work a word"
        before = now
    page.locator(".exchange[data-phase=completed]").wait_for()
    tasks = sorted(page.evaluate("window.tasks"))
    yield "tasks of more than 50 ms: how many, longest", f"{len(tasks)}, {tasks[-1] if tasks else 0:.0f} ms"
    page.close()


def first_visit(browser: Browser, stack: ProcessStack) -> Iterator[Row]:
    """Open the page in browsers that have nothing of it yet."""
    before = stack.rss_bytes("api0")
    paints = [first_paint(browser, stack.urls[0]) for _ in range(OPENED)]
    times = sorted(paint for paint, _ in paints)
    yield "page, scripts and styles before the first question, gzip", f"{paints[0][1] / 1000:.1f} kB"
    yield f"first paint after `/`, of {OPENED}: P50, longest", f"{statistics.median(times):.0f}, {times[-1]:.0f} ms"
    after = stack.rss_bytes("api0")
    yield "memory of the api, before and after these", f"{before / 1e6:.1f}, {after / 1e6:.1f} MB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2000)
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--only-first-visit", action="store_true")
    options = parser.parse_args()
    stack = ProcessStack(delay_s=0.0005, env={"GLOWL_MAX_TEXT_CHARS": "4000000"})
    path = next(found for name in NAMES if (found := shutil.which(name)))
    print("| what | measured |\n|---|---|")
    try:
        stack.start()
        stack.wait_ready()
        with sync_playwright() as playwright:
            browser: Any = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            show(first_visit(browser, stack))
            if options.only_first_visit:
                return
            show(long_answer(browser, stack.urls[0], options.words))
            fill(stack.urls[0], options.turns)
            show(long_history(browser, stack.urls[0]))
            browser.close()
    finally:
        stack.stop()


def show(rows: Iterator[Row]) -> None:
    """Print rows as they come."""
    for what, measured in rows:
        print(f"| {what} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
