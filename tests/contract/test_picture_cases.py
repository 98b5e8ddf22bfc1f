"""Pictures of public bug reports, through the door and the pocket GLM: answered, or refused for what is wrong."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from engines.base import (  # noqa: E402
    EngineOptions,
    GenerationRequest,
    InvalidImageError,
    Message,
    SamplingParams,
    TextPart,
    generate,
)
from engines.glm.engine import GlmEngine, load  # noqa: E402
from router.fetch import SafeFetcher  # noqa: E402
from router.media import MediaIntake  # noqa: E402
from router.settings import Settings  # noqa: E402

CASES = Path(__file__).parents[3] / "shared" / "cases"
WEIGHTS = Path(__file__).parents[2] / "engines" / "pocket" / "weights" / "glm"
PINK = {
    "scene.png": "粉色",
    "png-labelled-as-jpeg.json": "粉色",
    "jpeg-labelled-image-jfif.json": "粉色",
    "png-with-1.5-mb-of-compressed-text.png": "粉色",
    "png-with-bad-checksum-in-text.png": "粉色",
    "jpeg-without-end-marker.jpg": "粉色",
    "png-195-times-as-wide-as-high.png": "",  # any answer: it is black
}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CASES.exists(), reason="the cases are not on this machine"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def glm() -> AsyncIterator[GlmEngine]:
    engine = load(EngineOptions(model=str(WEIGHTS), device="cpu"))
    await engine.start()
    yield engine
    await engine.aclose()


def source_of(name: str) -> str:
    """The picture as a client sends it: as the case has it, or as a data URL."""
    data = (CASES / name).read_bytes()
    if name.endswith(".json"):
        parts = orjson.loads(data)["messages"][-1]["content"]
        return next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    return "data:image/png;base64," + base64.b64encode(data).decode()


async def ask(glm: GlmEngine, source: str) -> str:
    settings = Settings()
    image = await MediaIntake(settings, SafeFetcher(settings)).load(
        source, param="messages[0].content[0].image_url.url"
    )
    message = Message("user", (image, TextPart("图中的菱形是什么颜色的？")))
    return (await generate(glm, GenerationRequest((message,), SamplingParams(max_tokens=16)))).text


@pytest.mark.parametrize("name", PINK)
async def test_a_picture_that_went_wrong_elsewhere_is_answered(glm: GlmEngine, name: str) -> None:
    assert PINK[name] in await ask(glm, source_of(name))


async def test_half_of_a_picture_is_refused_by_name(glm: GlmEngine) -> None:
    jpeg = (CASES / "jpeg-without-end-marker.jpg").read_bytes()
    with pytest.raises(InvalidImageError) as refusal:
        await ask(glm, base64.b64encode(jpeg[: len(jpeg) // 2]).decode())
    assert (refusal.value.code, refusal.value.param) == ("image_parse_error", "messages[0].content[0].image_url.url")
