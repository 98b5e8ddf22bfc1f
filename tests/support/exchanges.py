"""Kept exchanges as tests write them down, and a picture that one shows."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

from PIL import Image

from engines.base import ImagePart
from router.loop.records import Answer, Exchange

SECRET = "绝密文字-qX7"


def make_picture(level: int = 200) -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (level, 10, 10)).save(file, "PNG")
    return ImagePart(file.getvalue(), "image/png", hashlib.sha256(file.getvalue()).hexdigest())


def exchange(number: int = 1, **changes: object) -> Exchange:
    made = Exchange(
        id=f"resp_{number}",
        owner="own_a",
        at=1000.0 + number,
        took_s=2.5,
        state="completed",
        question=f"合计？{SECRET}",
        messages=[{"role": "user", "parts": [{"type": "text", "text": f"合计？{SECRET}"}]}],
        language="zh",
        route="deep",
        rule="several_images",
        engine="owl2",
        decision={"route": "deep"},
        answers={"draft": Answer("41", "glm", 0.5, 0.1, 10, 2), "deep": Answer("42", "owl2", 2.0, 0.4, 12, 3)},
        final="42",
        final_model="owl2",
        final_engine="owl2",
        strategy="deep",
        agreement=0.25,
        conflicts=({"kind": "number"},),
    )
    return replace(made, **changes)  # type: ignore[arg-type]
