"""Which engine and adapter a model name asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import httpx
import pytest

from engines.base import EngineInfo
from router.api.models import Target, resolve_model
from router.errors import NotFoundError
from router.health import EngineMonitor


class Monitor:
    """Knows what it was told."""

    def __init__(self, **infos: EngineInfo) -> None:
        self._infos = infos

    def info(self, name: str) -> EngineInfo | None:
        return self._infos.get(name)

    name_of = EngineMonitor.name_of


def resolve(name: str, glm: EngineInfo | None = None) -> Target:
    return resolve_model(name, cast("Any", Monitor(**({"glm": glm} if glm else {}))))


OURS = EngineInfo("glm", "glm-4.6v-flash", "pocket", 100, 4, adapters=("Receipts",))
HOSTED = EngineInfo("glm", "vision:7b", "full", 100, 4, adapters=("tags",))


@pytest.mark.parametrize(
    ("name", "glm", "target"),
    [
        ("glowl", OURS, Target(None)),
        ("glm-4.6v-flash", OURS, Target("glm")),
        ("glm-4.6v-flash:Receipts", OURS, Target("glm", "Receipts")),
        ("GLM-4.6V-Flash-Pocket:receipts", OURS, Target("glm", "Receipts")),
        ("zai-org/GLM-4.6V-Flash:receipts", OURS, Target("glm", "Receipts")),
        ("glm-4.6v-flash-web:receipts", OURS, Target("glm", "Receipts")),
        ("vision:7b", HOSTED, Target("glm")),
        ("glm-4.6v-flash:tags", HOSTED, Target("glm", "tags")),
        ("glm-4.6v-flash:base", OURS, Target("glm", is_base=True)),
        ("glm-4.6v-flash-pocket:Base", None, Target("glm", is_base=True)),
        ("glm-4.6v-flash:base", replace(OURS, adapters=("base",)), Target("glm", "base")),
        # Nobody knows yet what it has
        ("glm-4.6v-flash:anything", None, Target("glm", "anything")),
    ],
)
def test_a_name_asks_for_an_engine_and_its_adapter(name: str, glm: EngineInfo | None, target: Target) -> None:
    assert resolve(name, glm) == target


@pytest.mark.parametrize(
    "name", ["glm-4.6v-flash:nope", "glm-4.6v-flash:", "glowl:receipts", "glowl:", "nope:receipts", "nope"]
)
def test_what_does_not_exist_is_a_404(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve(name, OURS)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    if name.startswith("glm"):
        assert "'glm-4.6v-flash-pocket:Receipts'" in caught.value.message
        assert "'glm-4.6v-flash-pocket:Receipts'" in (caught.value.message_zh or "")


def test_boxes_are_on_the_page_that_describes_the_api(http: httpx.Client) -> None:
    page = http.get("/openapi.json").json()

    assert set(page["components"]["schemas"]["Box"]["required"]) == {"image", "x1", "y1", "x2", "y2"}
    for path in ("/v1/chat/completions", "/v1/responses"):
        answer = page["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        answer = page["components"]["schemas"][answer["$ref"].rpartition("/")[2]]
        assert answer["properties"]["hybrid"] == {"$ref": "#/components/schemas/HybridAnswer"}
    boxes = page["components"]["schemas"]["HybridAnswer"]["properties"]["boxes"]
    assert boxes["items"] == {"$ref": "#/components/schemas/Box"}
