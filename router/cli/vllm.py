"""Whether `glowl up` runs GLM on vLLM, and with which command.

In: ``GLOWL_VLLM``, what this machine has, the weights. Out: the program, after one line that says what was chosen; its
arguments. vLLM may be installed in an environment of its own: it is another process, found by its path.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engines.memory import PUBLISHED_CONFIGS, USABLE_SHARE, ModelShape, gpu_share, read_shape
from router.cli import models
from router.cli.common import Language, fail
from router.cli.net import LOOPBACK, Address
from router.cli.texts import say

if TYPE_CHECKING:
    from router.settings import Settings

MAX_CONTEXT_TOKENS = 32768
# It reports to its makers what it runs on, unless it is told not to; and its weights are in a folder.
ENVIRONMENT = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def choose_vllm(
    settings: Settings, plan: models.ModelPlan, language: Language, *, quantization: str | None
) -> Path | None:
    """The `vllm` program to run GLM with; None for our own engine, after one line if that costs something.

    Raises:
        typer.Exit: after one line, if ``GLOWL_VLLM`` names no program.
    """
    model = plan.models.get("glm")
    if settings.vllm == "off" or "glm" in settings.named_engines or model is None or not _is_real(Path(model)):
        return None
    program = _find(settings.vllm, language)
    if not plan.gpus:
        if program is not None:
            typer.echo(say("up.vllm.no_gpu", language))
        return None
    if program is None:
        typer.echo(say("up.vllm.missing", language))
        return None
    # Neither is known of vLLM before minutes have gone: which quantizations it can, and how large adapters may be.
    for option, is_given in (("--quantization", quantization not in (None, "none")), *_adapters(settings)):
        if is_given:
            typer.echo(say("up.vllm.own", language, option=option))
            return None
    typer.echo(say("up.vllm.used", language, program=program))
    return program


def _adapters(settings: Settings) -> tuple[tuple[str, bool]]:
    return (("GLOWL_GLM_ADAPTERS", bool(settings.glm_adapters)),)


def _is_real(folder: Path) -> bool:
    return folder.is_dir() and models.read_variant(folder) == "full"


def _find(setting: str, language: Language) -> Path | None:
    if setting != "auto":
        named = shutil.which(Path(setting).expanduser())
        if named is None:
            fail(say("up.vllm.nowhere", language, program=setting), code=2)
        return Path(named).absolute()
    beside = Path(sys.executable).with_name("vllm")
    found = shutil.which("vllm") or (str(beside) if beside.is_file() else None)
    return None if found is None else Path(found).absolute()


def vllm_argv(program: Path, address: Address, plan: models.ModelPlan, *, is_alone: bool) -> tuple[str, ...]:
    """The command that serves GLM.

    Args:
        program: as `choose_vllm` found it.
        address: where to listen.
        plan: with GLM's folder.
        is_alone: whether no other engine is on the same GPU.
    """
    listen = ("--host", LOOPBACK, "--port", str(address.port)) if address.uds is None else ("--uds", str(address.uds))
    name = plan.shown.get("glm", "glm-4.6v-flash").partition("@")[0]
    return (
        *(str(program), "serve", plan.models["glm"], "--served-model-name", name),
        *("--reasoning-parser", "glm45", "--enable-auto-tool-choice", "--tool-call-parser", "glm45"),
        *("--max-model-len", str(MAX_CONTEXT_TOKENS)),
        *("--gpu-memory-utilization", _share(plan, is_alone=is_alone), *listen),
    )


def _share(plan: models.ModelPlan, *, is_alone: bool) -> str:
    """Say how much of its GPU vLLM takes: what our own engine would, so that Owl2's beside it has its part."""
    if is_alone or not plan.gpus:
        share = USABLE_SHARE
    else:
        share = gpu_share("glm", _shape(Path(plan.models["glm"])), plan.gpus[0][1])
    return f"{math.floor(share * 100) / 100:.2f}"


def _shape(folder: Path) -> ModelShape:
    try:
        return read_shape(json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError):  # vLLM will say what is wrong with it
        return read_shape(PUBLISHED_CONFIGS["glm"])
