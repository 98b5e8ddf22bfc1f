"""The processes of `glowl up`: which there are, with which command, environment and secrets.

In: settings, the data folder, the weights. Out: a `ProcessSpec` each, in the order in which they are shown.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engines.logs import chosen
from engines.memory import USABLE_SHARE
from router.cli import models, secrets
from router.cli.common import Language, fail
from router.cli.data_folder import Layout
from router.cli.net import LOOPBACK, Address, base_url, local_address
from router.cli.probes import (
    ALIVE_TIMEOUT_S,
    answers,
    answers_ok,
    answers_ping,
    file_names_pid,
    is_touched,
    replies_at,
)
from router.cli.processes import adapters_of, engine_argv
from router.cli.redis_check import look_at
from router.cli.redis_server import RedisMissingError, find_redis, redis_argv, redis_url
from router.cli.supervision import ProcessSpec
from router.cli.vllm import ENVIRONMENT, vllm_argv
from router.variable_files import read_file

if TYPE_CHECKING:
    from router.settings import Settings

UI_PORT = 7860
UP_DRAIN_S = 2.0
# It ends its own helper processes first.
VLLM_STOP_TIMEOUT_S = 20.0
# From the end of the drain to the end of the process: webhooks under way, and closing down.
STOP_MARGIN_S = 8.0
# One worker per engine: an engine that hangs blocks its own worker only.
WORKERS = {"worker": "glm", "worker-owl2": "owl2", "worker-light": "light,webhooks"}
# -P: a folder named `router` in the user's current directory must not shadow ours.
_GLOWL = (sys.executable, "-P", "-m", "router.cli")


def build_specs(
    settings: Settings,
    layout: Layout,
    plan: models.ModelPlan,
    *,
    language: Language,
    quantization: str | None = None,
    vllm: Path | None = None,
) -> list[ProcessSpec]:
    """Turn settings into the processes to run, in the order in which they are shown.

    Args:
        settings: of all processes.
        layout: of the data folder.
        plan: what the engines load.
        language: of a refusal.
        quantization: for both engines.
        vllm: the program that serves GLM; None for our own engine.

    Raises:
        typer.Exit: after one line, if there is no redis to be had.
    """
    url_of_redis, specs = _redis_specs(layout, language)
    is_in_file = url_of_redis == read_file("REDIS_URL", os.environ)
    elsewhere = settings.named_engines
    addresses = {
        name: local_address(layout.run_dir / f"{name}.sock") for name in models.ENGINE_NAMES if name not in elsewhere
    }
    for name, address in addresses.items():
        if name == "glm" and vllm is not None:
            is_alone = len(plan.gpus) >= 2 or "owl2" not in addresses
            specs.append(_vllm_spec(vllm_argv(vllm, address, plan, is_alone=is_alone), address))
        else:
            specs.append(_engine_spec(name, address, settings, plan, quantization))
    # Short, since the user waits after Ctrl-C; units handed back run at the next start.
    is_set = settings.model_fields_set
    drain_s = settings.drain_s if "drain_s" in is_set else UP_DRAIN_S
    notice_s = settings.drain_notice_s if "drain_notice_s" in is_set else 0.0
    env = {
        # Whoever keeps it in a file wants it in no environment; the processes read that file themselves.
        "REDIS_URL": "" if is_in_file else url_of_redis,
        "GLOWL_GLM_URL": addresses["glm"].url if "glm" in addresses else settings.glm_url,
        "GLOWL_OWL2_URL": addresses["owl2"].url if "owl2" in addresses else settings.owl2_url,
        "GLOWL_DATA_DIR": str(layout.data_dir),
        "GLOWL_HOST": settings.host,
        "GLOWL_PORT": str(settings.port),
        "GLOWL_INSECURE": str(settings.insecure).lower(),
        "GLOWL_UI_PORT": str(settings.ui_port),
        "GLOWL_DRAIN_S": f"{drain_s:g}",
        "GLOWL_DRAIN_NOTICE_S": f"{notice_s:g}",
        # Their logs are files, which whoever sits at this terminal may look at.
        "GLOWL_LOG_FORMAT": chosen(settings.log_format),
    }
    stop_timeout_s = drain_s + notice_s + STOP_MARGIN_S
    specs += [_worker_spec(name, layout.worker_ready(name), env, stop_timeout_s) for name in WORKERS]
    api_url = base_url(settings.host, settings.port)
    specs.append(
        ProcessSpec(
            "api",
            (*_GLOWL, "api"),
            is_ready=answers_ok(api_url, "/healthz"),
            is_alive=answers(api_url, "/healthz"),
            env=env,
            inherits=secrets.is_for_api,
            layer=3,
            stop_timeout_s=stop_timeout_s,
        )
    )
    return specs


def _redis_specs(layout: Layout, language: Language) -> tuple[str, list[ProcessSpec]]:
    """The URL of the redis to use, and the process that serves it unless it is the user's own."""
    try:
        redis = find_redis()
    except RedisMissingError as error:
        fail(error.text.of(language))
    if redis.binary is None:
        found = asyncio.run(look_at(redis.url))
        if found.problem:
            fail(f"REDIS_URL: {found.say(redis.url, language)}")
        return redis.url, []
    address = local_address(layout.run_dir / "redis.sock")
    url = redis_url(address)
    spec = ProcessSpec(
        name="redis",
        argv=redis_argv(redis.binary, address, layout.redis_dir),
        is_ready=answers_ping(url),
        is_alive=replies_at(url),
        inherits=secrets.is_for_other,
        layer=0,
        # It writes its file out on SIGTERM; nothing else may cut that short.
        death_signal=signal.SIGTERM,
    )
    return url, [spec]


def _engine_spec(
    name: str, address: Address, settings: Settings, plan: models.ModelPlan, quantization: str | None
) -> ProcessSpec:
    listen: dict[str, str | int | Path | None] = (
        {"uds": address.uds} if address.uds is not None else {"host": LOOPBACK, "port": address.port}
    )
    argv = engine_argv(
        name,
        model=plan.models[name],
        device=plan.devices.get(name),
        gpu_share=str(USABLE_SHARE) if name in plan.devices else None,  # a GPU of its own
        quantization=quantization,
        adapter=adapters_of(name, settings),
        log_level=settings.log_level_of(name).lower(),
        log_format=chosen(settings.log_format),
        **listen,
    )
    return ProcessSpec(
        name,
        tuple(argv),
        is_ready=answers_ok(address.url, "/readyz"),
        # An engine that was ready and is not any more is stuck: no thread that decodes pictures comes back.
        is_alive=answers_ok(address.url, "/readyz", timeout_s=ALIVE_TIMEOUT_S),
        inherits=secrets.is_for_engine,
    )


def _vllm_spec(argv: tuple[str, ...], address: Address) -> ProcessSpec:
    return ProcessSpec(
        "glm",
        argv,
        is_ready=answers_ok(address.url, "/health"),
        is_alive=answers(address.url, "/health"),
        env=ENVIRONMENT,
        inherits=secrets.is_for_engine,
        stop_timeout_s=VLLM_STOP_TIMEOUT_S,
    )


def _worker_spec(name: str, ready: Path, env: dict[str, str], stop_timeout_s: float) -> ProcessSpec:
    return ProcessSpec(
        name,
        (*_GLOWL, "worker", "--queues", WORKERS[name], "--ready-file", str(ready)),
        is_ready=file_names_pid(ready),
        is_alive=is_touched(ready),
        env=env,
        inherits=secrets.is_for_worker,
        layer=2,
        stop_timeout_s=stop_timeout_s,
    )
