"""A LoRA adapter by its model name, and boxes in pixels, from the unmodified client down to the model and back."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from engines.base import EngineOptions
from engines.echo import EchoEngine
from engines.glm.engine import GlmEngine, load
from engines.http.app import create_app as create_engine_app
from engines.pocket.random_tiny import make_glm
from engines.runtime.sampling import Pick
from router.app import create_app
from router.settings import Settings
from tests.journeys.conftest import picture
from tests.support.servers import AppServer, RedisProcess, start_worker, wait_until

pytestmark = pytest.mark.e2e

MODEL = "glm-4.6v-flash-random-tiny"
QUESTION: list[Any] = [{"role": "user", "content": "图里有什么？"}]


class Glm:
    """The product around a tiny GLM with two adapters, and an Owl2 with one."""

    def __init__(self, redis: RedisProcess) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="glowl-x"))
        torch.set_num_threads(1)
        checkpoint = self.dir / "glm"
        checkpoint.mkdir()
        make_glm(checkpoint)
        adapters = tuple((name, str(self._make_adapter(checkpoint, name, seed))) for seed, name in enumerate("ab"))
        self.engine: GlmEngine = load(EngineOptions(str(checkpoint), device="cpu", adapters=adapters))
        engines = {"glm": self.engine, "owl2": EchoEngine("owl2", adapters=("turned",))}
        self.servers = {
            name: AppServer(create_engine_app(engine), uds=str(self.dir / f"{name}.sock"))
            for name, engine in engines.items()
        }
        urls = {f"{name}_url": server.url for name, server in self.servers.items()}
        self.api = AppServer(create_app(Settings(REDIS_URL=redis.url, **urls)))
        env = {"REDIS_URL": redis.url, **{f"GLOWL_{name.upper()}": url for name, url in urls.items()}}
        self.worker = start_worker(env, self.dir / "worker.log")
        self.client = openai.OpenAI(base_url=self.api.url + "/v1", api_key="unused", max_retries=0)
        wait_until(lambda: f"{MODEL}:a" in self.models(), "the engine")

    def _make_adapter(self, checkpoint: Path, name: str, seed: int) -> Path:
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|o_proj)", init_lora_weights=False
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
            get_peft_model(copy.deepcopy(model), config).save_pretrained(self.dir / name)
        return self.dir / name

    def models(self) -> dict[str, Any]:
        return {model.id: model for model in self.client.models.list().data}

    def close(self) -> None:
        self.client.close()
        self.api.stop()
        self.worker.stop()
        for server in self.servers.values():
            server.stop()


@pytest.fixture(autouse=True)
def _fast_engines() -> None:
    """Keep the stack of the other journeys from being started: its worker would take jobs from the same redis."""


@pytest.fixture(scope="module")
def glm(redis_process: RedisProcess) -> Iterator[Glm]:
    redis_process.flush()
    glm = Glm(redis_process)
    yield glm
    glm.close()


def test_adapters_are_listed_as_models(glm: Glm) -> None:
    listed = glm.models()

    assert [name for name in listed if ":" in name] == [f"{MODEL}:a", f"{MODEL}:b", "mplug-owl2-echo:turned"]
    about = listed[f"{MODEL}:a"].hybrid
    assert about.pop("revision")
    assert about == {"engine": "glm", "adapter": "a", "status": "up"}
    assert glm.client.models.retrieve("glm-4.6v-flash:B").id == f"{MODEL}:b"


def test_each_model_name_has_answers_of_its_own_and_says_which(glm: Glm) -> None:
    names = ("glm-4.6v-flash", "glm-4.6v-flash:a", "zai-org/GLM-4.6V-Flash:b", f"{MODEL}:a")
    answers = [glm.client.chat.completions.create(model=name, messages=QUESTION, max_tokens=24) for name in names]

    assert [answer.model for answer in answers] == [MODEL, f"{MODEL}:a", f"{MODEL}:b", f"{MODEL}:a"]
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[1] == texts[3]
    assert len(set(texts)) == 3


def test_a_stream_says_the_same_under_the_same_name(glm: Glm) -> None:
    options: dict[str, Any] = {"model": "glm-4.6v-flash:a", "messages": QUESTION, "max_tokens": 24}
    whole = glm.client.chat.completions.create(**options)
    chunks = list(glm.client.chat.completions.create(**options, stream=True))

    assert {chunk.model for chunk in chunks} == {f"{MODEL}:a"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content


def test_a_job_uses_the_adapter_in_every_branch_of_glm(glm: Glm) -> None:
    response = glm.client.responses.create(
        model="glm-4.6v-flash:a", input="图里有什么？", max_output_tokens=24, extra_body={"hybrid": {"route": "deep"}}
    )

    branches = response.model_extra["hybrid"]["branches"]  # type: ignore[index]
    assert response.model == f"{MODEL}:a"
    assert {branch["model"] for branch in branches} == {f"{MODEL}:a"}


def test_an_adapter_of_owl2_answers_under_its_name(glm: Glm) -> None:
    answer = glm.client.chat.completions.create(model="mplug-owl2:turned", messages=QUESTION)

    assert answer.model == "mplug-owl2-echo:turned"
    assert "owl2:turned" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("name", ["glm-4.6v-flash:nope", "glm-4.6v-flash:", "mplug-owl2:a", "glowl:a", "nope:a"])
def test_an_unknown_adapter_is_a_model_that_does_not_exist(glm: Glm, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        glm.client.chat.completions.create(model=name, messages=QUESTION)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    if name.startswith("glm"):
        assert f"'{MODEL}:a', '{MODEL}:b'" in caught.value.message


@pytest.fixture
def _says_where(glm: Glm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model answer with a place in the second picture."""
    text = "In image 2: <|begin_of_box|>[[100,200,500,1000]]<|end_of_box|><|user|>"
    ids = glm.engine.processor.tokenizer.encode(text, add_special_tokens=False)
    monkeypatch.setattr(
        glm.engine._runner, "_pick", lambda _logits, rows: [Pick(ids[len(row.token_ids)]) for row in rows]
    )


TWO_PICTURES: list[Any] = [
    {"type": "input_text", "text": "猫头鹰在哪里？"},
    {"type": "input_image", "detail": "auto", "image_url": picture("red", (64, 48))},
    {"type": "input_image", "detail": "auto", "image_url": picture("blue", (200, 100))},
]
BOXES = [{"image": 1, "x1": 20.0, "y1": 20.0, "x2": 100.0, "y2": 100.0}]
SAID = "In image 2: [[100,200,500,1000]]"


@pytest.mark.usefixtures("_says_where")
@pytest.mark.parametrize("route", ["fast", "deep"])
def test_a_place_in_a_picture_comes_back_in_its_pixels_and_stays_with_the_answer(glm: Glm, route: str) -> None:
    response = glm.client.responses.create(
        model="glm-4.6v-flash",
        input=[{"role": "user", "content": TWO_PICTURES}],
        extra_body={"hybrid": {"route": route}},
    )

    assert response.output_text == SAID
    assert response.model_extra["hybrid"]["boxes"] == BOXES  # type: ignore[index]
    again = glm.client.responses.retrieve(response.id)
    assert again.model_extra["hybrid"]["boxes"] == BOXES  # type: ignore[index]


@pytest.mark.usefixtures("_says_where")
def test_chat_completions_and_their_streams_bring_boxes(glm: Glm) -> None:
    content = [
        {"type": "text", "text": "在哪里？"},
        *({"type": "image_url", "image_url": {"url": part["image_url"]}} for part in TWO_PICTURES[1:]),
    ]
    options: dict[str, Any] = {"model": "glm-4.6v-flash", "messages": [{"role": "user", "content": content}]}

    whole = glm.client.chat.completions.create(**options)
    chunks = list(glm.client.chat.completions.create(**options, stream=True))

    assert whole.choices[0].message.content == SAID
    assert whole.model_extra["hybrid"]["boxes"] == BOXES  # type: ignore[index]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
    assert chunks[-1].model_extra["hybrid"]["boxes"] == BOXES  # type: ignore[index]
