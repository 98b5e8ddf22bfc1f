"""deploy/Dockerfile: a linter's setting, or what developers install, is no reason to install torch again."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("awk") is None, reason="awk is missing")
def test_dependencies_are_installed_by_the_metadata_alone() -> None:
    (program,) = re.findall(r"^RUN awk '(.+)' ", (ROOT / "deploy/Dockerfile").read_text("utf-8"), re.MULTILINE)
    done = subprocess.run(["awk", program, "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, whole = tomllib.loads(done.stdout), tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(kept["tool"]) == {"setuptools"}
    tools = whole.pop("tool")
    assert kept.pop("tool") == {"setuptools": tools["setuptools"]}
    del whole["project"]["optional-dependencies"]["dev"]
    assert kept == whole
    assert [line for line in done.stdout.splitlines() if line.startswith("#")] == []


def test_the_engines_image_has_what_their_settings_ask_for() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    installed = {
        stage.split()[0]: set(
            re.findall(r"^RUN pip install .*'\.\[([a-z,0-9]+)\]'$", stage, re.MULTILINE)[0].split(",")
        )
        for stage in re.split(r"^FROM base AS ", text, flags=re.MULTILINE)[1:]
    }
    # GLM_QUANTIZATION and OWL2_QUANTIZATION, GLOWL_GLM_ADAPTERS and GLOWL_OWL2_ADAPTERS, OTEL_EXPORTER_OTLP_ENDPOINT
    assert installed == {"api": {"otel"}, "engine": {"engines", "quant", "adapters", "otel"}}
