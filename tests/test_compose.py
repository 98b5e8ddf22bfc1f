"""compose.yaml and deploy/Dockerfile say only what the product has: commands, variables, routes, checks."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.applications import Starlette
from starlette.routing import Match
from typer.main import get_command

from engines.base import EngineOptions
from engines.http.app import create_app as create_engine_app
from engines.http.loading import load_engine
from router.app import create_app
from router.cli.main import app as cli
from router.cli.net import Address
from router.cli.redis_server import memory_limit_bytes, redis_argv
from router.cli.specs import WORKERS
from router.jobs.queue import QUEUES, queue_name
from router.settings import Settings
from tests.docs.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ("cpu", "gpu", "gpu-own", "vllm")
ENGINES = ("glm", "owl2")
ROUTER = ("api", "worker", "worker-owl2", "worker-light")
# Read by huggingface_hub, which downloads the real weights inside the engine images.
HUB_VARIABLES = {
    *("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN"),
    *("HTTPS_PROXY", "NO_PROXY"),
}
# What the page about traces says to set for all processes.
TRACE_VARIABLES = set(re.findall(r"`(OTEL_\w+)`", "".join(row[0] for row in Page(ROOT / "docs/traces.md").rows)))
ADAPTER_VARIABLES = {"glm": "GLOWL_GLM_ADAPTERS", "owl2": "GLOWL_OWL2_ADAPTERS"}
ENGINE_VARIABLES = (
    HUB_VARIABLES | TRACE_VARIABLES | {"GLOWL_LOG_LEVEL", "GLOWL_LOG_FORMAT", *ADAPTER_VARIABLES.values()}
)
# What the sign on the door of an engine's environment keeps out.
NOT_FOR_ROUTER = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN"}

Service = dict[str, Any]


def interpolate(value: Any) -> Any:
    """Fill every ${NAME:-default} as compose does where nobody set NAME."""
    if isinstance(value, str):
        return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value)
    if isinstance(value, list):
        return [interpolate(item) for item in value]
    if isinstance(value, dict):
        return {key: interpolate(item) for key, item in value.items()}
    return value


WRITTEN = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
COMPOSE = interpolate(WRITTEN)
SERVICES: dict[str, Service] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("glowl-")}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def in_profile(profile: str) -> dict[str, Service]:
    return {name: service for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}


def is_router(service: Service) -> bool:
    return bool(service["image"] == "glowl-api")


def parse_command(arguments: list[str]) -> dict[str, Any]:
    """Parse as the command line would, without running; a wrong command or option raises."""
    command = get_command(cli).commands[arguments[0]]  # type: ignore[attr-defined]
    parameters: dict[str, Any] = command.make_context(arguments[0], arguments[1:]).params
    return parameters


def parameters_of(service: Service) -> dict[str, Any]:
    return parse_command(shlex.split(service["command"]))


def answers(app: Starlette, path: str) -> bool:
    """Whether a GET of that path would reach a route."""
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


@pytest.fixture(scope="module")
def apps() -> dict[str, Starlette]:
    """The real applications, not started."""
    return {"api": create_app(Settings()), "engine": create_engine_app(load_engine("glm", EngineOptions(model="echo")))}


def test_the_promised_services_are_there() -> None:
    assert {"api", "worker", "worker-owl2", "worker-light", "glm", "owl2", "redis"} <= set(in_profile("cpu"))
    own = {"api", "worker", "worker-owl2", "worker-light", "glm-gpu", "owl2-gpu", "redis"}
    assert own == set(in_profile("gpu-own"))
    assert {"api", "worker", "worker-owl2", "worker-light", "glm", "owl2", "redis"} == set(in_profile("cpu"))
    assert own - {"glm-gpu"} | {"glm-vllm"} == set(in_profile("gpu")) == set(in_profile("vllm"))


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_the_command_line_has(name: str) -> None:
    assert parameters_of(OURS[name])


@pytest.mark.parametrize("arguments", [["api", "--prot", "1"], ["engine", "glm"], ["worker", "extra"]], ids=str)
def test_a_wrong_command_would_be_noticed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such option|Missing parameter|unexpected extra argument"):
        parse_command(arguments)


def test_redis_keeps_what_it_acknowledged_just_as_the_one_that_glowl_starts() -> None:
    ours = redis_argv(Path("redis-server"), Address(port=6379), Path("/data"))
    options = shlex.split(SERVICES["redis"]["command"])

    kept = dict(zip(options[::2], options[1::2], strict=True))
    assert (kept.pop("--dir"), kept.pop("--protected-mode")) == ("/data", "no")
    assert kept.items() <= dict(zip(ours[1::2], ours[2::2], strict=True)).items()
    assert {"--appendonly", "--appendfsync", "--maxmemory-policy", "--stream-node-max-bytes"} <= set(kept)


@pytest.mark.parametrize(("chosen", "limit"), [("", str(memory_limit_bytes())), ("2gb", "2gb")])
@pytest.mark.parametrize("server", ["valkey-server", "redis-server"])
def test_redis_takes_the_part_of_the_memory_that_glowl_up_gives_it(
    tmp_path: Path, server: str, chosen: str, limit: str
) -> None:
    # Given an image of either server, which says what it is given
    start = tmp_path / server
    start.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    start.chmod(0o755)
    service = SERVICES["redis"]
    assert service["environment"] == {"GLOWL_REDIS_MAXMEMORY": ""}  # unless it is set

    # When the container begins
    argv = [word.replace("$$", "$") for word in (*service["entrypoint"], *shlex.split(service["command"]))]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GLOWL_REDIS_MAXMEMORY": chosen}
    given = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    # Then it is told a limit, behind everything else
    assert given == [*argv[4:], "--maxmemory", limit]


def test_processes_listen_where_the_others_look_for_them() -> None:
    for profile in PROFILES:
        services = in_profile(profile)
        hosts: dict[str, Service] = {}
        for name, service in services.items():
            aliases = service.get("networks", {}).get("default", {}).get("aliases", [])
            hosts |= dict.fromkeys([name, *aliases], service)
        for name in ("api", "worker", "worker-owl2", "worker-light"):
            environment = services[name]["environment"]
            for engine in ENGINES:
                url = urlsplit(environment[f"GLOWL_{engine.upper()}_URL"])
                service = hosts[url.hostname or ""]
                if service not in OURS.values():
                    assert f"--host 0.0.0.0 --port {url.port}" in service["command"]
                    continue
                parameters = parameters_of(service)
                assert (parameters["name"], parameters["port"]) == (engine, url.port)
                assert parameters["host"] == "0.0.0.0"
            assert urlsplit(environment["REDIS_URL"]).hostname in hosts


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_the_service_reads(name: str) -> None:
    service = OURS[name]
    known = Settings.variables() | NOT_FOR_ROUTER if is_router(service) else ENGINE_VARIABLES
    assert set(service.get("environment", {})) <= known


@pytest.mark.parametrize("name", [name for name in OURS if name not in ROUTER])
def test_an_engine_gets_what_is_meant_for_it_and_no_secret_of_the_service(name: str) -> None:
    # Given a container that runs weights and code of others
    written = WRITTEN["services"][name]
    assert "env_file" not in written
    # Then what it takes from .env is named one by one
    adapters = set(ADAPTER_VARIABLES.values())
    assert set(written["environment"]) - adapters == ENGINE_VARIABLES - adapters
    assert written["environment"]["HF_TOKEN"] is None  # passed on only where it is set
    assert adapters & set(written["environment"]) == {ADAPTER_VARIABLES[name.split("-")[0]]}
    assert "--quantization ${" in written["command"]
    assert not set(written["environment"]) & {f"{name}_FILE" for name in Settings.variables()}
    for router in ROUTER:
        assert SERVICES[router]["environment"]["HF_TOKEN"] == ""


def test_the_users_own_settings_move_engines_but_not_what_other_services_rely_on() -> None:
    # Given that .env may set any variable, those that compose fixes are given where they win over it
    for name in ("api", "worker", "worker-owl2", "worker-light"):
        assert SERVICES[name]["env_file"] == [{"path": ".env", "required": False}]
        environment = WRITTEN["services"][name]["environment"]
        # And redis or an engine may be elsewhere; a shell's REDIS_URL is for others
        assert environment["REDIS_URL"] == "${GLOWL_REDIS_URL-redis://redis:6379/0}"
        assert environment["GLOWL_GLM_URL"] == "${GLOWL_GLM_URL:-http://glm:8101}"
        assert environment["GLOWL_OWL2_URL"] == "${GLOWL_OWL2_URL:-http://owl2:8102}"
    assert {"host": "0.0.0.0", "port": 8000}.items() <= parameters_of(SERVICES["api"]).items()


def test_every_service_has_a_health_check() -> None:
    assert [name for name, service in SERVICES.items() if not service.get("healthcheck", {}).get("test")] == []


@pytest.mark.parametrize("name", [name for name in OURS if not name.startswith("worker")])
def test_every_health_check_asks_a_route_that_exists(name: str, apps: dict[str, Starlette]) -> None:
    # Given a check by port and path
    [runner, script, port, path] = SERVICES[name]["healthcheck"]["test"]
    assert (runner, script) == ("CMD", "healthcheck")
    # Then it asks the port the command listens on, and a route of that process
    assert int(port) == parameters_of(SERVICES[name])["port"]
    assert answers(apps["api" if name == "api" else "engine"], path)


def test_a_wrong_route_would_be_noticed(apps: dict[str, Starlette]) -> None:
    assert not any(answers(app, "/health") for app in apps.values())


@pytest.mark.parametrize("name", ["worker", "worker-owl2", "worker-light"])
def test_a_workers_health_check_reads_the_file_the_worker_writes(name: str) -> None:
    worker = SERVICES[name]
    ready_file = parameters_of(worker)["ready_file"]
    assert worker["healthcheck"]["test"][1:3] == ["healthcheck", str(ready_file)]
    # Then it is where every user may write, and is gone with the container: no pid of an earlier life is believed
    assert str(ready_file.parent) in worker["tmpfs"]


def test_files_of_secrets_are_given_to_the_user_of_the_image() -> None:
    (uid,) = re.findall(r"useradd .*--uid (\d+) ", DOCKERFILE)
    assert f"-o {uid} " in (ROOT / "deploy/compose.secrets.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    "variable", ["GLOWL_API_KEYS", "GLOWL_JWT_SECRET", "GLOWL_API_KEYS_FILE", "GLOWL_JWT_SECRET_FILE"]
)
def test_only_the_api_gets_what_callers_are_known_by(variable: str) -> None:
    with_keys = {name for name, each in OURS.items() if each.get("env_file")}
    emptied = {name for name in with_keys if OURS[name]["environment"].get(variable) == ""}
    assert with_keys - emptied == {"api"}
    assert Settings(api_keys="").api_keys == ()  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("name", [name for name in SERVICES if not name.startswith(("api", "worker"))])
def test_what_holds_weights_or_data_gets_time_to_end(name: str) -> None:
    assert SERVICES[name]["stop_grace_period"] == "30s"


def test_a_health_check_costs_little_and_works_with_old_engines() -> None:
    for service in SERVICES.values():
        check = service["healthcheck"]
        assert "python" not in json.dumps(check["test"])
        assert check["interval"] in ("5s", "10s")
        # Docker before 25 does not start a container that has one; from 25 on it is 5 s where nothing is said.
        assert "start_interval" not in check
        # A worker on a busy machine may take minutes, and redis with a large file: after 90 s they were called broken.
        assert check["start_period"] in ("600s", "3600s")


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_has_few_rights_and_bounded_logs(name: str) -> None:
    service = SERVICES[name]
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges"])
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}
    # vLLM's image writes where it likes, and runs as root.
    if name != "glm-vllm":
        assert (service["read_only"], service["pids_limit"]) == (True, 4096)
        assert service["tmpfs"] == ["/tmp"]
    if service not in OURS.values() and name != "glm-vllm":
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


def test_one_service_of_each_profile_builds_each_image() -> None:
    for profile in PROFILES:
        built = [service["image"] for service in in_profile(profile).values() if "build" in service]
        used = {service["image"] for service in in_profile(profile).values() if service in OURS.values()}
        assert sorted(built) == sorted(used)


@pytest.mark.parametrize(
    "variable",
    [
        "BASE_IMAGE",
        "REDIS_IMAGE",
        "EDGE_IMAGE",
        "VLLM_IMAGE",
        "PROMETHEUS_IMAGE",
        "GRAFANA_IMAGE",
        "PIP_INDEX_URL",
        "TORCH_INDEX",
        "HF_ENDPOINT",
    ],
)
def test_everything_that_is_fetched_can_come_from_elsewhere(variable: str) -> None:
    assert f"${{{variable}" in (ROOT / "compose.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", OURS)
def test_memory_can_be_limited_and_that_of_the_router_is(name: str) -> None:
    assert SERVICES[name]["mem_limit"] == ("2g" if name in ROUTER else "0")


@pytest.mark.parametrize("ending", [".md", ".zh.md"])
def test_everything_that_env_may_say_is_in_the_docs(ending: str) -> None:
    files = [ROOT / "compose.yaml", *(ROOT / "deploy").glob("compose.*.yaml")]
    read = {name for file in files for name in re.findall(r"\$\{([A-Z0-9_]+)", file.read_text("utf-8"))}
    pages = [(ROOT / "docs" / f"{page}{ending}").read_text("utf-8") for page in ("deployment", "settings", "metrics")]
    assert read - set(re.findall(r"[A-Z0-9_]+", " ".join(pages))) == set()


@pytest.mark.parametrize("profile", PROFILES)
def test_services_start_after_healthy_ones_of_the_same_profile(profile: str) -> None:
    services = in_profile(profile)
    waits = {name: service["depends_on"] for name, service in services.items() if "depends_on" in service}
    assert set(waits) == {"api", "worker", "worker-owl2", "worker-light"}
    for dependencies in waits.values():
        assert dependencies == {"redis": {"condition": "service_healthy"}}
        assert all(services[name]["healthcheck"] for name in dependencies)


def test_vllm_is_started_with_what_our_client_needs_of_it() -> None:
    # Given vLLM in the place of our GLM engine
    service = SERVICES["glm-vllm"]
    words = shlex.split(service["command"])

    # Then it tells reasoning and calls from answers, is asked for its health, and serves the model of our engine
    assert words[words.index("--reasoning-parser") + 1] == "glm45"
    assert words[words.index("--tool-call-parser") + 1] == "glm45"
    assert "--enable-auto-tool-choice" in words, "else vLLM refuses functions whose choice is left to the model"
    assert service["healthcheck"]["test"][-2:] == [words[words.index("--port") + 1], "/health"]
    assert "./deploy/healthcheck.sh:/usr/local/bin/healthcheck:ro" in service["volumes"]
    assert words[0] == shlex.split(SERVICES["glm-gpu"]["command"])[3]
    # And what it compiled for the GPU is kept, beside the weights that earlier versions of this file kept alone
    assert {"vllm-cache:/root/.cache", "vllm-models:/root/.cache/huggingface"} <= set(service["volumes"])


def test_gpus_are_reserved_in_the_profiles_of_gpus_only() -> None:
    reserving = {name for name, service in SERVICES.items() if "devices" in json.dumps(service.get("deploy", {}))}
    assert reserving == {"glm-gpu", "glm-vllm", "owl2-gpu"}
    assert all({"gpu", "gpu-own", "vllm"} >= set(SERVICES[name]["profiles"]) for name in reserving)
    assert {SERVICES[name]["profiles"][0] for name in ENGINES} == {"cpu"}


def test_only_the_api_is_published_and_only_to_this_machine() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports.pop("grafana") == ["127.0.0.1:3000:3000"]
    assert ports == {"api": ["127.0.0.1:8000:8000"], "edge": ["127.0.0.1:8080:8080"]}
    assert SERVICES["edge"]["profiles"] == ["edge"]
    # And nginx is opened to others by the variable that makes the api ask for keys
    written = WRITTEN["services"]
    assert all(written[name]["ports"][0].startswith("${GLOWL_PUBLISHED_ON:-127.0.0.1}:") for name in ports)
    # And what Prometheus knows, to nobody: Grafana asks for no password
    assert written["grafana"]["ports"] == ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]
    assert {SERVICES[name]["profiles"][0] for name in ("grafana", "prometheus")} == {"metrics"}
    assert all(service.get("network_mode") is None for service in SERVICES.values())


def test_redis_keeps_what_it_acknowledged_in_a_volume() -> None:
    command = shlex.split(SERVICES["redis"]["command"])
    options = dict(zip(command[::2], command[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def test_what_an_api_writes_is_on_volumes_of_the_images_user(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [volume.partition(":")[2] for volume in SERVICES["api"]["volumes"]]
    monkeypatch.setenv("HOME", "/home/glowl")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    settings = Settings()
    assert [str(settings.audit_dir), str(settings.loop_dir)] == folders
    # A new volume takes over the owner of the folder in the image.
    made = " ".join(folder.removeprefix("/home/glowl/") for folder in folders)
    assert f"cd /home/glowl && mkdir -p {made} && chown -R glowl .local" in DOCKERFILE


def test_named_volumes_are_declared_and_used() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    files = {name for name in used if name.startswith("./")}
    assert used - files == set(COMPOSE["volumes"])
    assert all((ROOT / name).exists() for name in files)


def test_images_are_built_from_targets_and_arguments_that_exist() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert "BASE_IMAGE" in arguments
    for service in (each for each in OURS.values() if "build" in each):
        assert service["build"]["target"] in targets
        assert set(service["build"].get("args", {})) <= arguments
        assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_the_images_own_commands_exist_and_run_as_an_ordinary_user(apps: dict[str, Starlette]) -> None:
    targets = {service["build"]["target"] for service in OURS.values() if "build" in service}
    stages = [each for each in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:] if each.split()[2] in targets]
    assert len(stages) == len(targets)
    for stage in stages:
        (command,) = re.findall(r"^CMD (\[.*\])$", stage, re.MULTILINE)
        assert parse_command(json.loads(command))
        assert 'ENTRYPOINT ["glowl"]' in stage
        # Then the last user is not root
        assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1:] == ["glowl"]
    (checked,) = re.findall(r'CMD \["healthcheck", "8000", "(/\w+)"\]', DOCKERFILE)
    assert answers(apps["api"], checked)


def test_everything_the_images_copy_exists_and_is_in_the_build_context() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_workers_together_take_every_queue_once() -> None:
    lists = [parameters_of(SERVICES[name])["queues"] for name in ("worker", "worker-owl2", "worker-light")]
    taken = [queue for names in lists for queue in names.split(",")]

    assert sorted(queue_name(queue) for queue in taken) == sorted(QUEUES)


def test_whatever_waits_for_an_engine_shares_no_worker_with_anything_else() -> None:
    in_compose = [parameters_of(service)["queues"] for name, service in SERVICES.items() if name.startswith("worker")]
    for queues in (in_compose, list(WORKERS.values())):
        assert sorted(queues) == ["glm", "light,webhooks", "owl2"]


def compose_config(*arguments: str, **env: str) -> dict[str, Any]:
    """What docker compose itself makes of the files; without it the test skips."""
    command = ["docker", "compose"]
    has_compose = shutil.which("docker") and not subprocess.run([*command, "version"], capture_output=True).returncode
    if not has_compose:
        pytest.skip("no docker compose here: nobody else reads the files just as it does")
    own = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    done = subprocess.run(
        [*command, *arguments, "config", "--format", "json"],
        cwd=ROOT,
        env={**own, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


@pytest.mark.parametrize("profile", PROFILES)
def test_docker_compose_accepts_every_profile(profile: str) -> None:
    config = compose_config("--profile", profile, "--profile", "edge")

    assert set(config["services"]) == {*in_profile(profile), "edge"}


def test_docker_compose_accepts_what_env_may_say() -> None:
    env = {"EDGE_CERTS": "/certificates", "GLM_MEMORY": "3g", "HF_TOKEN": "hf", "GLM_QUANTIZATION": "int8"}
    services = compose_config("--profile", "cpu", "--profile", "edge", **env)["services"]

    assert {"source": "/certificates", "target": "/certs"}.items() <= services["edge"]["volumes"][1].items()
    assert services["glm"]["mem_limit"] == str(3 * 2**30)
    assert services["glm"]["environment"]["HF_TOKEN"] == "hf"
    assert services["api"]["environment"]["HF_TOKEN"] == ""
    assert (
        "HF_HUB_OFFLINE" not in services["glm"]["environment"]
        or services["glm"]["environment"]["HF_HUB_OFFLINE"] is None
    )
    assert services["glm"]["command"][4:6] == ["--quantization", "int8"]
    assert "mem_limit" not in services["owl2"]


def test_how_many_containers_there_are_is_said_once_and_for_every_up() -> None:
    # With --scale, the next `up` without it would undo it: one api, or a redis and a GLM that nobody asked for.
    files = ("-f", "compose.yaml", "-f", "deploy/compose.edge.yaml")
    for profile in PROFILES:
        services = compose_config(*files, "--profile", profile)["services"]
        assert {name: service["scale"] for name, service in services.items() if service.get("scale", 1) != 1} == {
            "api": 2
        }
        elsewhere = {"API_REPLICAS": "3", "REDIS_REPLICAS": "0", "GLM_REPLICAS": "0"}
        services = compose_config(*files, "--profile", profile, **elsewhere)["services"]
        (glm,) = [name for name in services if name.startswith("glm")]
        assert (services["api"]["scale"], services["redis"]["scale"], services[glm]["scale"]) == (3, 0, 0)


def test_nginx_has_the_apis_limits_of_a_body() -> None:
    limits = {name: str(getattr(Settings(), name.lower())) for name in ("MAX_BODY_BYTES", "MAX_FILE_BYTES")}
    # Given as .env says, or as the api has them without it, in compose.yaml and for who starts it by hand
    start = (ROOT / "deploy/nginx/start.sh").read_text("utf-8")
    for name, value in limits.items():
        assert SERVICES["edge"]["environment"][f"GLOWL_{name}"] == value
        assert f"${{GLOWL_{name}:-{value}}}" in start


def test_a_proxy_waits_longer_than_the_longest_answer_and_passes_events_on() -> None:
    nginx = (ROOT / "deploy/nginx/nginx.conf").read_text("utf-8")
    said = dict(re.findall(r"^ *(proxy_\w+) ([^ ;]+);", nginx, re.MULTILINE))
    ingress = yaml.safe_load((ROOT / "deploy/kubernetes/ingress/ingress.yaml").read_text("utf-8"))
    noted = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    for read_timeout in (said["proxy_read_timeout"], noted["proxy-read-timeout"]):
        hours, seconds = re.fullmatch(r"(?:(\d+)h|(\d+))", read_timeout).groups()  # type: ignore[union-attr]
        assert int(hours or 0) * 3600 + int(seconds or 0) > Settings().answer_timeout_s
    assert (said["proxy_buffering"], said["proxy_request_buffering"]) == ("off", "off")
    assert (noted["proxy-buffering"], noted["proxy-request-buffering"]) == ("off", "off")
    assert int(noted["proxy-body-size"].removesuffix("m")) * 1024**2 > Settings().max_file_bytes


def test_an_overriding_file_may_harden_what_is_hardened(tmp_path: Path) -> None:
    own = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "tmpfs": ["/tmp", "/x"]}
    names = ("redis", "worker", "glm")
    (tmp_path / "own.yaml").write_text(json.dumps({"services": dict.fromkeys(names, own)}))
    services = compose_config("-f", "compose.yaml", "-f", str(tmp_path / "own.yaml"), "--profile", "cpu")["services"]

    assert all(services[name]["tmpfs"] == ["/tmp", "/x"] for name in names)


def test_with_the_edge_file_only_nginx_is_published() -> None:
    files = ("-f", "compose.yaml", "-f", "deploy/compose.edge.yaml")
    services = compose_config(*files, "--profile", "cpu", "--profile", "edge")["services"]

    assert [name for name, service in services.items() if service.get("ports")] == ["edge"]
    proxies = services["api"]["environment"]["GLOWL_TRUSTED_PROXIES"]
    assert len(Settings(trusted_proxies=proxies).trusted_proxies) == 4  # type: ignore[arg-type]


def test_with_the_secrets_file_the_workers_still_know_no_callers() -> None:
    files = ("-f", "compose.yaml", "-f", "deploy/compose.secrets.yaml")
    config = compose_config(*files, "--profile", "cpu")
    given = {name: {each["source"] for each in config["services"][name]["secrets"]} for name in ROUTER}

    assert given["api"] == set(config["secrets"])
    for name in ROUTER:
        environment = config["services"][name]["environment"]
        read = {key for key, value in environment.items() if value.startswith("/run/secrets/")}
        assert {f"{secret.upper()}_FILE" for secret in given[name]} == {each.removeprefix("GLOWL_") for each in read}
        assert read <= Settings.variables()
    assert all(given[name] == {"webhook_secret", "glm_api_key", "redis_url"} for name in ROUTER if name != "api")
