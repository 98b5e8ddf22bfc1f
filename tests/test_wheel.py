"""The built wheel: all that the product reads at run time is in it, and nothing that only a checkout needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("router", "engines", "policies")
# What setuptools reads, and every folder that it could take for a package.
SOURCES = (*PACKAGES, "training", "tests", "benchmarks", "docs", "deploy", "pyproject.toml", "README.md", "LICENSE")
# A distribution of its own, see engines/owl2_vllm/pyproject.toml.
APART = "engines/owl2_vllm/"
# 10.7 MB when this was written: 7 MB are weights, which do not compress.
MAX_WHEEL_BYTES = 12_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as pip does, without its isolation: through links, so that no build folder is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        (folder / name).symlink_to(ROOT / name)
    program = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "dist").glob("*.whl")
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    # Given all files of the three packages, but caches and the pages that explain a folder to its developers
    wanted = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    pages = {name for name in wanted if name.endswith("README.md") and "/weights/" not in name}
    wanted = {name for name in wanted if not name.startswith(APART)}

    # When they are looked for in the wheel, then none is missing: a new kind of data file has to be declared
    assert wanted - pages - names(wheel) == set()


def test_what_is_a_distribution_of_its_own_is_not_in_the_wheel(wheel: Path) -> None:
    assert [name for name in names(wheel) if name.startswith(APART)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "router/py.typed",
        "engines/py.typed",
        "policies/py.typed",
        "engines/pocket/weights/*/model.safetensors",
        "engines/pocket/samples/*.png",
        "engines/pocket/fonts/*.otf",
        "engines/pocket/random_tiny.py",
        "policies/presets/seed.yaml",
        "router/templates/*.json",
        "*.dist-info/licenses/LICENSE",
    ],
)
def test_what_users_need_is_there(wheel: Path, pattern: str) -> None:
    assert any(Path(name).match(pattern) for name in names(wheel))


def test_nothing_else_is_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
        declared = next(name for name in archive.namelist() if name.endswith("top_level.txt"))
        assert set(archive.read(declared).decode().split()) == set(PACKAGES)
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
