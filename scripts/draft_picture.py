"""Draws the README's picture: one real question, GLM's draft, Owl2's answer.

In: a running Glowl with the pocket models (`glowl up`), at `GLOWL_URL`. Out: `docs/draft-to-answer.svg` and its Chinese
twin `docs/draft-to-answer.zh.svg`. Run in the clone's folder: `python -m scripts.draft_picture`.
"""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from openai import OpenAI
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "engines/pocket/samples/beside.png"
QUESTION = "What colour is the shape left of the smallest diamond?"
WIDTH, HEIGHT, COLUMN_X = 760, 290, 290
FONT = "font-family='system-ui,-apple-system,Segoe UI,Noto Sans CJK SC,PingFang SC,Microsoft YaHei,sans-serif'"
TEXTS = {
    "en": {
        "draft": "at once: GLM-4.6V-Flash's draft",
        "answer": "then, in the same response: mPLUG-Owl2's answer",
        "agreement": "agreement {}",
        "why": "why both were asked: {}",
    },
    "zh": {
        "draft": "立即：GLM-4.6V-Flash 的草稿",
        "answer": "随后，在同一个响应中：mPLUG-Owl2 的回答",
        "agreement": "一致程度 {}",
        "why": "为何两者都问：{}",
    },
}


@dataclass(frozen=True)
class Run:
    """What one streamed response said."""

    draft: str
    answer: str
    hybrid: dict[str, Any]


def ask() -> Run:
    """Ask the sample question once, and read the draft and the answer as they come.

    Raises:
        RuntimeError: if no draft came before the answer.
    """
    client = OpenAI(base_url=os.environ.get("GLOWL_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
    data = base64.b64encode(SAMPLE.read_bytes()).decode()
    content: list[Any] = [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"},
    ]
    draft = ""
    stream = client.responses.create(
        model="glowl",
        stream=True,
        input=[{"role": "user", "content": content}],
        extra_body={"hybrid": {"draft": "events"}},
    )
    for event in stream:
        found: Any = event
        if found.type == "hybrid.draft.delta":
            draft += found.delta
        if found.type == "response.completed" and draft:
            response = found.response
            return Run(draft, response.output_text, response.hybrid)
    raise RuntimeError("no draft came before the answer")


def shapes(size: int) -> str:
    """The sample picture as one path per colour, so that no viewer has to allow pictures inside pictures."""
    picture = Image.open(SAMPLE).convert("RGB")
    runs: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for y in range(picture.height):
        x = 0
        while x < picture.width:
            start, colour = x, picture.getpixel((x, y))
            while x < picture.width and picture.getpixel((x, y)) == colour:
                x += 1
            assert isinstance(colour, tuple)
            runs[colour].append(f"M{start} {y}h{x - start}v1h-{x - start}z")
    paths = "".join(f"<path fill='#{bytes(colour).hex()}' d='{''.join(d)}'/>" for colour, d in runs.items())
    box = f"x='24' y='24' width='{size}' height='{size}' viewBox='0 0 160 160' shape-rendering='crispEdges'"
    return f"<svg {box}>{paths}</svg>"


def text(x: float, y: float, content: str, *, size: int = 14, colour: str = "#24292f", more: str = "") -> str:
    """A line of text."""
    return f"<text x='{x:.0f}' y='{y:.0f}' font-size='{size}' fill='{colour}' {FONT} {more}>{escape(content)}</text>"


def draw(run: Run, lang: str) -> str:
    """The picture of one run."""
    words = TEXTS[lang]

    def said(y: int, title: str, colour: str, what: str, more: str = "") -> str:
        width = 26 + 11 * len(what)
        return (
            text(COLUMN_X, y, title, size=13, colour="#57606a")
            + f"<rect x='{COLUMN_X}' y='{y + 10}' width='{width}' height='32' rx='16' fill='{colour}'/>"
            + text(COLUMN_X + 14, y + 31, what, size=17, colour="#ffffff", more=more)
        )

    struck = "text-decoration='line-through'" if run.draft != run.answer else ""
    agreement = words["agreement"].format(run.hybrid["agreement"])
    arrow = f"M{COLUMN_X + 24} 88v22m-5 -6l5 6l5 -6"
    half = QUESTION.index(" left of")
    reason = run.hybrid["reasons"][0]["text" if lang == "en" else "text_zh"]
    cut = reason.find("(") if lang == "en" else reason.find("（")
    lines = [reason[:cut].strip(), reason[cut:]] if cut > 0 else [reason]
    parts = [
        f"<rect width='{WIDTH}' height='{HEIGHT}' rx='10' fill='#ffffff' stroke='#d0d7de'/>",
        shapes(190),
        text(24, 242, QUESTION[:half], size=14, more="font-weight='600'"),
        text(24, 262, QUESTION[half + 1 :], size=14, more="font-weight='600'"),
        said(38, words["draft"], "#6e7781", run.draft, struck),
        f"<path d='{arrow}' fill='none' stroke='#57606a' stroke-width='2'/>",
        text(COLUMN_X + 40, 105, agreement, size=12, colour="#57606a"),
        said(134, words["answer"], "#0969da", run.answer),
        *(
            text(
                COLUMN_X, 222 + 20 * index, words["why"].format(line) if index == 0 else line, size=13, colour="#57606a"
            )
            for index, line in enumerate(lines)
        ),
    ]
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'>"
    title = f"<title>{escape(QUESTION)} {escape(run.draft)} → {escape(run.answer)}</title>"
    return head + title + "".join(parts) + "</svg>\n"


def main() -> None:
    """Ask once and write both pictures."""
    run = ask()
    for lang, name in (("en", "draft-to-answer.svg"), ("zh", "draft-to-answer.zh.svg")):
        (ROOT / "docs" / name).write_text(draw(run, lang), "utf-8")
    print(f"draft {run.draft!r}, answer {run.answer!r}")


if __name__ == "__main__":
    main()
