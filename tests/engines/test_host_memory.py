"""Memory: the machine's, or that of the container or unit whose limit is lower."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.host_memory import available_bytes, total_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
FILES = {
    1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    2: ("memory.max", "memory.current", "memory.stat", "inactive_file"),
}


def write(folder: Path, version: int, limit: str, used: int = 0, reclaimable: int | None = None) -> None:
    names = FILES[version]
    (folder / names[0]).parent.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    if reclaimable is not None:
        (folder / names[2]).write_text(f"cache 5\n{names[3]} {reclaimable}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 2000 kB\nMemFree: 1 kB\nMemAvailable: 1000 kB\nodd line\n")
    return proc


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path, proc: Path, version: int) -> None:
    cgroup = tmp_path / "cgroup"
    assert (total_bytes(proc, cgroup), available_bytes(proc, cgroup)) == (MACHINE, 1_024_000)

    write(cgroup, version, "500000", used=300_000)
    assert (total_bytes(proc, cgroup), available_bytes(proc, cgroup)) == (500_000, 200_000)
    # Files that were read, as weights are, take no memory that cannot be had
    write(cgroup, version, "500000", used=300_000, reclaimable=100_000)
    assert available_bytes(proc, cgroup) == 300_000
    write(cgroup, version, "200000", used=300_000)
    assert available_bytes(proc, cgroup) == 0


@pytest.mark.parametrize(("version", "none"), [(1, "9223372036854771712"), (2, "max")])
def test_no_limit_is_the_machines_memory(tmp_path: Path, proc: Path, version: int, none: str) -> None:
    write(tmp_path, version, none, used=10**6)

    assert (total_bytes(proc, tmp_path), available_bytes(proc, tmp_path)) == (MACHINE, 1_024_000)


@pytest.mark.parametrize(
    ("version", "line", "group"),
    [(2, "0::/system.slice/glm.service", "{}"), (1, "9:cpu:/other\n4:memory:/system.slice/glm.service", "memory/{}")],
    ids=["version 2", "version 1"],
)
def test_a_units_limit_counts_and_that_of_its_slice(
    tmp_path: Path, proc: Path, version: int, line: str, group: str
) -> None:
    # Given a systemd unit, which sees the machine's groups from their root
    (proc / "self/cgroup").write_text(line + "\n")
    cgroup = tmp_path / "cgroup"
    for path, limit in (("system.slice", "700000"), ("system.slice/glm.service", "600000")):
        folder = cgroup / group.format(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(FILES[version][0]).name).write_text(limit)
    assert total_bytes(proc, cgroup) == 600_000

    # When the slice has less than the unit
    (cgroup / group.format("system.slice") / Path(FILES[version][0]).name).write_text("1000")

    # Then that counts
    assert total_bytes(proc, cgroup) == 1000


def test_without_tables_or_with_a_group_of_another_namespace_the_machine_answers(tmp_path: Path, proc: Path) -> None:
    (proc / "self/cgroup").write_text("0::/../../elsewhere\nodd\n")
    write(tmp_path / "elsewhere", 2, "1000")

    assert total_bytes(proc, tmp_path / "cgroup/inner") == MACHINE
    assert available_bytes(tmp_path / "none", tmp_path / "none") == MACHINE // 2
    assert 10**8 < available_bytes() <= total_bytes()
