from __future__ import annotations

import importlib
import io
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoTokenizer

from engines import base
from engines.base import EngineOptions, GenerationRequest, ImagePart, Message, SamplingParams, TextPart
from engines.pocket import random_tiny
from engines.pocket.random_tiny import ensure_random_tiny, make_glm, make_owl2

GOLDEN_GLM = Path(__file__).resolve().parents[4] / "shared" / "golden" / "glm" / "model"
MAX_FOLDER_BYTES = 3_000_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ensure_random_tiny(tmp_path_factory.mktemp("models") / "new")


def picture(colour: str) -> ImagePart:
    buffer = io.BytesIO()
    image = Image.new("RGB", (200, 120), "white")
    ImageDraw.Draw(image).ellipse((20, 20, 100, 100), fill=colour)
    image.save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "image/png", colour)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["glm", "owl2"])
def test_a_checkpoint_is_small_and_says_what_it_is(folders: dict[str, Path], name: str) -> None:
    assert folders[name].name == name
    assert sum(len(data) for data in read_tree(folders[name]).values()) < MAX_FOLDER_BYTES
    assert json.loads((folders[name] / "glowl.json").read_text()) == {"variant": "random-tiny"}


@pytest.mark.parametrize("make", [make_glm, make_owl2])
def test_the_same_seed_makes_the_same_files_and_another_seed_other_weights(
    make: Callable[..., None], tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    make(tmp_path / "a")
    make(tmp_path / "b")
    make(tmp_path / "c", seed=1)

    first, second, third = (read_tree(tmp_path / name) for name in "abc")
    assert first == second
    assert [name for name in first if first[name] != third[name]] == ["model.safetensors"]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("name", "context_tokens"), [("glm", 8192), ("owl2", 2048)])
async def test_the_ordinary_engine_answers_with_words_that_depend_on_what_was_sent(
    folders: dict[str, Path], name: str, context_tokens: int
) -> None:
    # Given the engine that the real weights would have
    engine = importlib.import_module(f"engines.{name}.engine").load(EngineOptions(str(folders[name]), device="cpu"))
    await engine.start()
    info = await engine.info()
    assert (info.variant, info.context_tokens) == ("random-tiny", context_tokens)

    # When it is asked about pictures and about none
    async def ask(*parts: str | ImagePart) -> base.GenerationResult:
        turn = Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))
        return await base.generate(engine, GenerationRequest((turn,), SamplingParams(max_tokens=400)))

    results = [
        await ask(*images, question)
        for images in ((), (picture("red"),), (picture("blue"),), (picture("red"), picture("blue")))
        for question in ("图片里有什么？", "What is in the picture?", "How many?", "请描述")
    ]

    # Then every answer has words, nearly all end by themselves, and they are not all one
    assert all(result.text.strip() and "\ufffd" not in result.text for result in results)
    assert sum(result.finish_reason == "stop" for result in results) >= 14
    assert len({result.text for result in results}) >= 6
    await engine.aclose()


def test_what_is_there_is_kept(folders: dict[str, Path]) -> None:
    before = {name: read_tree(folder) for name, folder in folders.items()}
    (folders["glm"] / "mine.txt").write_text("kept")

    assert ensure_random_tiny(folders["glm"].parent) == folders

    assert (folders["glm"] / "mine.txt").read_text() == "kept"
    (folders["glm"] / "mine.txt").unlink()
    assert {name: read_tree(folder) for name, folder in folders.items()} == before


def test_an_interrupted_making_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a making that breaks after the first file
    def breaks(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setattr(random_tiny, "make_owl2", breaks)
    monkeypatch.setattr(random_tiny, "make_glm", lambda folder: (folder / "config.json").write_text("{}"))

    with pytest.raises(OSError, match="disk full"):
        ensure_random_tiny(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["glm"]


def test_two_makers_at_once_end_with_one_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two starts that both find nothing and both write
    both_writing = threading.Barrier(2)

    def slow(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        both_writing.wait(300)
        (folder / "glowl.json").write_text("{}")

    monkeypatch.setattr(random_tiny, "make_glm", slow)
    monkeypatch.setattr(random_tiny, "make_owl2", slow)
    results: list[dict[str, Path]] = []
    threads = [threading.Thread(target=lambda: results.append(ensure_random_tiny(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)

    # Then both are told the same whole folders, and nothing else is left
    assert results == [{"glm": tmp_path / "glm", "owl2": tmp_path / "owl2"}] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glm", "owl2"]
    assert sorted(read_tree(tmp_path / "glm")) == ["config.json", "glowl.json"]


def test_the_command_prints_where_the_checkpoints_are(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    random_tiny.main([str(folders["glm"].parent)])

    assert capsys.readouterr().out.split() == ["glm", str(folders["glm"]), "owl2", str(folders["owl2"])]


def random_conversation(generator: random.Random) -> list[dict[str, Any]]:
    texts = ["hi", "你好 ", "\nwhat?/nothink", "", " <think>why</think>\nso", "a</think>\n\nb"]

    def parts() -> list[dict[str, str]]:
        return [
            {"type": "image"} if generator.random() < 0.4 else {"type": "text", "text": generator.choice(texts)}
            for _ in range(generator.randint(1, 4))
        ]

    turns: list[dict[str, Any]] = []
    if generator.random() < 0.5:
        turns.append({"role": "system", "content": generator.choice(texts)})
    for _ in range(generator.randint(1, 3)):
        turns.append({"role": "user", "content": generator.choice([generator.choice(texts), parts()])})
        answer: dict[str, Any] = {"role": "assistant", "content": generator.choice(texts)}
        if generator.random() < 0.3:
            answer["reasoning_content"] = "because "
        if generator.random() < 0.4:
            answer["tool_calls"] = [{"function": {"name": "zoom", "arguments": {"box": [1, 2], "label": "猫"}}}]
            turns += [answer, {"role": "tool", "content": generator.choice(["4", parts()])}]
            turns += [{"role": "tool", "content": "5"}] * generator.randint(0, 1)
        else:
            turns.append(answer)
    if generator.random() < 0.5:
        turns.append({"role": "user", "content": parts()})
    return turns


@pytest.mark.skipif(not GOLDEN_GLM.is_dir(), reason="the golden data is not beside the repository")
def test_the_chat_template_renders_as_the_golden_one_does(folders: dict[str, Path]) -> None:
    ours, golden = AutoTokenizer.from_pretrained(folders["glm"]), AutoTokenizer.from_pretrained(GOLDEN_GLM)
    generator = random.Random(0)
    for _ in range(500):
        conversation = random_conversation(generator)
        options = {"tokenize": False, "add_generation_prompt": generator.random() < 0.8}
        if (switch := generator.choice([True, False, None])) is not None:
            options["enable_thinking"] = switch

        assert ours.apply_chat_template(conversation, **options) == golden.apply_chat_template(conversation, **options)


@pytest.mark.skipif(not GOLDEN_GLM.is_dir(), reason="the golden data is not beside the repository")
def test_the_added_tokens_are_the_golden_ones_in_their_order(folders: dict[str, Path]) -> None:
    ours, golden = AutoTokenizer.from_pretrained(folders["glm"]), AutoTokenizer.from_pretrained(GOLDEN_GLM)

    assert [(t.content, t.special) for _, t in sorted(ours.added_tokens_decoder.items())] == [
        (t.content, t.special) for _, t in sorted(golden.added_tokens_decoder.items())
    ]
