"""The real models from an emulated hub: what `glowl up` and `glowl models pull` say, and how they end."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator

import pytest
import typer
from typer.testing import CliRunner, Result

from engines.hub import pull as pulling
from engines.hub.names import ModelName
from engines.hub.words import WORDS
from router.cli import full_models, model_setup, models
from router.cli.data_folder import Layout
from router.cli.full_models import Sources
from router.cli.main import app
from router.cli.texts import downloads
from router.cli.torch_probe import TorchReport
from tests.support.hub_server import COMMIT, HubServer

SHARD = "model-00001-of-00002.safetensors"
OTHER_SHARD = "model-00002-of-00002.safetensors"
LARGE = ("NVIDIA H200", 141 * models.GB)
SMALL = ("NVIDIA T4", 8 * models.GB)


class HubInThread:
    """An emulated hub beside a command that has an event loop of its own."""

    def __init__(self) -> None:
        self.server = HubServer()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        self._run(self.server.start())

    def stop(self) -> None:
        if self._thread.is_alive():
            self._run(self.server.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[HubInThread]:
    hub = HubInThread()
    hub.start()
    names = {"huggingface": ModelName("org/model"), "modelscope": ModelName("org/model", "modelscope")}
    monkeypatch.setattr(models, "FULL_MODELS", dict.fromkeys(models.ENGINE_NAMES, models.FullModel(names, 40_000)))
    for name in [name for name in os.environ if name.startswith(("GLOWL_", "HF_", "MODELSCOPE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setenv("HF_ENDPOINT", hub.server.url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.server.url)
    monkeypatch.setenv("GLOWL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(model_setup, "has_engine_packages", lambda: True)
    monkeypatch.setattr("router.cli.torch_probe.probe_torch", lambda: TorchReport("2.13.0", "13.0", (LARGE,)))
    # What waiting helps against is tried again for minutes; tests/engines/hub does that without waiting.
    monkeypatch.setattr(pulling, "MAX_FRUITLESS", 1)
    yield hub
    hub.stop()


def pull(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", "pull", *arguments])


def test_both_are_pulled_recorded_and_from_then_on_present(hub, tmp_path):
    result = pull()
    assert result.exit_code == 0, result.output
    folder = tmp_path / "hf" / "hub" / "models--org--model" / "snapshots" / COMMIT
    assert f"glm: org/model@{COMMIT}, " in result.stdout
    assert f"in {folder}" in result.stdout
    assert f"from {hub.server.url}" in result.stdout
    # Bytes, of a rate
    assert "0.00 of 0.00 GB" in result.stdout
    assert "MB/s" in result.stdout
    assert models.full_name("owl2", tmp_path / "data").revision == COMMIT
    assert models.present_models(tmp_path / "data", tmp_path)[-1] == "full"
    listed = CliRunner().invoke(app, ["models", "list"]).stdout.splitlines()
    assert [line for line in listed if line.startswith("full")] == [
        f"full    glm   {'full, 0.0 MB':<34} {folder}",
        f"full    owl2  {'full, 0.0 MB':<34} {folder}",
    ]
    # And without the hub they are still used, at that revision
    hub.stop()
    assert pull().exit_code == 0


def faults() -> dict[str, tuple[Callable[[HubServer], object], int, str]]:
    """By the code of what is said: how the hub goes wrong, the exit status, words of the one line."""
    return {
        "gated": (lambda hub: setattr(hub, "refuse", (403, {"X-Error-Code": "GatedRepo"})), 78, "HF_TOKEN"),
        "unknown": (lambda hub: setattr(hub, "refuse", (401, {})), 78, "org/model"),
        "forbidden": (lambda hub: setattr(hub, "refuse", (403, {})), 78, "403"),
        "busy": (lambda hub: setattr(hub, "refuse", (429, {"Retry-After": "3600"})), 75, "429"),
        "missing": (lambda hub: hub.files.pop(OTHER_SHARD), 78, OTHER_SHARD),
        "contents": (lambda hub: hub.claims(SHARD, "0" * 64), 78, "sha256"),
        "cut": (lambda hub: hub.fails(SHARD, *["cut 0"] * 9), 75, ""),
        "foreign": (lambda hub: setattr(hub, "page", "<html>"), 78, "HF_ENDPOINT"),
    }


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("code", list(faults()))
def test_each_failure_is_one_line_with_a_status_that_says_whether_waiting_helps(hub, code, lang):
    go_wrong, status, words = faults()[code]
    go_wrong(hub.server)
    result = pull("--lang", lang)
    assert result.exit_code == status
    (line,) = result.stderr.splitlines()
    assert line.startswith("glowl: ")
    assert words in line
    assert hub.server.url in line
    if lang == "zh":
        assert any("\u4e00" <= character <= "\u9fff" for character in line)


def test_a_hub_that_is_down_and_one_that_may_not_be_asked_are_one_line(hub, monkeypatch):
    hub.stop()
    result = pull()
    assert (result.exit_code, len(result.stderr.splitlines())) == (75, 1)
    assert "cannot be reached" in result.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = pull()
    assert (result.exit_code, "HF_HUB_OFFLINE" in result.stderr) == (78, True)


def test_a_revision_is_of_one_model_and_kept(hub, tmp_path):
    assert pull("--revision", "v1").exit_code == 2
    assert pull("glm", "--revision", "v9").exit_code == 78
    assert pull("glm", "--revision", "v1").exit_code == 0
    assert str(models.full_name("glm", tmp_path / "data")) == f"org/model@{COMMIT}"
    assert models.full_name("owl2", tmp_path / "data").revision == ""
    assert pull("parrot").exit_code == 2


def test_modelscope_is_another_source_and_remembered(hub, tmp_path):
    assert pull("--hub", "modelscope").exit_code == 0
    plan = full_models.prepare_full(("glm", "owl2"), tmp_path / "data", "en", Sources())
    assert plan.models["glm"] == str(tmp_path / "ms" / "models" / "org--model" / "snapshots" / "master")
    assert plan.shown["glm"] == "modelscope:org/model@master"


@pytest.mark.parametrize(
    ("gpus", "quantization", "said"),
    [
        ((SMALL,), None, "and NVIDIA T4 has 8.0 GB"),
        ((("NVIDIA L4", 24 * models.GB),), "none", "add --quantization int4"),
        ((LARGE,), "none", ""),
        ((LARGE, LARGE), "int8", ""),
    ],
)
def test_nothing_is_downloaded_onto_a_machine_that_cannot_run_it_unless_told_to(
    hub, tmp_path, monkeypatch, capsys, gpus, quantization, said
):
    monkeypatch.setattr("router.cli.torch_probe.probe_torch", lambda: TorchReport("2.13.0", "13.0", gpus))
    sources = Sources(quantization=quantization)
    if said:
        with pytest.raises(typer.Exit) as ended:
            full_models.prepare_full(models.ENGINE_NAMES, tmp_path / "data", "en", sources)
        assert ended.value.exit_code == 78
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert hub.server.requests == []
        if quantization is None:
            assert pull().exit_code == 78
            assert pull("--anyway").exit_code == 0
    sources = Sources(quantization=quantization, is_anyway=bool(said))
    plan = full_models.prepare_full(models.ENGINE_NAMES, tmp_path / "data", "en", sources)
    assert plan.devices == ({"glm": "cuda:0", "owl2": "cuda:1"} if len(gpus) == 2 else {})


def test_folders_of_ones_own_are_used_and_have_to_be_whole(hub, tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    layout = Layout(tmp_path / "data")
    sources = Sources(folders={"glm": folder})
    (folder / "config.json").write_text("{}")
    with pytest.raises(typer.Exit):
        model_setup.prepare_models("pocket", layout, "en", sources=sources)
    assert (
        f"--glm: {folder} is no whole checkpoint; it lacks tokenizer.json, model.safetensors" in capsys.readouterr().err
    )
    # Nor is one that was cloned without Git LFS; what loaders do not read may be so
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9976\n"
    for file in ("tokenizer.json", "model.safetensors", "pytorch_model.bin", "figure.png"):
        (folder / file).write_text(pointer)
    with pytest.raises(typer.Exit):
        model_setup.prepare_models("pocket", layout, "en", sources=sources)
    assert (
        f"--glm: {folder} was cloned without Git LFS: run `git lfs pull` in it to get model.safetensors"
        in capsys.readouterr().err
    )
    # Nor is one whose copy broke off
    (folder / "tokenizer.json").write_text("{}")
    tensors = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    (folder / "model.safetensors").write_bytes(len(tensors).to_bytes(8, "little") + tensors + b"1234567")
    with pytest.raises(typer.Exit):
        model_setup.prepare_models("pocket", layout, "en", sources=sources)
    assert f"--glm: model.safetensors in {folder} has another size" in capsys.readouterr().err
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"890123456")
    plan = model_setup.prepare_models("pocket", layout, "en", sources=sources)
    assert plan.models == {"glm": str(folder), "owl2": str(models.pocket_dir() / "owl2")}
    # Of the real ones, only the other is downloaded
    plan = model_setup.prepare_models("full", layout, "en", sources=sources)
    assert plan.models["glm"] == str(folder)
    assert COMMIT in plan.models["owl2"]


def test_every_word_of_a_download_has_its_chinese():
    assert set(downloads.TEXTS) == {f"hub.{code}" for code in WORDS}
