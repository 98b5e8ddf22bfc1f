"""Whether GLM runs on vLLM in `glowl up`, with which command, and what is said of it."""

import shlex
import shutil
from pathlib import Path

import pytest
import typer

from router.cli import models, vllm
from router.cli import specs as builder
from router.cli.data_folder import Layout
from router.cli.net import Address
from router.cli.redis_server import RedisChoice
from router.settings import Settings

GPU = ("NVIDIA L40S", 48 * models.GB)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "Env" / "bin" / "vllm"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "glm"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def choose(setting: str, folder: Path, *gpus: tuple[str, int], quantization: str | None = None, **settings: object):
    made = Settings(vllm=setting, **settings)  # type: ignore[call-arg, arg-type]
    plan = models.ModelPlan("full", {"glm": str(folder), "owl2": "/owl2"}, gpus=gpus)
    return vllm.choose_vllm(made, plan, "en", quantization=quantization)


def on_the_path(monkeypatch, program: Path | None) -> None:
    found = str(program) if program else None
    monkeypatch.setattr(vllm.shutil, "which", lambda name: found if name == "vllm" else shutil_which(name))


shutil_which = shutil.which


def test_with_a_gpu_and_vllm_installed_it_is_taken(monkeypatch, folder, program, capsys):
    on_the_path(monkeypatch, program)
    assert choose("auto", folder, GPU) == program
    assert capsys.readouterr().out == f"GLM runs on vLLM: {program}\n"


@pytest.mark.parametrize("named", ["", "auto", "Auto"])
def test_without_vllm_one_line_says_what_that_costs(monkeypatch, folder, capsys, named):
    on_the_path(monkeypatch, None)
    monkeypatch.setattr(vllm.sys, "executable", str(folder / "python"))
    assert choose(named, folder, GPU) is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "vLLM is faster" in said


def test_without_a_gpu_it_is_said_and_our_own_engine_is_taken(monkeypatch, folder, program, capsys):
    on_the_path(monkeypatch, program)
    assert choose("auto", folder) is None
    assert "no CUDA device found" in capsys.readouterr().out
    # And whoever has neither hears nothing of it
    on_the_path(monkeypatch, None)
    monkeypatch.setattr(vllm.sys, "executable", str(folder / "python"))
    assert choose("auto", folder) is None
    assert capsys.readouterr().out == ""


def test_a_program_in_another_environment_is_named_by_its_path(folder, program, capsys):
    assert choose(str(program), folder, GPU) == program
    with pytest.raises(typer.Exit) as ended:
        choose("/nowhere/vllm", folder, GPU)
    assert ended.value.exit_code == 2
    assert "GLOWL_VLLM: there is no program /nowhere/vllm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [({"quantization": "int8"}, "--quantization"), ({"glm_adapters": (("a", "/a"),)}, "GLOWL_GLM_ADAPTERS")],
)
def test_what_only_our_engine_does_is_not_lost_silently(folder, program, capsys, options, said):
    assert choose(str(program), folder, GPU, **options) is None
    assert f"{said} is set" in capsys.readouterr().out


def test_off_pocket_models_and_servers_elsewhere_are_never_vllm(folder, program, capsys):
    assert choose("off", folder, GPU) is None
    assert choose(str(program), folder, GPU, glm_url="http://gpu1:8001") is None
    assert choose(str(program), models.pocket_dir() / "glm", GPU) is None
    assert choose(str(program), Path("echo"), GPU) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("gpus", "settings", "share"),
    [
        # Owl2's engine measures the same two models, and takes the rest of 0.92.
        ((GPU,), {}, "0.50"),
        ((GPU, GPU), {}, "0.92"),
        ((GPU,), {"owl2_url": "http://b:8102"}, "0.92"),
        # One too small for both, whose user has it so anyway.
        ((("RTX 4090", 24 * models.GB),), {}, "0.92"),
    ],
)
def test_it_is_a_child_like_any_other_that_answers_on_the_engines_socket(monkeypatch, program, gpus, settings, share):
    monkeypatch.setattr(
        builder, "find_redis", lambda: RedisChoice("path", binary=Path("/bin/redis-server"), version="7.2")
    )
    plan = models.ModelPlan(
        "full", {"glm": "/m/glm", "owl2": "/m/owl2"}, shown={"glm": "zai-org/GLM-4.6V-Flash@abc"}, gpus=gpus
    )
    made = Settings(data_dir=Path("/data"), **settings)  # type: ignore[call-arg, arg-type]
    specs = {
        spec.name: spec for spec in builder.build_specs(made, Layout(Path("/data")), plan, language="en", vllm=program)
    }
    assert specs["glm"].argv == (
        str(program),
        *shlex.split(
            "serve /m/glm --served-model-name zai-org/GLM-4.6V-Flash --reasoning-parser glm45 "
            "--enable-auto-tool-choice --tool-call-parser glm45 --max-model-len 32768 "
            f"--gpu-memory-utilization {share} --uds /data/run/glm.sock"
        ),
    )
    assert specs["glm"].env["DO_NOT_TRACK"] == "1"
    assert not specs["glm"].inherits("GLOWL_API_KEYS")
    assert specs["api"].env["GLOWL_GLM_URL"] == "unix:///data/run/glm.sock"
    if "owl2" in specs:
        assert "engines.http.server" in specs["owl2"].argv


def test_without_room_for_a_socket_it_listens_on_loopback(program):
    plan = models.ModelPlan("pocket", {"glm": "/my/glm"})
    argv = vllm.vllm_argv(program, Address(port=4711), plan, is_alone=True)
    assert argv[-4:] == ("--host", "127.0.0.1", "--port", "4711")
    assert argv[argv.index("--served-model-name") + 1] == "glm-4.6v-flash"
